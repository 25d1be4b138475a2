"""Which rows of a batch lie on which device: the lists that `sharded.train` works through."""

import math

import numpy as np


def usual_width(batch_size: int, devices: int, rows_per_device: int) -> int:
    """Rows of a batch on one device that hardly any batch exceeds: K, by which the program is compiled.

    Of rows that are dealt out at random six standard deviations above the mean.
    """
    mean = batch_size / devices
    most = math.ceil(mean + 6 * math.sqrt(mean * (1 - 1 / devices)))
    return min(rounded(most), batch_size, rows_per_device)


def rounded(count: int) -> int:
    """A width, up to a power of two or one and a half of it, so that there are few widths, and few compilations."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 and power >= 4 else power


def deal(
    owners: np.ndarray, places: np.ndarray, batch_size: int, devices: int, usual: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some batches, by device.

    Args:
        owners: int (n,), the device that holds each row, in the order of training.
        places: int (n,), the row's place on it.
        batch_size: rows of a batch; the last one may have fewer.
        usual: the width K, unless a batch has more rows on one device. What K is depends on these rows alone, not on
            what came before, so that a resumed run computes the same bits.

    Returns:
        int32 (S, devices, K), -1 where there is no row; float32 (S,), rows of each batch.
    """
    steps = math.ceil(len(owners) / batch_size)
    groups = np.arange(len(owners)) // batch_size * devices + owners
    counts = np.bincount(groups, minlength=steps * devices)
    width = max(usual, min(rounded(int(counts.max(initial=0))), batch_size))
    taken = np.full((steps * devices, width), -1, np.int32)
    taken[groups, within_group(groups, steps * devices)] = places
    return taken.reshape(steps, devices, width), counts.reshape(steps, devices).sum(axis=1).astype(np.float32)


def within_group(groups: np.ndarray, count: int) -> np.ndarray:
    """int (n,): of each element how many elements before it are of the same group, below `count`."""
    sizes = np.bincount(groups, minlength=count)
    order = np.argsort(groups, kind="stable")
    within = np.empty(len(groups), np.int64)
    within[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return within
