"""Reads an optimised program of XLA: which kernels run, how often, and what each reads from memory and writes to it."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Bytes of an element; what is not named here has its width in its name (`f32`, `bf16`, `s8`).
WIDTHS = {"pred": 1.0, "token": 0.0, "opaque": 0.0, "s4": 0.5, "u4": 0.5}
# No kernel of their own: they name, group or repeat what others compute.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
# What repeats or holds other instructions, with the attribute that names them.
CALLS = {"while": "body", "call": "to_apply", "async-start": "calls"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# A fusion is called after the first of these that it holds.
DECISIVE = ("convolution", "dot", "reduce-window", "transpose", "concatenate", "reduce", "pad", "copy")

_ARRAY = re.compile(r"([a-z]+[0-9]*)[a-z0-9]*\[([0-9,]*)\](\{[^{}]*\})?")
# Name, shape, opcode, and what stands behind the opcode's parenthesis.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{$")
_TRIPS = r"known_trip_count[^0-9]*(\d+)"
_CYCLES = r'"estimated_cycles":"(\d+)"'
_TARGET = r'custom_call_target="([^"]+)"'
# Who takes part in a collective: {{0,1},{2,3}}, or 64 groups of 4 as [64,4]<=[256], or axes of a mesh by name.
_LISTED = r"replica_groups=\{\{([\d,]+)\}"
_COUNTED = r"replica_groups=\[\d+,(\d+)\]<="
_AXES = re.compile(r"replica_groups=mesh\[([^\]]+)\] ?\{([^}]*)\}")


class Instruction(NamedTuple):
    """A line of a program: `%name = shape opcode(operands), attributes`; `inside` are the parentheses as text."""

    shape: str
    opcode: str
    operands: list[str]
    inside: str
    attributes: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes; empty where it is not there."""
        match = re.search(pattern, self.attributes)
        return match.group(1) if match else ""

    def called(self, attribute: str) -> str:
        """The name of the computation that an attribute calls; empty where there is none."""
        return self.attribute(rf"{attribute}=%?([\w.\-]+)")


Computation = Mapping[str, Instruction]


class Program(NamedTuple):
    """Computations by name; `entry` is where it starts."""

    computations: Mapping[str, Computation]
    entry: str


class Kernel(NamedTuple):
    """A kernel and what it costs.

    Attributes:
      kind: `__cudnn$convBiasActivationForward`, `convolution fusion`, `transpose fusion`, `copy` …
      calls: how often it runs.
      bytes: operands and results of one call that lie in the device's main memory.
      only_weights: whether it works on nothing but arguments, the same on every call.
      cycles: that a TPU's compiler estimates for one call; 0 where it says nothing.
    """

    kind: str
    calls: int
    bytes: float
    only_weights: bool
    cycles: int


def read(text: str) -> Program:
    """Parses the text of `Compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header.group(2)
            entry = current if header.group(1) else entry
            computations.setdefault(current, {})
        elif current and (match := _INSTRUCTION.match(line)):
            name, shape, opcode, rest = match.groups()
            inside, _, attributes = rest.partition("), ")
            operands = re.findall(r"%([\w.\-]+)", inside)
            computations[current][name] = Instruction(shape, opcode, operands, inside.removesuffix(")"), attributes)
    return Program(computations, entry)


def array_bytes(shape: str) -> float:
    """Bytes of a shape (or a tuple) in main memory; what lies on the chip (`S(1)`) or elsewhere is none."""
    total = 0.0
    for kind, sides, layout in _ARRAY.findall(shape):
        width = WIDTHS[kind] if kind in WIDTHS else int(re.sub(r"\D", "", kind)) / 8
        if not re.search(r"S\([1-9]\d*\)", layout):
            total += width * math.prod(int(side) for side in sides.split(",") if side)
    return total


def kernels(program: Program, computation: str | None = None, calls: int = 1) -> Iterator[Kernel]:
    """Every kernel of the program, those inside loops with the number of their calls."""
    instructions = program.computations[computation or program.entry]
    for instruction in instructions.values():
        opcode = instruction.opcode
        called = instruction.called(CALLS[opcode]) if opcode in CALLS else ""
        if called:
            yield from kernels(program, called, calls * _trips(program, instruction))
        elif opcode not in FREE and not opcode.endswith("-done"):
            operands = [instructions[name] for name in dict.fromkeys(instruction.operands) if name in instructions]
            # the shape of a `-start` holds source and destination already
            arrays = [instruction] if opcode.endswith("-start") else [instruction, *operands]
            yield Kernel(
                _kind(program, instruction),
                calls,
                sum(array_bytes(array.shape) for array in arrays),
                all(operand.opcode in ("parameter", "constant") for operand in operands),
                int(instruction.attribute(_CYCLES) or 0),
            )


def _trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: as the compiler says, else the bound that its condition compares the counter with."""
    if trips := loop.attribute(_TRIPS):
        return int(trips)
    condition = program.computations.get(loop.called("condition"), {})
    constants = [each.inside for each in condition.values() if each.opcode == "constant"]
    return max((int(bound) for bound in constants if bound.isdecimal()), default=1)


def _kind(program: Program, instruction: Instruction) -> str:
    opcode = instruction.opcode
    if opcode == "custom-call":
        return instruction.attribute(_TARGET) or opcode
    called = instruction.called("calls")
    if opcode != "fusion" or not called:
        return opcode.removesuffix("-start")
    fused = {inner.opcode for inner in program.computations.get(called, {}).values()}
    return f"{next((name for name in DECISIVE if name in fused), 'elementwise')} fusion"


def loop_collectives(program: Program) -> dict[str, int]:
    """How many collectives one round of all loops holds, by kind and by how many devices: `all-reduce over 256`."""
    instructions = [each for computation in program.computations.values() for each in computation.values()]
    bodies = sorted({each.called("body") for each in instructions if each.opcode == "while"})
    counts = collections.Counter[str]()
    for instruction in (each for body in bodies for each in program.computations.get(body, {}).values()):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            counts[f"{kind} over {_group_size(instruction)}"] += 1
    return dict(counts)


def _group_size(instruction: Instruction) -> int | str:
    """Devices of each group; "all" where nothing says so."""
    if listed := instruction.attribute(_LISTED):
        return listed.count(",") + 1
    if axes := _AXES.search(instruction.attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"\w+", axes.group(2)))
    return int(instruction.attribute(_COUNTED) or 0) or "all"
