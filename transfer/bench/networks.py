"""The benchmark of networks: `--models` at each `--batch` in each `--dtype`, row by row."""

import argparse
import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from transfer.bench import machine
from transfer.bench import table as tables
from transfer.bench.cases import Case, cases_of, chosen
from transfer.bench.contenders import EndToEnd, PlainFlax, Steps
from transfer.bench.machine import OutOfMemory, Peak, require_host
from transfer.bench.network import RANDOM, Network, NetworkSpec, load
from transfer.bench.peers import PEERS, TAP, relative_error, start_peers
from transfer.bench.results import END_TO_END, MATMUL, OURS, ExtractorRow
from transfer.errors import TransferError, UsageError
from transfer.extract.taps import parse_taps
from transfer.runtime.files.untrusted import error_summary
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved, median_p10_p90, median_ratio

PROFILED_STEPS = 3
# What XLA and NumPy say where memory has run out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
# Copies of the uint8 batch: two that the host alternates between, two on their way.
IMAGE_COPIES = 4
# The error of a precision is that of so many images at most: every tap of a large batch would not fit.
COMPARED_IMAGES = 8

table = tables.text


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Checks the flags at once (UsageError); each row is measured when it is asked for."""
    cases = cases_of(options)
    if options.weights not in (None, RANDOM) and not Path(options.weights).expanduser().is_file():
        raise UsageError(f"--weights={options.weights}: there is no such file; give one, or {RANDOM}")
    if options.peers and options.tap != TAP:
        raise UsageError(f"--peers compares {TAP}, not --tap={options.tap}")
    peers = chosen("peers", options.peers, [PlainFlax.NAME, *PEERS]) if options.peers else []
    return (_row(f"{i}/{len(cases)} {case}", case, options, peers) for i, case in enumerate(cases, start=1))


def _row(title: str, case: Case, options: argparse.Namespace, peers: list[str]) -> dict[str, Any]:
    logging.info("%s: building and compiling", title)
    with Progress(title, options.rounds, "rounds") as progress:
        row = measure(case, options, peers, lambda done: progress.update())
    if row.failed:
        logging.error("%s: failed: %s", title, row.failed)
    else:
        logging.info("%s: %.4g images/s", title, row.images_per_second)
    return dataclasses.asdict(row)


def measure(case: Case, options: argparse.Namespace, peers: list[str], on_round: Callable[[int], None]) -> ExtractorRow:
    """The row of a case: of half the batch and so on where memory runs out, of a reason where something else fails.

    Args:
      options: the flags; with --debug what fails is raised.
      peers: names of those to run beside ours, `PlainFlax.NAME` among them; empty: nothing is compared.
      on_round: is called after each round with how many are done.
    """
    batch, notes = case.batch, []
    while True:
        size = options.image_size or 0
        empty = functools.partial(
            ExtractorRow,
            model=case.model,
            weights=options.weights or "",
            tap=options.tap,
            image_size=(size, size),
            batch=batch,
            batch_asked=case.batch,
            dtype=case.dtype,
            precision=options.precision,
        )
        row = empty()
        try:
            _fill(row, options, peers, on_round)
            break
        except Exception as error:  # one row's failure must not end the run
            out_of_memory = isinstance(error, (MemoryError, OutOfMemory)) or (
                isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
            )
            if options.debug and not out_of_memory:
                raise
            reason = str(error) if isinstance(error, TransferError) else error_summary(error)
        # outside of the clause, whose error would hold on to the arrays
        if not out_of_memory or batch == 1:
            row = empty(failed=reason)
            break
        notes.append(f"batch {batch} is out of memory ({reason}); halved to {batch // 2}")
        logging.info("%s: %s", case, notes[-1])
        batch //= 2
    row.notes = notes + row.notes
    return row


def _fill(row: ExtractorRow, options: argparse.Namespace, peers: list[str], on_round: Callable[[int], None]) -> None:
    """Measures everything that a row holds."""
    peak, spec = Peak(), NetworkSpec.of(row.model, options)
    network = load(spec)
    row.weights, row.image_size = network.weights, network.preprocessing.image_size
    row.notes = list(network.notes)
    graph = network.graph(tuple(tap.endpoint for tap in parse_taps(options.tap)))
    row.parameters, row.gflops_per_image = graph.parameters, 2 * graph.macs / 1e9
    ours, compile_seconds = _compile(network, row, options)
    step_seconds = ours.timed(0)
    row.compile_seconds = max(compile_seconds - step_seconds, 0.0)
    whole = EndToEnd(ours.extractor, ours.images, step_seconds)
    whole()
    # before others run in this process
    row.peak_memory_bytes = peak.bytes() or ours.memory_bytes()
    ours.durations.clear()
    _run_rounds(row, {OURS: ours, END_TO_END: whole}, network, options, peers, on_round)
    _fill_speed(row, ours.durations)
    if options.profile:
        with jax.profiler.trace(Path(options.profile) / f"{row.model}_{row.batch}_{row.dtype}"):
            for _ in range(PROFILED_STEPS):
                ours()
    if not options.no_errors:
        row.errors = errors_by_tap(spec, row.dtype, options.precision, min(row.batch, COMPARED_IMAGES))
        if row.errors:
            row.error_tap, row.error = max(row.errors.items(), key=lambda item: item[1])


def _compile(network: Network, row: ExtractorRow, options: argparse.Namespace) -> tuple[Steps, float]:
    """Our steps, and the seconds from the model to the end of the first; OutOfMemory where it will not fit."""
    shape = (row.batch, *network.preprocessing.image_size, 3)
    require_host(IMAGE_COPIES * math.prod(shape))
    images = np.random.default_rng(options.seed).integers(0, 256, shape, np.uint8)
    start = time.perf_counter()
    settings: dict[str, Any] = {"precision": options.precision, "autotune": options.autotune}
    ours = Steps(network.extractor(options.tap, batch_size=row.batch, dtype=row.dtype, **settings), images)
    if jax.default_backend() == "cpu":
        # there the system would end the process; other devices raise an error of their own
        require_host((ours.memory_bytes() or 0) * ours.extractor.program.mesh.size)
    ours()
    return ours, time.perf_counter() - start


def _run_rounds(
    row: ExtractorRow,
    contenders: dict[str, Callable[[], Any]],
    network: Network,
    options: argparse.Namespace,
    names: list[str],
    on_round: Callable[[int], None],
) -> None:
    """Runs the rounds of our contenders and of the named peers; fills `seconds` and `peers` of the row."""
    with contextlib.ExitStack() as stack:
        if names:
            others = [name for name in names if name != PlainFlax.NAME]
            peers = stack.enter_context(start_peers(network, row.batch, row.dtype, options.seed, others))
            row.peers = {name: {"error": error} for name, error in peers.errors.items()}
            row.peers |= {name: {"skipped": reason} for name, reason in peers.skipped.items()}
            contenders |= peers.workers
            if PlainFlax.NAME in names:
                row.peers[PlainFlax.NAME] = {}
                contenders[PlainFlax.NAME] = PlainFlax(network.model, peers.case.images(), row.dtype)
        if jax.default_backend() == "cpu":
            contenders[MATMUL] = machine.matmul(row.dtype)
        row.seconds = interleaved(contenders, options.rounds, warmup=1, seconds=options.seconds, on_round=on_round)
    for name in row.peers.keys() & contenders.keys():
        if failed := getattr(contenders[name], "failed", ""):
            row.peers[name] = {"skipped": failed}
            del row.seconds[name]
        else:
            row.peers[name]["ratio"] = median_ratio(row.seconds[OURS], row.seconds[name])
            row.peers[name]["images_per_second"] = row.batch / statistics.median(row.seconds[name])


def _fill_speed(row: ExtractorRow, durations: list[float]) -> None:
    """Speed and utilisation, by the seconds of every single step and of the rounds."""
    assert row.gflops_per_image is not None
    devices = machine.machine()["devices"]
    step, p10, p90 = median_p10_p90(durations)
    row.step_ms, row.step_ms_p10, row.step_ms_p90 = 1e3 * step, 1e3 * p10, 1e3 * p90
    row.images_per_second = row.batch / step
    row.images_per_second_per_device = row.images_per_second / devices
    row.images_per_second_end_to_end = row.batch / statistics.median(row.seconds[END_TO_END])
    row.tflops = row.images_per_second * row.gflops_per_image / 1e3
    if MATMUL in row.seconds:
        row.peak_tflops = machine.matmul(row.dtype).tflop / statistics.median(row.seconds[MATMUL])
        row.peak_source = MATMUL
    elif peak := machine.published_peak(machine.machine()["device_kind"], row.dtype, row.precision):
        row.peak_tflops, row.peak_source = peak * devices, "published"
    row.mfu = row.tflops / row.peak_tflops if row.peak_tflops else None


@functools.lru_cache(maxsize=16)
def errors_by_tap(spec: NetworkSpec, dtype: str, precision: str, batch: int) -> dict[str, float]:
    """What a faster precision costs, by the features of `batch` random images.

    Returns:
      tap -> largest difference from float32 at precision "highest", relative to the largest value there; empty where
      that is the precision.
    """
    exact = ("float32", "highest")
    if (dtype, precision) == exact:
        return {}
    network = load(spec)
    taps = tuple(network.graph().endpoints)
    images = np.random.default_rng(0).integers(0, 256, (batch, *network.preprocessing.image_size, 3), np.uint8)

    def features(dtype: str, precision: str) -> Any:
        return network.extractor(taps, batch_size=batch, dtype=dtype, precision=precision)(images)

    fast, expected = features(dtype, precision), features(*exact)
    return {tap: relative_error(fast[tap], expected[tap]) for tap in taps}
