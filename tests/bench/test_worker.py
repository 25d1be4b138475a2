"""A contender's process: reports, times itself, and ends with a reason whatever happens in it."""

import math

import pytest

from transfer.bench.worker import Several, Skipped, Worker


@pytest.fixture
def start():
    """Starts a contender of `builders.py`, and ends it with the test."""
    running = []

    def started(name, case=0.0):
        running.append(Worker(f"bench.builders:{name}", case))
        return running[-1]

    yield started
    for worker in running:
        worker.close()


def test_times_itself(start):
    worker = start("sleeper", 0.02)
    assert worker.report == {"slept": 0.02}
    worker()
    assert 0.02 <= worker.timed(0.1) < 1


def test_ends_when_it_is_closed(start):
    worker = start("sleeper")
    worker.close()
    assert math.isnan(worker.timed(0)) and "ended" in worker.failed


@pytest.mark.parametrize(
    "builder, reason",
    [
        ("refuses", "^no case here$"),
        ("raises", "^RuntimeError: first line of case second line$"),
        ("lacks_a_package", "^no_such_package cannot be imported$"),
        ("dies", "^its process ended with exit code 7$"),
    ],
)
def test_why_a_contender_cannot_be_built(start, builder, reason):
    with pytest.raises(Skipped, match=reason):
        start(builder, "case")


@pytest.mark.parametrize(
    "builder, reason", [("dies_later", "ended with exit code 7"), ("fails_later", "MemoryError: no room")]
)
def test_why_a_contender_failed_on_the_way(start, builder, reason):
    worker = start(builder)
    worker()
    assert reason in worker.failed and math.isnan(worker.timed(0))


def test_a_thing_done_several_times_a_call_is_timed_for_once():
    class Call:
        calls = 0

        def __call__(self):
            self.calls += 1

        def timed(self, seconds):
            return seconds + 8.0

    call = Call()
    several = Several(call, 4, skip=3)
    several()
    assert call.calls == 1 and several.timed(2.0) == 2.5 and call.calls == 4
