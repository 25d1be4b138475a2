"""`bench --target`: the extractor's and the head's program compiled for chips that are not here, and what bounds them.

The figures are the compiler's own and the same on every run, so that two programs compare without noise.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from transfer.bench.cases import RANDOM, Case, NetworkSpec, cases_of, words
from transfer.bench.peaks import published_peak
from transfer.bench.table import number
from transfer.errors import TransferError, UsageError
from transfer.runtime import tables
from transfer.runtime.distribution import install_hint

Row = dict[str, Any]
# Images a chip; of --batch.
DEFAULT_BATCH = "256"
# Programs that a chip multiplies in bfloat16 take so many passes for float32.
PASSES = {"highest": 6, "high": 3, "default": 1}
# What runs a network's batch, rather than a loop over rows.
EXTRACTORS = ("extractor", "process")
# Devices that share a wide head's classes, on a pod: all have all of them, or four a part each.
POD_CLASSES_OVER = (1, 4)
# platform -> (module that has to be there, the extra that brings it)
EXTRAS = {"tpu": ("libtpu", "tpu"), "gpu": ("jax_plugins.xla_cuda12", "gpu-target")}
MB, GIB = 1e6, 2**30
WHOLE = ",.0f"
# Of a host of a TPU pod, and so of a process: 2x2, so that the first two sides of a topology are even.
HOST_CHIPS = 4
EVEN, ANY = "(?:[2468]|[1-9][0-9]?[02468])", "[1-9][0-9]{0,2}"
# By the number of sides: the form, and some that can be rented; the compiler takes others of the same form, too.
TOPOLOGIES = {
    2: (f"1x1|{EVEN}x{EVEN}", "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
    3: (f"{EVEN}x{EVEN}x{ANY}", "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8"),
}


class Chip(NamedTuple):
    """The data sheet of a chip: what bounds a program on it.

    Attributes:
      device_kind: key of `transfer.bench.peaks.PEAKS`.
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
    "gpu": {
        "h100": Chip("NVIDIA H100 80GB HBM3", 84978434048, 3.35232e12),
        "h200": Chip("NVIDIA H200", 150120104960, 4.8e12),
        "a100": Chip("NVIDIA A100-SXM4-80GB", 85050458112, 2.039e12),
        "b200": Chip("NVIDIA B200", 191503138816, 8e12),
    },
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
        form, known = TOPOLOGIES.get(CHIPS[platform][kind].sides, ("", ""))
        if not re.fullmatch(form, topology):
            what = (
                f"topologies of a {kind} are {known}, not {topology!r}"
                if known
                else f"a {kind} is one device, without a topology"
            )
            raise UsageError(f"--target={word}: {what}")
        targets.append(Target(platform, kind, topology))
    return targets


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Checks the flags at once (UsageError); each program is compiled when its row is asked for.

    Of each case the extractor, of each network the head; of a pod also what a process runs, and a large head.
    `--batch` counts images a chip here.
    """
    targets = parse(options.target)
    # this process computes nothing; its own search for an accelerator would only complain
    jax.config.update("jax_platforms", "cpu")
    for platform in dict.fromkeys(target.platform for target in targets):
        check_installed(platform)
    cases = cases_of(options, DEFAULT_BATCH)
    heads = [Case(model, 0, "float32") for model in dict.fromkeys(case.model for case in cases)]
    programs: list[tuple[Target, str, Case, int]] = []
    for target in targets:
        pod = target.chips > HOST_CHIPS
        programs += [(target, name, case, 1) for case in cases for name in (EXTRACTORS if pod else EXTRACTORS[:1])]
        for case in heads:
            programs.append((target, "head", case, 1))
            programs += [(target, "pod head", case, over) for over in (POD_CLASSES_OVER if pod else ())]
    return (_row(options, *program) for program in programs)


def check_installed(platform: str) -> None:
    """TransferError naming the extra where the compiler for `platform` is missing."""
    module, extra = EXTRAS[platform]
    parent = module.partition(".")[0]
    if importlib.util.find_spec(parent) is None or importlib.util.find_spec(module) is None:
        raise TransferError(f"--target={platform}:… needs a compiler for it: {install_hint(extra)}")


def _row(options: argparse.Namespace, target: Target, program: str, case: Case, classes_over: int) -> Row:
    """The figures of a program that a child compiles, or why there are none."""
    network = NetworkSpec.of(case.model, options)
    network = dataclasses.replace(network, weights=network.weights or RANDOM)
    job: dict[str, Any] = dict(program=program, target=target, network=dataclasses.asdict(network), dtype=case.dtype)
    job |= dict(precision=options.precision, batch_per_chip=case.batch, classes_over=classes_over)
    row = {"kind": "target", "target": str(target), "program": program, "model": case.model, "tap": options.tap}
    # a head multiplies in full precision, whatever is asked of the network
    precision = options.precision if program in EXTRACTORS else "highest"
    row |= {"dtype": case.dtype, "precision": precision, "batch_per_chip": case.batch or None, "failed": None}
    logging.info("%s: compiling the %s of %s", target, program, case.model)
    done = subprocess.run(
        [sys.executable, "-m", "transfer.bench.target_compile"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, **environment(target.platform)},
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return row | {"failed": f"the compiler ended with exit code {done.returncode}: {last[:300]}"}
    row |= json.loads(lines[-1])
    return row if row["failed"] else row | bounds(row, target)


def environment(platform: str) -> dict[str, str]:
    """Environment variables of a process that compiles for a platform that it does not run on."""
    # the package may not be installed but lie in the working directory
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    common = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    if platform == "tpu":
        # no questions to a cloud's metadata server; other processes may hold libtpu
        return {**common, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    # nothing can be measured without a GPU; the compiler finds ptxas and libdevice in NVIDIA's package
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0"]
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder, "cuda_nvcc") for folder in spec.submodule_search_locations or ()] if spec else []
    flags += [f"--xla_gpu_cuda_data_dir={folder}" for folder in folders if folder.is_dir()]
    return {**common, "XLA_FLAGS": " ".join(filter(None, flags))}


def bounds(row: Mapping[str, Any], target: Target) -> Row:
    """Examples a second of one chip that arithmetic, memory and the compiler's own estimate allow; None: not known."""
    chip = target.chip
    # the compiler counts the body of a loop once, and a head is loops
    counted = row["program"] in EXTRACTORS
    gflops = counted and row["compiler_gflops_per_example"] or row["gflops_per_example"]
    megabytes = counted and row["compiler_mb_per_example"] or row["main_memory_mb_per_example"]
    cycles = row["cycles_per_example"]
    peak = published_peak(chip.device_kind, row["dtype"], row["precision"])
    assert peak is not None
    if target.platform == "tpu" and row["dtype"] == "float32":
        peak /= PASSES[row["precision"]]
    return {
        "arithmetic_bound": peak * 1e3 / gflops if gflops else None,
        "memory_bound": chip.bandwidth / (megabytes * MB) if megabytes else None,
        # a TPU v4's two cores work side by side
        "estimate": row["cores_per_chip"] * chip.clock / cycles if cycles and chip.clock else None,
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


# Heading -> the cell of a row.
COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "target": lambda row: row["target"],
    "program": lambda row: f"{row['model']} {row['program']}",
    "dtype": lambda row: row["dtype"],
    "batch/chip": lambda row: str(row["batch_per_chip"] or row["batch"]),
    "compile s": lambda row: number(row["compile_seconds"], ".1f"),
    "memory MB": lambda row: number(row["memory_bytes"] / MB, WHOLE),
    "of memory": lambda row: number(row["memory_bytes"] / row["capacity_bytes"], ".0%"),
    "GFLOP": lambda row: number(row["gflops_per_example"], ".3g"),
    "compiler's": lambda row: number(row["compiler_gflops_per_example"], ".3g"),
    "MB": lambda row: number(row["compiler_mb_per_example"], ".3g"),
    "main memory MB": lambda row: number(row["main_memory_mb_per_example"], ".3g"),
    "collectives": lambda row: _counts(row["collectives"]),
    "a step": lambda row: _counts(row["collectives_a_step"]),
    "by arithmetic/s": lambda row: number(row["arithmetic_bound"], WHOLE),
    "by memory/s": lambda row: number(row["memory_bound"], WHOLE),
    "estimate/s": lambda row: number(row["estimate"], WHOLE),
}
READING = """\
Memory a chip. A process of a pod runs its program on each of its devices; collectives of a step are those of a
loop's round, with the devices that take part. GFLOP (the model's, the compiler's) and MB (the compiler's bytes
accessed; operands and results of kernels in main memory) an image, for a head a row of features. Images (rows) a
second and chip: as the peak and the memory's bandwidth bound them, and as a TPU's compiler estimates the cycles
of the kernels.
"""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text: a line a program, then the kernels of each, and what failed."""
    cells = [[cell(row) for cell in COLUMNS.values()] for row in rows if not row["failed"]]
    kernels, failed = [], []
    for row in rows:
        name = f"{row['target']} {row['program']} of {row['model']}"
        if row["failed"]:
            failed.append(f"{name}: {row['failed']}")
        elif row["program"] in EXTRACTORS:
            kernels.append(f"{name}: {_counts(row['kernels'])}")
    return "\n".join([tables.text([list(COLUMNS), *cells], left=1), "", READING, *kernels, *failed])
