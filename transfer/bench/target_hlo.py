"""Reads an optimised program of XLA: which kernels run, how often, and what each reads from memory and writes to it."""

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
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_TRIPS = re.compile(r"known_trip_count[^0-9]*(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
# Who takes part in a collective: {{0,1},{2,3}}, or 64 groups of 4 as [64,4]<=[256], or axes of a mesh by name.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]+)\] ?\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line of a program: `%name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    inside: str
    attributes: str


class Program(NamedTuple):
    """Computations by name; `entry` is where it starts."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str


class Kernel(NamedTuple):
    """One kernel.

    Attributes:
      kind: `__cudnn$convBiasActivationForward`, `convolution fusion`, `transpose fusion`, `copy` …
      calls: how often it runs.
      bytes: operands and results of one call that lie in the device's main memory.
      on_chip: those that lie in a memory on the chip (a TPU's vector memory).
      only_weights: whether it works on nothing but arguments, the same on every call.
      cycles: that a TPU's compiler estimates for one call; 0 where it says nothing.
    """

    kind: str
    calls: int
    bytes: float
    on_chip: float
    only_weights: bool
    cycles: int


def read(text: str) -> Program:
    """The text of `Compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header and "->" in line:
            current = computations.setdefault(header.group(2), {})
            entry = header.group(2) if header.group(1) else entry
        elif current is not None and (found := _instruction(line)):
            current[found.name] = found
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    opcode = match and _OPCODE.search(match.group(2))
    if not match or not opcode:
        return None
    right = match.group(2)
    end = _closing(right, opcode.end())
    inside = right[opcode.end() : end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(match.group(1), right[: opcode.start()], opcode.group(1), operands, inside, right[end + 1 :])


def _closing(text: str, start: int) -> int:
    """Where the parenthesis closes that was opened right before `start`."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position
    return len(text)


def array_bytes(shape: str) -> tuple[float, float]:
    """Bytes of a shape (or a tuple) in main memory and on the chip; a host's memory and semaphores are none."""
    main = on_chip = 0.0
    for kind, sides, layout in _ARRAY.findall(shape):
        width = WIDTHS[kind] if kind in WIDTHS else int(re.sub(r"\D", "", kind)) / 8
        size = width * math.prod(int(side) for side in sides.split(",") if side)
        space = _MEMORY_SPACE.search(layout)
        if space is None or space.group(1) == "0":
            main += size
        elif space.group(1) == "1":
            on_chip += size
    return main, on_chip


def kernels(program: Program, computation: str | None = None, calls: int = 1) -> Iterator[Kernel]:
    """Every kernel of the program, those inside loops with the number of their calls."""
    instructions = program.computations[computation or program.entry]
    for one in instructions.values():
        inside = CALLS.get(one.opcode)
        called = re.search(rf"{inside}=%?([\w.\-]+)", one.attributes) if inside else None
        if called:
            yield from kernels(program, called.group(1), calls * _trips(program, one))
        elif one.opcode not in FREE and not one.opcode.endswith("-done"):
            yield _kernel(program, instructions, one, calls)


def loop_collectives(program: Program) -> dict[str, int]:
    """How many collectives one round of all loops holds, by kind and by how many devices: `all-reduce over 256`."""
    loops = [one for held in program.computations.values() for one in held.values() if one.opcode == "while"]
    bodies = {called.group(1) for one in loops if (called := re.search(r"body=%?([\w.\-]+)", one.attributes))}
    found: dict[str, int] = {}
    for one in (one for body in sorted(bodies) for one in program.computations.get(body, {}).values()):
        kind = one.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            name = f"{kind} over {_group_size(one.attributes)}"
            found[name] = found.get(name, 0) + 1
    return found


def _group_size(attributes: str) -> int | str:
    """Devices of each group; "all" where nothing says so."""
    if listed := _LISTED.search(attributes):
        return listed.group(1).count(",") + 1
    if counted := _COUNTED.search(attributes):
        return int(counted.group(1))
    if axes := _AXES.search(attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"\w+", axes.group(2)))
    return "all"


def _trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs: as the compiler says, else the bound that its condition compares the counter with."""
    said = _TRIPS.search(loop.attributes)
    if said:
        return int(said.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    held = program.computations.get(condition.group(1), {}).values() if condition else ()
    bounds = [int(one.inside) for one in held if one.opcode == "constant" and one.inside.isdecimal()]
    return max(bounds, default=1)


def _kernel(program: Program, around: Mapping[str, Instruction], one: Instruction, calls: int) -> Kernel:
    operands = [around[name] for name in dict.fromkeys(one.operands) if name in around]
    # the shape of a `-start` holds source and destination already
    shapes = [one.shape] if one.opcode.endswith("-start") else [one.shape, *(operand.shape for operand in operands)]
    sizes = [array_bytes(shape) for shape in shapes]
    cycles = _CYCLES.search(one.attributes)
    return Kernel(
        _kind(program, one),
        calls,
        sum(main for main, _ in sizes),
        sum(on_chip for _, on_chip in sizes),
        all(operand.opcode in ("parameter", "constant") for operand in operands),
        int(cycles.group(1)) if cycles else 0,
    )


def _kind(program: Program, one: Instruction) -> str:
    if one.opcode == "custom-call":
        target = _TARGET.search(one.attributes)
        return target.group(1) if target else one.opcode
    called = re.search(r"calls=%?([\w.\-]+)", one.attributes)
    if one.opcode != "fusion" or not called:
        return one.opcode.removesuffix("-start")
    held = {inner.opcode for inner in program.computations.get(called.group(1), {}).values()}
    decisive = next((opcode for opcode in DECISIVE if opcode in held), "elementwise")
    return f"{decisive} fusion"
