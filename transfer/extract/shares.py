"""The work of an extraction divided among processes: the same list of runs in all, and an equal part of it for each."""

from collections.abc import Callable, Sequence

from transfer.runtime import distributed

Runs = list[tuple[int, int]]
# Runs told in one message between processes, of which the longest is 4 MB.
RUNS_AT_ONCE = 50_000


def agreed(runs: Callable[[], Runs]) -> Runs:
    """Process 0's `runs()`, in all processes: what is missing is looked up by one, before any of them writes."""
    mine = runs() if distributed.is_main() else []
    count = distributed.broadcast(len(mine), "number of runs")
    told: Runs = []
    for start in range(0, count, RUNS_AT_ONCE):
        told += map(tuple, distributed.broadcast(mine[start : start + RUNS_AT_ONCE], "runs"))
    return told


def share(runs: Sequence[tuple[int, int]], batch_size: int, index: int, count: int) -> Runs:
    """The part of process `index` of `count`: whole batches one after the other, equally many but for one.

    Args:
        runs: (start, stop) rows, in order, of batches that start at multiples of `batch_size`.
        batch_size: rows of a batch; the last of a run may have fewer.
        index: of the process, from 0.
        count: of processes.
    """
    batches = sum(-(-(stop - start) // batch_size) for start, stop in runs)
    first, last = batches * index // count, batches * (index + 1) // count
    part: Runs = []
    before = 0
    for start, stop in runs:
        here = -(-(stop - start) // batch_size)
        low, high = max(first - before, 0), min(last - before, here)
        if low < high:
            part.append((start + low * batch_size, min(start + high * batch_size, stop)))
        before += here
    return part
