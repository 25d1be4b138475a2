"""Contenders take turns; a sample is what a call took."""

import time

import pytest

from transfer.runtime.timing import interleaved, median_p10_p90, median_ratio, seconds_per_call


def test_everyone_once_a_round_and_another_first_each_time():
    called = []
    contenders = {name: (lambda name=name: called.append(name)) for name in "abc"}
    rounds = []
    samples = interleaved(contenders, rounds=4, warmup=1, seconds=0, on_round=rounds.append)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(each) for name, each in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert rounds == [1, 2, 3, 4]


def test_a_sample_goes_on_for_so_long():
    calls = []
    mean = seconds_per_call(lambda: (calls.append(0), time.sleep(0.002)), 0.05)
    assert 1 < len(calls) <= 25
    assert mean >= 0.002


def test_a_sample_is_the_mean_of_its_calls(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    calls = []

    def call():
        calls.append(0)
        now[0] += 0.25

    assert seconds_per_call(call, 1.0) == 0.25 and len(calls) == 4
    assert seconds_per_call(call, 0) == 0.25 and len(calls) == 5
    assert interleaved({"call": call}, 2, warmup=0, seconds=0.5) == {"call": [0.25, 0.25]} and len(calls) == 9


def test_who_times_itself_is_believed():
    class Elsewhere:
        asked = ()

        def __call__(self):
            raise AssertionError("asked to call where it should have been asked for the time")

        def timed(self, seconds):
            self.asked = (*self.asked, seconds)
            return 7.0

    contender = Elsewhere()
    assert interleaved({"elsewhere": contender}, rounds=2, warmup=0, seconds=0.5) == {"elsewhere": [7.0, 7.0]}
    assert contender.asked == (0.5, 0.5)


def test_no_contenders():
    assert interleaved({}, 3, 1, 1.0) == {}


def test_ratio_is_taken_within_a_round():
    # the machine slowed down threefold in the second round, for both
    assert median_ratio([1.0, 3.0, 1.0], [2.0, 6.0, 2.2]) == 2.0


def test_percentiles_lie_between_samples():
    assert median_p10_p90([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 1.4, 4.6))
