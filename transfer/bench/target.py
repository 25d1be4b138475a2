"""`bench --target`: the extractor's and the head's program compiled for chips that are not here, and what bounds them.

The figures are the compiler's own and the same on every run, so that two programs compare without noise.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from transfer.bench.cases import Case, cases_of
from transfer.bench.machine import PEAKS
from transfer.bench.target_chips import Target, parse
from transfer.errors import TransferError
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
MB = 1e6


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
    models = dict.fromkeys(case.model for case in cases)
    programs: list[tuple[Target, str, Case, int]] = []
    for target in targets:
        pod = target.processes > 1
        programs += [(target, name, case, 1) for case in cases for name in (EXTRACTORS if pod else EXTRACTORS[:1])]
        for case in (Case(model, 0, "float32") for model in models):
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
    network = dict(model=case.model, weights=options.weights or "random")
    network |= {name: getattr(options, name) for name in ("tap", "image_size", "seed")}
    job = dict(program=program, target=target, network=network, dtype=case.dtype, precision=options.precision)
    job |= dict(batch_per_chip=case.batch, classes_over=classes_over)
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
    """What a process has to have set before it imports JAX to compile for a platform that it does not run on."""
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
    return {
        "arithmetic_bound": peak_tflops(target, row["dtype"], row["precision"]) * 1e3 / gflops if gflops else None,
        "memory_bound": chip.bandwidth / (megabytes * MB) if megabytes else None,
        # a TPU v4's two cores work side by side
        "estimate": row["cores_per_chip"] * chip.clock / cycles if cycles and chip.clock else None,
    }


def peak_tflops(target: Target, dtype: str, precision: str) -> float:
    """Of one chip, 1e12 a second, as the program multiplies."""
    peaks = PEAKS[target.chip.device_kind]
    if dtype == "bfloat16":
        return peaks["bfloat16"]
    if target.platform == "tpu":
        return peaks["bfloat16"] / PASSES[precision]
    return peaks["tf32" if precision == "default" else "float32"]


def _significant(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


# Heading -> the cell of a row.
COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "target": lambda row: row["target"],
    "program": lambda row: f"{row['model']} {row['program']}",
    "dtype": lambda row: row["dtype"],
    "batch/chip": lambda row: str(row["batch_per_chip"] or row["batch"]),
    "compile s": lambda row: f"{row['compile_seconds']:.1f}",
    "arguments MB": lambda row: _whole(row["argument_bytes"] / MB),
    "outputs MB": lambda row: _whole(row["output_bytes"] / MB),
    "temporaries MB": lambda row: _whole(row["temporary_bytes"] / MB),
    "of memory": lambda row: f"{row['memory_bytes'] / row['capacity_bytes']:.0%}",
    "GFLOP": lambda row: _significant(row["gflops_per_example"]),
    "compiler's": lambda row: _significant(row["compiler_gflops_per_example"]),
    "MB": lambda row: _significant(row["compiler_mb_per_example"]),
    "main memory MB": lambda row: _significant(row["main_memory_mb_per_example"]),
    "collectives": lambda row: _counts(row["collectives"]) or "none",
    "a step": lambda row: _counts(row["collectives_a_step"]) or "none",
    "by arithmetic/s": lambda row: _whole(row["arithmetic_bound"]),
    "by memory/s": lambda row: _whole(row["memory_bound"]),
    "estimate/s": lambda row: _whole(row["estimate"]),
}
READING = """\
Memory a chip. A process of a pod runs its program on each of its devices; collectives of a step are those of a
loop's round, with the devices that take part. GFLOP (the model's, the compiler's) and MB (the compiler's bytes
accessed; operands and results of kernels in main memory) an image, for a head a row of features. Images (rows) a
second and chip: as the peak and the memory's bandwidth bound them, and as a TPU's compiler estimates the cycles
of the kernels.
"""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a person: a line a program, then the kernels of each, and what failed."""
    cells = [[cell(row) for cell in COLUMNS.values()] for row in rows if not row["failed"]]
    kernels, failed = [], []
    for row in rows:
        name = f"{row['target']} {row['program']} of {row['model']}"
        if row["failed"]:
            failed.append(f"{name}: {row['failed']}")
        elif row["program"] in EXTRACTORS:
            kernels.append(f"{name}: {_counts(row['kernels'])}")
    return "\n".join([tables.text([list(COLUMNS), *cells], left=1), "", READING, *kernels, *failed])
