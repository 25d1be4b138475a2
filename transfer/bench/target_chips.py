"""The devices that programs can be compiled for without having one, and how their names are read."""

import math
import re
from typing import NamedTuple

from transfer.bench.cases import words
from transfer.errors import UsageError

GIB = 2**30


class Chip(NamedTuple):
    """What bounds a program on one chip, from its maker's data sheet.

    Attributes:
      device_kind: key of `transfer.bench.machine.PEAKS`.
      memory: bytes.
      bandwidth: of that memory, bytes a second.
      clock: cycles a second in which a TPU's compiler counts; None where it does not.
      sides: of a topology; 0 for a device by itself.
    """

    device_kind: str
    memory: int
    bandwidth: float
    clock: float | None = None
    sides: int = 0


# A TPU's clock: peak over 2 * 128 * 128 (v6e: 256 * 256) products a cycle of each matrix unit.
CHIPS = {
    "tpu": {
        "v4": Chip("TPU v4", 32 * GIB, 1.2288e12, 1.05e9, sides=3),
        "v5e": Chip("TPU v5e", 16 * GIB, 0.819e12, 1.5e9, sides=2),
        "v5p": Chip("TPU v5p", 95 * GIB, 2.765e12, 1.75e9, sides=3),
        "v6e": Chip("TPU v6e", 32 * GIB, 1.638e12, 1.75e9, sides=2),
    },
    "gpu": {"h100": Chip("NVIDIA H100 80GB HBM3", 84978434048, 3.35232e12)},
}
# Of a host of a TPU pod, and so of a process: 2x2, so that the first two sides of a topology are even.
HOST_CHIPS = 4
EVEN, ANY = "(?:[2468]|[1-9][0-9]?[02468])", "[1-9][0-9]{0,2}"
# By the number of sides: the form, and some that can be rented; the compiler takes others of the same form, too.
FORMS = {2: f"{EVEN}x{EVEN}", 3: f"{EVEN}x{EVEN}x{ANY}"}
TOPOLOGIES = {
    2: ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}


class Target(NamedTuple):
    """Chips that a program is compiled for: `tpu:v5e:4x4`, `gpu:h100`."""

    platform: str
    kind: str
    topology: str

    def __str__(self) -> str:
        return ":".join(filter(None, self))

    @property
    def chip(self) -> Chip:
        """The data sheet of one chip."""
        return CHIPS[self.platform][self.kind]

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(map(int, self.topology.split("x"))) if self.topology else 1

    @property
    def processes(self) -> int:
        """The number of hosts of these chips."""
        return -(-self.chips // HOST_CHIPS) if self.topology else 1


def parse(text: str) -> list[Target]:
    """Comma separated targets; one without a platform has that of the one before. UsageError names what is known."""
    targets: list[Target] = []
    for word in words("target", text):
        platform, _, rest = word.partition(":")
        if platform not in CHIPS:
            if not targets:
                raise UsageError(f"--target={word} should start with {' or '.join(f'{name}:' for name in CHIPS)}")
            platform, rest = targets[-1].platform, word
        kind, _, topology = rest.partition(":")
        if kind not in CHIPS[platform]:
            known = ", ".join(CHIPS[platform])
            raise UsageError(f"--target={word}: there is no {platform} {kind!r}; known are {known}")
        sides = CHIPS[platform][kind].sides
        if not sides and topology:
            raise UsageError(f"--target={word}: a {kind} is one device, without a topology")
        if sides and not re.fullmatch(FORMS[sides], topology):
            known = ", ".join(TOPOLOGIES[sides])
            raise UsageError(f"--target={word}: topologies of a {kind} are {known}, not {topology!r}")
        targets.append(Target(platform, kind, topology))
    return targets
