"""`bench --target`: the extractor's and the head's program compiled for chips that are not here, and what bounds them.

The figures are the compiler's own and the same on every run, so that two programs compare without noise.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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

    `--batch` counts images a chip here.
    """
    targets = parse(options.target)
    # this process computes nothing; its own search for an accelerator would only complain
    jax.config.update("jax_platforms", "cpu")
    for platform in dict.fromkeys(target.platform for target in targets):
        _check_installed(platform)
    cases = cases_of(options, DEFAULT_BATCH)
    return (row for target in targets for row in _rows(target, cases, options))


def _check_installed(platform: str) -> None:
    """TransferError naming the extra where the compiler for `platform` is missing."""
    module, extra = EXTRAS[platform]
    parent = module.partition(".")[0]
    if importlib.util.find_spec(parent) is None or importlib.util.find_spec(module) is None:
        raise TransferError(f"--target={platform}:… needs a compiler for it: {install_hint(extra)}")


def _rows(target: Target, chosen: Sequence[Case], options: argparse.Namespace) -> Iterator[Row]:
    """The extractor of each case and each network's head; of a pod also what a process runs, and a large head."""
    extractors = ("extractor", "process") if target.processes > 1 else ("extractor",)
    for case in chosen:
        for program in extractors:
            yield _row(program, target, case, options)
    for model in dict.fromkeys(case.model for case in chosen):
        case = Case(model, 0, "float32")
        yield _row("head", target, case, options)
        for classes_over in POD_CLASSES_OVER if target.processes > 1 else ():
            yield _row("pod head", target, case, options, classes_over)


def _row(program: str, target: Target, case: Case, options: argparse.Namespace, classes_over: int = 1) -> Row:
    network = dict(
        model=case.model,
        weights=options.weights or "random",
        tap=options.tap,
        image_size=options.image_size,
        seed=options.seed,
    )
    job = dict(
        program=program,
        target=target,
        network=network,
        dtype=case.dtype,
        precision=options.precision,
        batch_per_chip=case.batch,
        classes_over=classes_over,
    )
    row = {"kind": "target", "target": str(target), "program": program, "model": case.model, "tap": options.tap}
    # a head multiplies in full precision, whatever is asked of the network
    precision = options.precision if program in EXTRACTORS else "highest"
    row |= {"dtype": case.dtype, "precision": precision, "batch_per_chip": case.batch or None, "failed": None}
    logging.info("%s: compiling the %s of %s", target, program, case.model)
    row |= _compiled(job, target)
    return row if row["failed"] else row | bounds(row, target)


def _compiled(job: Mapping[str, Any], target: Target) -> Row:
    """The figures of a child, or why there are none."""
    child = [sys.executable, "-m", "transfer.bench.target_compile"]
    done = subprocess.run(
        child, input=json.dumps(job), capture_output=True, text=True, env={**os.environ, **environment(target.platform)}
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = done.stderr.strip().splitlines() or ["nothing"]
    return {"failed": f"the compiler ended with exit code {done.returncode} and said: {said[-1][:300]}"}


def environment(platform: str) -> dict[str, str]:
    """What a process has to have set before it imports JAX to compile for a platform that it does not run on."""
    # the package may not be installed but lie in the working directory
    package = str(Path(__file__).parents[2])
    common = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    return common | ENVIRONMENTS[platform]()


def _tpu() -> dict[str, str]:
    # no questions to a cloud's metadata server; other processes may hold libtpu
    return {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def _gpu() -> dict[str, str]:
    # nothing can be measured without a GPU; the compiler finds ptxas and libdevice in NVIDIA's package
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0"]
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        if Path(folder, "cuda_nvcc").is_dir():
            flags.append(f"--xla_gpu_cuda_data_dir={Path(folder, 'cuda_nvcc')}")
    return {"XLA_FLAGS": " ".join(filter(None, flags))}


ENVIRONMENTS = {"tpu": _tpu, "gpu": _gpu}


def bounds(row: Mapping[str, Any], target: Target) -> Row:
    """Examples a second of one chip that arithmetic, memory and the compiler's own estimate allow; None: not known."""
    chip = target.chip
    # the compiler counts the body of a loop once, and a head is loops
    counted = row["program"] in EXTRACTORS
    gflops = counted and row["compiler_gflops_per_example"] or row["gflops_per_example"]
    megabytes = counted and row["compiler_mb_per_example"] or row["main_memory_mb_per_example"]
    cycles = row["cycles_per_example"]
    # a TPU v4's two cores work side by side
    cores = row["cores_per_chip"]
    return {
        "arithmetic_bound": peak_tflops(target, row["dtype"], row["precision"]) * 1e3 / gflops if gflops else None,
        "memory_bound": chip.bandwidth / (megabytes * MB) if megabytes else None,
        "estimate": cores * chip.clock / cycles if cycles and chip.clock else None,
    }


def peak_tflops(target: Target, dtype: str, precision: str) -> float:
    """Of one chip, 1e12 a second, as the program multiplies."""
    peaks = PEAKS[target.chip.name]
    if dtype == "bfloat16":
        return peaks["bfloat16"]
    if target.platform == "tpu":
        return peaks["bfloat16"] / PASSES[precision]
    return peaks["tf32" if precision == "default" else "float32"]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """For a person: a line a program, then what failed."""
    lines = [HEADINGS, *(_cells(row) for row in found if not row["failed"])]
    failed = [f"{row['target']} {row['program']} of {row['model']}: {row['failed']}" for row in found if row["failed"]]
    kernels = [
        f"{row['target']} {row['program']} of {row['model']}: {_counts(row['kernels'])}"
        for row in found
        if not row["failed"] and row["program"] in EXTRACTORS
    ]
    return "\n".join([tables.text(lines, left=1), "", *READING, "", *kernels, *failed])


HEADINGS = (
    "target",
    "program",
    "dtype",
    "batch/chip",
    "compile s",
    "arguments MB",
    "outputs MB",
    "temporaries MB",
    "of memory",
    "GFLOP",
    "compiler's",
    "MB",
    "main memory MB",
    "collectives",
    "a step",
    "by arithmetic/s",
    "by memory/s",
    "estimate/s",
)
READING = (
    "Memory a chip. A process of a pod runs its program on each of its devices; collectives of a step are those of a",
    "loop's round, with the devices that take part. GFLOP (the model's, the compiler's) and MB (the compiler's bytes",
    "accessed; operands and results of kernels in main memory) an image, for a head a row of features. Images (rows) a",
    "second and chip: as the peak and the memory's bandwidth bound them, and as a TPU's compiler estimates the cycles",
    "of the kernels.",
)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = [f"{row[f'{name}_bytes'] / MB:,.0f}" for name in ("argument", "output", "temporary")]
    return (
        row["target"],
        f"{row['model']} {row['program']}",
        row["dtype"],
        str(row["batch_per_chip"] or row["batch"]),
        f"{row['compile_seconds']:.1f}",
        *sizes,
        f"{row['memory_bytes'] / row['capacity_bytes']:.0%}",
        _number(row["gflops_per_example"]),
        _number(row["compiler_gflops_per_example"]),
        _number(row["compiler_mb_per_example"]),
        _number(row["main_memory_mb_per_example"]),
        _counts(row["collectives"]) or "none",
        _counts(row["collectives_a_step"]) or "none",
        *(_whole(row[name]) for name in ("arithmetic_bound", "memory_bound", "estimate")),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
