"""Damages bytes in the ways that readers trip over: flips, cuts, copies, sizes and counts that are nearly right.

The choices come from a `random.Random`: seeded, by Hypothesis (which makes failures small), or by Atheris.
"""

import random
import struct
from collections.abc import Callable, Sequence

MOST_ROUNDS = 8
LARGEST = 1 << 16
EDGES = (0, 1, 2, 3, 7, 8, 16, 64, 100, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536, 1 << 20)
EDGES += ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
FORMATS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")

Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def mutated(choose: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of `seeds`, damaged a few times; `tokens` are bytes that mean something in the format."""
    data = bytearray(choose.choice(seeds))
    return damaged(choose, data, seeds, tokens)


def damaged(choose: random.Random, data: bytearray, seeds: Sequence[bytes] = (), tokens: Sequence[bytes] = ()) -> bytes:
    """`data` after a few changes."""
    for _ in range(choose.choice((1, 1, 1, 2, 2, 3, 4, MOST_ROUNDS))):
        choose.choice(CHANGES)(choose, data, seeds, tokens)
    return bytes(data[:LARGEST])


def _at(choose: random.Random, data: bytearray) -> int:
    return choose.randrange(len(data) + 1)


def _span(choose: random.Random, data: bytearray) -> slice:
    start = _at(choose, data)
    length = choose.choice((1, 2, 4, 8, 16, 64, 256, max(len(data) // 2, 1)))
    return slice(start, start + choose.randrange(1, length + 1))


def _flip(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def _byte(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[choose.randrange(len(data))] = choose.randrange(256)


def _number(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    form = choose.choice(FORMATS)
    size = struct.calcsize(form)
    value = choose.choice(EDGES) if choose.random() < 0.7 else len(data) - choose.randrange(-9, 10)
    start = _at(choose, data)
    data[start : start + size] = struct.pack(form, value % (1 << 8 * size))


def _add(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """To a number that is there."""
    form = choose.choice(FORMATS)
    size = struct.calcsize(form)
    if len(data) >= size:
        start = choose.randrange(len(data) - size + 1)
        value = struct.unpack(form, data[start : start + size])[0] + choose.randrange(-16, 17)
        data[start : start + size] = struct.pack(form, value % (1 << 8 * size))


def _digits(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """Another number where one stands as text."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if digits:
        start = choose.choice(digits)
        stop = start
        while stop < len(data) and 48 <= data[stop] < 58:
            stop += 1
        data[start:stop] = b"%d" % choose.choice((*EDGES, -1, -(1 << 31)))


def _cut(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    del data[_at(choose, data) :]


def _delete(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    del data[_span(choose, data)]


def _repeat(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    span = _span(choose, data)
    data[span.start : span.start] = data[span] * choose.choice((1, 1, 2, 10, 100))


def _move(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """A part over another."""
    part = data[_span(choose, data)]
    start = _at(choose, data)
    data[start : start + len(part) * choose.randrange(2)] = part


def _splice(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """A part of another seed."""
    if seeds:
        other = bytearray(choose.choice(seeds))
        data[_span(choose, data)] = other[_span(choose, other)]


def _token(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if tokens:
        token = choose.choice(tokens)
        start = _at(choose, data)
        data[start : start + len(token) * choose.randrange(2)] = token


def _noise(choose: random.Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    data[_span(choose, data)] = choose.randbytes(choose.randrange(1, 9))


CHANGES: Sequence[Change] = (
    *(_flip, _byte, _number, _add, _digits, _cut, _delete, _repeat, _move, _splice),
    *(_token, _token, _noise, _number, _add),
)
