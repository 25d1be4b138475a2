"""Measures one case: builds its network, compiles, runs the rounds, and fills a row."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from transfer.bench import peaks
from transfer.bench.accuracy import errors_by_tap
from transfer.bench.as_written import AsWritten
from transfer.bench.cases import Case
from transfer.bench.compiled import compiled_steps
from transfer.bench.contenders import EndToEnd, Guest, Steps
from transfer.bench.machine import machine
from transfer.bench.memory import OutOfMemory, Peak
from transfer.bench.network import Network, load
from transfer.bench.peers import contenders
from transfer.bench.row import END_TO_END, MATMUL, OURS, ExtractorRow
from transfer.bench.settings import Settings
from transfer.errors import TransferError
from transfer.extract.taps import parse_taps
from transfer.runtime.timing import interleaved, median_p10_p90, median_ratio

PROFILED_STEPS = 3
# What XLA and NumPy say where memory has run out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def measure(
    case: Case, settings: Settings, on_round: Callable[[int], None] = lambda done: None, *, debug: bool = False
) -> ExtractorRow:
    """A row; where memory runs out, of half the batch and so on; where something else fails, one that says what.

    Args:
      on_round: is told after each round how many are done.
      debug: raises what fails.
    """
    batch, notes = case.batch, []
    while True:
        try:
            row = _measured(case._replace(batch=batch), settings, on_round)
            break
        except Exception as error:  # one row's failure must not end the run
            if debug and not _is_out_of_memory(error):
                raise
            out_of_memory, reason = _is_out_of_memory(error), _one_line(error)
        # outside of the clause, whose error would hold on to the arrays
        if not out_of_memory or batch == 1:
            row = _empty(case._replace(batch=batch), settings)
            row.failed = reason
            break
        notes.append(f"batch {batch} is out of memory ({reason}); halved to {batch // 2}")
        logging.info("%s: %s", case, notes[-1])
        batch //= 2
    return dataclasses.replace(row, batch_asked=case.batch, notes=notes + row.notes)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _one_line(error: Exception) -> str:
    """A TransferError speaks for itself; of others the kind of error belongs to the message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join((lines[0] if lines else "").split())[:300]
    return text if isinstance(error, (TransferError, OutOfMemory)) else f"{type(error).__name__}: {text}"


def _empty(case: Case, settings: Settings) -> ExtractorRow:
    size = settings.image_size or 0
    return ExtractorRow(
        model=case.model,
        weights=settings.weights or "",
        tap=settings.tap,
        image_size=(size, size),
        batch=case.batch,
        batch_asked=case.batch,
        dtype=case.dtype,
        precision=settings.precision,
    )


def _measured(case: Case, settings: Settings, on_round: Callable[[int], None]) -> ExtractorRow:
    peak, row = Peak(), _empty(case, settings)
    wanted = settings.wanted(case.model)
    network = load(wanted)
    row.weights, row.image_size = network.weights, network.preprocessing.image_size
    row.notes = list(network.notes)
    graph = network.graph(tuple(tap.endpoint for tap in parse_taps(settings.tap)))
    row.parameters, row.gflops_per_image = graph.parameters, 2 * graph.macs / 1e9
    ours, compile_seconds = compiled_steps(network, case, settings)
    step_seconds = ours.timed(0)
    row.compile_seconds = max(compile_seconds - step_seconds, 0.0)
    whole = EndToEnd(ours.extractor, ours.images, step_seconds)
    whole()
    # before others run in this process
    row.peak_memory_bytes = peak.bytes() or ours.memory_bytes()
    ours.durations.clear()
    with contextlib.ExitStack() as stack:
        guests, row.peers = _guests(stack, network, case, settings)
        _rounds(row, ours, whole, guests, settings, on_round)
    if settings.profile is not None:
        _profile(ours, settings.profile / f"{case.model}_{case.batch}_{case.dtype}")
    if settings.errors:
        row.errors = errors_by_tap(wanted, case.dtype, settings.precision, case.batch)
        if row.errors:
            row.error_tap, row.error = max(row.errors.items(), key=lambda item: item[1])
    return row


def _guests(
    stack: contextlib.ExitStack, network: Network, case: Case, settings: Settings
) -> tuple[dict[str, Guest], dict[str, dict[str, Any]]]:
    """Peers that run, and for each that runs its error, for each that does not the reason."""
    if settings.peers is None:
        return {}, {}
    peers = stack.enter_context(
        contenders(
            case.model,
            network.preprocessing.image_size,
            case.batch,
            case.dtype,
            settings.seed,
            only=[name for name in settings.peers if name != AsWritten.NAME],
            model=network.model,
        )
    )
    found: dict[str, dict[str, Any]] = {name: {"error": error} for name, error in peers.errors.items()}
    found |= {name: {"skipped": reason} for name, reason in peers.skipped.items()}
    guests = {name: Guest(worker) for name, worker in peers.run.items()}
    if AsWritten.NAME in settings.peers:
        guests[AsWritten.NAME], found[AsWritten.NAME] = Guest(AsWritten(network.model, peers.images, case.dtype)), {}
    return guests, found


def _rounds(
    row: ExtractorRow,
    ours: Steps,
    whole: EndToEnd,
    guests: Mapping[str, Guest],
    settings: Settings,
    on_round: Callable[[int], None],
) -> None:
    """Runs the rounds, and fills all of the row that follows from them."""
    contenders: dict[str, Callable[[], Any]] = {OURS: ours, END_TO_END: whole, **guests}
    yardstick = peaks.matmul(row.dtype) if jax.default_backend() == "cpu" else None
    if yardstick is not None:
        contenders[MATMUL] = yardstick
    seconds = interleaved(contenders, settings.rounds, warmup=1, seconds=settings.seconds, on_round=on_round)
    for name, guest in guests.items():
        if guest.failed:
            row.peers[name] = {"skipped": guest.failed}
            del seconds[name]
        else:
            row.peers[name]["ratio"] = median_ratio(seconds[OURS], seconds[name])
            row.peers[name]["images_per_second"] = row.batch / statistics.median(seconds[name])
    row.seconds = seconds
    _speed(row, ours)
    _utilisation(row, yardstick)


def _speed(row: ExtractorRow, ours: Steps) -> None:
    step, p10, p90 = median_p10_p90(ours.durations)
    row.step_ms, row.step_ms_p10, row.step_ms_p90 = 1e3 * step, 1e3 * p10, 1e3 * p90
    row.images_per_second = row.batch / step
    row.images_per_second_per_device = row.images_per_second / machine()["devices"]
    row.images_per_second_end_to_end = row.batch / statistics.median(row.seconds[END_TO_END])


def _utilisation(row: ExtractorRow, yardstick: peaks.Matmul | None) -> None:
    assert row.images_per_second is not None and row.gflops_per_image is not None
    row.tflops = row.images_per_second * row.gflops_per_image / 1e3
    if yardstick is not None:
        row.peak_tflops, row.peak_source = yardstick.tflop / statistics.median(row.seconds[MATMUL]), MATMUL
    else:
        peak = peaks.published(machine()["device_kind"], row.dtype, row.precision)
        if peak is not None:
            row.peak_tflops, row.peak_source = peak * machine()["devices"], "published"
    row.mfu = row.tflops / row.peak_tflops if row.peak_tflops else None


def _profile(ours: Steps, folder: Path) -> None:
    with jax.profiler.trace(folder):
        for _ in range(PROFILED_STEPS):
            ours()
