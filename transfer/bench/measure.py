"""Measures one case: builds its network, compiles, runs the rounds, and fills a row."""

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from transfer.bench import machine
from transfer.bench.cases import Case
from transfer.bench.contenders import EndToEnd, PlainFlax, Steps
from transfer.bench.memory import OutOfMemory, Peak, require_host
from transfer.bench.network import Network, NetworkSpec, load
from transfer.bench.peers.processes import relative_error, start_peers
from transfer.bench.results import END_TO_END, MATMUL, OURS, ExtractorRow
from transfer.errors import TransferError
from transfer.extract.extractor import Extractor
from transfer.extract.taps import parse_taps
from transfer.runtime.files.untrusted import error_summary
from transfer.runtime.timing import interleaved, median_p10_p90, median_ratio

PROFILED_STEPS = 3
# What XLA and NumPy say where memory has run out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
# Copies of the uint8 batch: two that the host alternates between, two on their way.
IMAGE_COPIES = 4
# The error of a precision is that of so many images at most: every tap of a large batch would not fit.
COMPARED_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows of a run share; the first fields are those of `NetworkSpec`.

    Attributes:
      rounds, seconds: as `interleaved` takes them.
      peers: names of those to run beside ours, `PlainFlax.NAME` among them; empty: nothing is compared.
      autotune: as the extractor takes it.
      errors: whether to measure what the precision costs.
      profile: folder for a JAX profiler trace of each row.
    """

    weights: str | None = None
    tap: str = "pre_logits"
    image_size: int | None = None
    seed: int = 0
    precision: str = "high"
    rounds: int = 5
    seconds: float = 0.5
    peers: tuple[str, ...] = ()
    autotune: bool = False
    errors: bool = True
    profile: Path | None = None

    def network(self, model: str) -> NetworkSpec:
        """The network of a row."""
        return NetworkSpec(model, self.weights, self.tap, self.image_size, self.seed)


def measure(
    case: Case, settings: Settings, on_round: Callable[[int], None] = lambda done: None, *, debug: bool = False
) -> ExtractorRow:
    """The row of a case: of half the batch and so on where memory runs out, of a reason where something else fails.

    Args:
      on_round: is called after each round with how many are done.
      debug: raises what fails.
    """
    batch, notes = case.batch, []
    while True:
        row = _empty_row(case, batch, settings)
        try:
            _fill(row, settings, on_round)
            break
        except Exception as error:  # one row's failure must not end the run
            out_of_memory = _is_out_of_memory(error)
            if debug and not out_of_memory:
                raise
            reason = str(error) if isinstance(error, TransferError) else error_summary(error)
        # outside of the clause, whose error would hold on to the arrays
        if not out_of_memory or batch == 1:
            row = dataclasses.replace(_empty_row(case, batch, settings), failed=reason)
            break
        notes.append(f"batch {batch} is out of memory ({reason}); halved to {batch // 2}")
        logging.info("%s: %s", case, notes[-1])
        batch //= 2
    row.notes = notes + row.notes
    return row


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _empty_row(case: Case, batch: int, settings: Settings) -> ExtractorRow:
    size = settings.image_size or 0
    identity: dict[str, Any] = dict(
        model=case.model, weights=settings.weights or "", tap=settings.tap, image_size=(size, size)
    )
    return ExtractorRow(**identity, batch=batch, batch_asked=case.batch, dtype=case.dtype, precision=settings.precision)


def _fill(row: ExtractorRow, settings: Settings, on_round: Callable[[int], None]) -> None:
    """Measures everything that a row holds."""
    peak, spec = Peak(), settings.network(row.model)
    network = load(spec)
    row.weights, row.image_size = network.weights, network.preprocessing.image_size
    row.notes = list(network.notes)
    graph = network.graph(tuple(tap.endpoint for tap in parse_taps(settings.tap)))
    row.parameters, row.gflops_per_image = graph.parameters, 2 * graph.macs / 1e9
    ours, compile_seconds = _compile(network, row, settings)
    step_seconds = ours.timed(0)
    row.compile_seconds = max(compile_seconds - step_seconds, 0.0)
    whole = EndToEnd(ours.extractor, ours.images, step_seconds)
    whole()
    # before others run in this process
    row.peak_memory_bytes = peak.bytes() or ours.memory_bytes()
    ours.durations.clear()
    _run_rounds(row, ours, whole, network, settings, on_round)
    if settings.profile is not None:
        with jax.profiler.trace(settings.profile / f"{row.model}_{row.batch}_{row.dtype}"):
            for _ in range(PROFILED_STEPS):
                ours()
    if settings.errors:
        row.errors = errors_by_tap(spec, row.dtype, settings.precision, min(row.batch, COMPARED_IMAGES))
        if row.errors:
            row.error_tap, row.error = max(row.errors.items(), key=lambda item: item[1])


def _compile(network: Network, row: ExtractorRow, settings: Settings) -> tuple[Steps, float]:
    """Our steps, and the seconds from the model to the end of the first; OutOfMemory where it will not fit."""
    shape = (row.batch, *network.preprocessing.image_size, 3)
    require_host(IMAGE_COPIES * math.prod(shape))
    images = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    start = time.perf_counter()
    extractor = Extractor(
        network.model,
        tap=settings.tap,
        batch_size=row.batch,
        dtype=row.dtype,
        precision=settings.precision,
        preprocessing=network.preprocessing,
        autotune=settings.autotune,
    )
    ours = Steps(extractor, images)
    if jax.default_backend() == "cpu":
        # there the system would end the process; other devices raise an error of their own
        require_host((ours.memory_bytes() or 0) * extractor.program.mesh.size)
    ours()
    return ours, time.perf_counter() - start


def _run_rounds(
    row: ExtractorRow,
    ours: Steps,
    whole: EndToEnd,
    network: Network,
    settings: Settings,
    on_round: Callable[[int], None],
) -> None:
    """Runs the rounds, with peers if some are wanted, and fills all of the row that follows from them."""
    contenders: dict[str, Callable[[], Any]] = {OURS: ours, END_TO_END: whole}
    with contextlib.ExitStack() as stack:
        if settings.peers:
            names = [name for name in settings.peers if name != PlainFlax.NAME]
            peers = stack.enter_context(start_peers(network, row.batch, row.dtype, settings.seed, names))
            row.peers = {name: {"error": error} for name, error in peers.errors.items()}
            row.peers |= {name: {"skipped": reason} for name, reason in peers.skipped.items()}
            contenders |= peers.workers
            if PlainFlax.NAME in settings.peers:
                row.peers[PlainFlax.NAME] = {}
                contenders[PlainFlax.NAME] = PlainFlax(network.model, peers.case.images(), row.dtype)
        if jax.default_backend() == "cpu":
            contenders[MATMUL] = machine.matmul(row.dtype)
        row.seconds = interleaved(contenders, settings.rounds, warmup=1, seconds=settings.seconds, on_round=on_round)
    for name in row.peers.keys() & contenders.keys():
        if failed := getattr(contenders[name], "failed", ""):
            row.peers[name] = {"skipped": failed}
            del row.seconds[name]
        else:
            row.peers[name]["ratio"] = median_ratio(row.seconds[OURS], row.seconds[name])
            row.peers[name]["images_per_second"] = row.batch / statistics.median(row.seconds[name])
    _fill_speed(row, ours.durations)


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

    def features(dtype: str, precision: str) -> dict[str, np.ndarray]:
        recipe = network.preprocessing
        return Extractor(network.model, taps, None, batch, dtype, precision=precision, preprocessing=recipe)(images)  # type: ignore[return-value]

    fast, expected = features(dtype, precision), features(*exact)
    return {tap: relative_error(fast[tap], expected[tap]) for tap in taps}
