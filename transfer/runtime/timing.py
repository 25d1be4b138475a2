"""Times several ways to do one thing side by side, so that changes in a shared machine's load affect all of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Timed(Protocol):
    """A contender that times itself: another process, whose calls should not count the way there."""

    def timed(self, seconds: float) -> float:
        """Calls for at least so many seconds, one call at least; returns the seconds per call."""
        ...


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """The mean duration of a call, which blocks until its work is done; over at least `seconds` and one call."""
    if isinstance(call, Timed):
        return call.timed(seconds)
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return passed / calls


def interleaved(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int,
    seconds: float,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Times every contender once a round; the order is rotated by one from round to round.

    Args:
      contenders: name -> what to time; it blocks until its work is done. One with a `timed` times itself.
      rounds: samples of each.
      warmup: calls of each beforehand, not counted.
      seconds: a sample goes on for so long, one call at least.
      on_round: called after each round with the number of rounds done.

    Returns:
      name -> seconds per call, one figure a round.
    """
    for call in contenders.values():
        for _ in range(warmup):
            call()
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for done in range(rounds):
        first = done % len(names) if names else 0
        for name in names[first:] + names[:first]:
            samples[name].append(seconds_per_call(contenders[name], seconds))
        on_round(done + 1)
    return samples


def median_p10_p90(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median and the 10th and 90th percentiles, linear between samples, as NumPy's."""
    middle, low, high = np.percentile(samples, (50, 10, 90))
    return float(middle), float(low), float(high)


def spread(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Contender -> the distance of the 10th and 90th percentiles of its samples, as a share of their median."""
    percentiles = {name: median_p10_p90(samples) for name, samples in seconds.items()}
    return {name: (high - low) / middle for name, (middle, low, high) in percentiles.items()}


def median_ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """How many times faster ours is: the median, over rounds, of their seconds over ours of the same round."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
