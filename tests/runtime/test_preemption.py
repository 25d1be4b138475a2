"""A request to end: it is announced once, and all stop after the same call, the first that none has made."""

import os

import pytest

from transfer.runtime import preemption


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No request so far, no other processes, no calls; and so it is again afterwards."""
    monkeypatch.setattr(preemption, "_requested", preemption.threading.Event())
    monkeypatch.setattr(preemption, "_announce", None)
    monkeypatch.setattr(preemption, "_calls", 0)
    monkeypatch.setattr(preemption, "_last_call", preemption.math.inf)


def test_alone_it_stops_where_it_is_asked():
    assert not preemption.requested() and not preemption.stop_at(1)
    preemption.request()
    assert preemption.requested() and preemption.stop_at(1)


def test_a_signal_says_one_line_and_asks_all_once(monkeypatch):
    lines, announced = [], []
    monkeypatch.setattr(os, "write", lambda stream, line: lines.append((stream, line)))
    preemption.announce_by(lambda: announced.append("now"))
    assert not announced
    for _ in range(2):
        preemption._on_signal(15, None)
    assert lines == [(2, b"SIGTERM: finishing this step and saving, then the end\n")] and announced == ["now"]
    preemption.announce_by(lambda: announced.append("later"))  # it came before the others were there
    assert announced == ["now", "later"]


@pytest.mark.parametrize(("others", "last"), [([3], 4), ([1, 5, 3], 6), ([3, 0], 4)])
def test_all_stop_at_the_first_call_that_none_has_made(others, last):
    """This process has made three calls, the others so many, and the same call is the last of all."""
    preemption.announce_by(lambda: None)
    assert not any(preemption.stop_at(step) for step in range(3))
    given = []
    preemption.follow_remote_request(lambda calls: given.append(calls) or others)
    assert given == [3] and preemption.requested()
    assert [preemption.stop_at(0) for _ in range(4, last + 2)] == [False] * (last - 4) + [True, True]


def test_what_is_asked_for_ends_with_75():
    assert preemption.Preempted().exit_code == preemption.EXIT_PREEMPTED == os.EX_TEMPFAIL == 75
    assert str(preemption.Preempted()) == (
        "stopped on request, everything is saved; run the same command again to continue"
    )
