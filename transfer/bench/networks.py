"""The benchmark of networks: `--models` at each `--batch` in each `--dtype`, row by row."""

import argparse
import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from transfer.bench import energy, machine, peaks
from transfer.bench import table as tables
from transfer.bench.cases import RANDOM, Case, Network, NetworkSpec, cases_of, chosen, load
from transfer.bench.machine import OutOfMemory, Peak, require_host
from transfer.bench.peers import PEERS, TAP, relative_error, start_peers
from transfer.bench.results import END_TO_END, MATMUL, OURS
from transfer.bench.worker import Several
from transfer.data.loader import Batch
from transfer.errors import TransferError, UsageError
from transfer.extract.extractor import DTYPES, Extractor
from transfer.extract.taps import parse_taps
from transfer.runtime.files.untrusted import error_summary
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved, median_p10_p90, median_ratio

PLAIN_FLAX = "Flax, jitted"
PROFILED_STEPS = 3
# What XLA and NumPy say where memory has run out.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
# Copies of the uint8 batch: two that the host alternates between, two on their way.
IMAGE_COPIES = 4
# The error of a precision is that of so many images at most: every tap of a large batch would not fit.
COMPARED_IMAGES = 8
# A pass from uint8 to features has so many batches: at least a few, for there to be something to overlap.
FEWEST_BATCHES, MOST_BATCHES = 3, 64

Row = dict[str, Any]
table = tables.text


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Checks the flags at once (UsageError); each row is measured when it is asked for."""
    cases = cases_of(options)
    if options.weights not in (None, RANDOM) and not Path(options.weights).expanduser().is_file():
        raise UsageError(f"--weights={options.weights}: there is no such file; give one, or {RANDOM}")
    if options.peers and options.tap != TAP:
        raise UsageError(f"--peers compares {TAP}, not --tap={options.tap}")
    peers = chosen("peers", options.peers, [PLAIN_FLAX, *PEERS]) if options.peers else []
    return (_row(f"{i}/{len(cases)} {case}", case, options, peers) for i, case in enumerate(cases, start=1))


def _row(title: str, case: Case, options: argparse.Namespace, peers: list[str]) -> Row:
    """The row of a case: of half the batch and so on where memory runs out, of a reason where something else fails."""
    logging.info("%s: building and compiling", title)
    size = options.image_size or 0
    row: Row = {"kind": "extractor", "model": case.model, "weights": options.weights or "", "tap": options.tap}
    row |= {"image_size": (size, size), "batch": case.batch, "batch_asked": case.batch, "dtype": case.dtype}
    row |= {"precision": options.precision, "failed": None, "notes": [], "peers": {}}
    with Progress(title, options.rounds, "rounds") as progress:
        while True:
            try:
                figures = _measure(case._replace(batch=row["batch"]), options, peers, lambda done: progress.update())
                logging.info("%s: %.4g images/s", title, figures["images_per_second"])
                return row | figures | {"notes": [*row["notes"], *figures["notes"]]}
            except Exception as error:  # one row's failure must not end the run
                out_of_memory = isinstance(error, (MemoryError, OutOfMemory)) or (
                    isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
                )
                if options.debug and not out_of_memory:
                    raise
                reason = str(error) if isinstance(error, TransferError) else error_summary(error)
            # outside of the clause, whose error would hold on to the arrays
            if not out_of_memory or row["batch"] == 1:
                logging.error("%s: failed: %s", title, reason)
                return row | {"failed": reason}
            halved = row["batch"] // 2
            row["notes"].append(f"batch {row['batch']} is out of memory ({reason}); halved to {halved}")
            logging.info("%s: %s", case, row["notes"][-1])
            row["batch"] = halved


def _measure(case: Case, options: argparse.Namespace, peers: list[str], on_round: Callable[[int], None]) -> Row:
    """Everything of a row that is measured.

    Args:
      peers: names of those to run beside ours, `PLAIN_FLAX` among them; empty: nothing is compared.
      on_round: is called after each round with how many are done.
    """
    peak, spec = Peak(), NetworkSpec.of(case.model, options)
    network = load(spec)
    graph = network.graph(tuple(tap.endpoint for tap in parse_taps(options.tap)))
    row: Row = {"weights": network.weights, "image_size": network.preprocessing.image_size}
    row |= {"notes": network.notes, "parameters": graph.parameters, "gflops_per_image": 2 * graph.macs / 1e9}
    shape = (case.batch, *network.preprocessing.image_size, 3)
    require_host(IMAGE_COPIES * math.prod(shape))
    images = np.random.default_rng(options.seed).integers(0, 256, shape, np.uint8)
    start = time.perf_counter()
    settings: dict[str, Any] = {"precision": options.precision, "autotune": options.autotune}
    ours = Steps(network.extractor(options.tap, batch_size=case.batch, dtype=case.dtype, **settings), images)
    if jax.default_backend() == "cpu":
        # there the system would end the process; other devices raise an error of their own
        require_host((ours.memory_bytes() or 0) * ours.extractor.program.mesh.size)
    ours()
    compile_seconds = time.perf_counter() - start
    step_seconds = ours.timed(0)
    row["compile_seconds"] = max(compile_seconds - step_seconds, 0.0)
    whole = end_to_end(ours.extractor, ours.images, options.seconds / step_seconds)
    whole()
    # before others run in this process
    row["peak_memory_bytes"] = peak.bytes() or ours.memory_bytes()
    ours.durations.clear()
    ours.joules = 0.0
    row |= _run_rounds({OURS: ours, END_TO_END: whole}, network, case, options, peers, on_round)
    row |= _speed(case, options, row["gflops_per_image"], ours, row["seconds"])
    if not row["peak_source"]:
        unknown = f"no MFU: the peak of a {jax.local_devices()[0].device_kind!r} in {case.dtype} is not known here"
        row["notes"] = (*row["notes"], f"{unknown}; --peak_tflops=… gives it")
    if options.profile:
        with jax.profiler.trace(Path(options.profile) / f"{case.model}_{case.batch}_{case.dtype}"):
            for _ in range(PROFILED_STEPS):
                ours()
    errors = {}
    if not options.no_errors:
        errors = errors_by_tap(spec, case.dtype, options.precision, min(case.batch, COMPARED_IMAGES))
    largest = max(errors, key=lambda tap: errors[tap], default=None)
    return row | {"errors": errors, "error_tap": largest, "error": errors[largest] if largest else None}


def _run_rounds(
    contenders: dict[str, Callable[[], Any]],
    network: Network,
    case: Case,
    options: argparse.Namespace,
    names: list[str],
    on_round: Callable[[int], None],
) -> Row:
    """The `seconds` of our contenders and of the named peers, and what is said of `peers`."""
    of_peers: dict[str, Row] = {}
    with contextlib.ExitStack() as stack:
        if names:
            others = [name for name in names if name != PLAIN_FLAX]
            peers = stack.enter_context(start_peers(network, case.batch, case.dtype, options.seed, others))
            of_peers = {name: {"error": error} for name, error in peers.errors.items()}
            of_peers |= {name: {"skipped": reason} for name, reason in peers.skipped.items()}
            contenders |= peers.workers
            if PLAIN_FLAX in names:
                of_peers[PLAIN_FLAX] = {}
                contenders[PLAIN_FLAX] = plain_flax(network.model, peers.case.images(), case.dtype)
        if jax.default_backend() == "cpu":
            contenders[MATMUL] = machine.matmul(case.dtype)
        seconds = interleaved(contenders, options.rounds, warmup=1, seconds=options.seconds, on_round=on_round)
    for name in of_peers.keys() & contenders.keys():
        if failed := getattr(contenders[name], "failed", ""):
            of_peers[name] = {"skipped": failed}
            del seconds[name]
        else:
            of_peers[name]["ratio"] = median_ratio(seconds[OURS], seconds[name])
            of_peers[name]["images_per_second"] = case.batch / statistics.median(seconds[name])
    return {"seconds": seconds, "peers": of_peers}


def _speed(
    case: Case, options: argparse.Namespace, gflops: float, ours: "Steps", seconds: dict[str, list[float]]
) -> Row:
    """Speed and utilisation, by the seconds of every single step and of the rounds."""
    devices = machine.machine()["devices"]
    step, p10, p90 = median_p10_p90(ours.durations)
    rate = case.batch / step
    peak, source = None, None
    if options.peak_tflops:
        peak, source = options.peak_tflops * devices, "given"
    elif MATMUL in seconds:
        peak, source = machine.matmul(case.dtype).tflop / statistics.median(seconds[MATMUL]), MATMUL
    elif published := peaks.peak_of(jax.local_devices()[0], case.dtype, options.precision):
        peak, source = published * devices, "published"
    tflops = rate * gflops / 1e3
    share = tflops / peak if peak else None
    return {
        "step_ms": 1e3 * step,
        "step_ms_p10": 1e3 * p10,
        "step_ms_p90": 1e3 * p90,
        "images_per_second": rate,
        "images_per_second_per_device": rate / devices,
        "images_per_second_end_to_end": case.batch / statistics.median(seconds[END_TO_END]),
        "tflops": tflops,
        "peak_tflops": peak,
        "peak_source": source,
        "mfu": share if source != MATMUL else None,
        "times_matmul": share if source == MATMUL else None,
        "joules_per_image": ours.joules / (case.batch * len(ours.durations)) if ours.joules else None,
    }


class Steps:
    """Our contender: computes a batch on the device; `durations` are the seconds of every step that was timed."""

    def __init__(self, extractor: Extractor, images: np.ndarray) -> None:
        self.extractor, self.images = extractor, images
        self.durations: list[float] = []
        self.joules = 0.0  # in all of them, where the machine tells
        self._on_device = jax.device_put(images, extractor.program.sharding)

    def __call__(self) -> None:
        """Computes the batch once, and waits."""
        jax.block_until_ready(self.extractor.compute(self._on_device, resized=True))

    def timed(self, seconds: float) -> float:
        """The mean of the steps of at least so many seconds, one at least."""
        passed, steps, meter = 0.0, 0, energy.Meter()
        while not steps or passed < seconds:
            start = time.perf_counter()
            self()
            self.durations.append(time.perf_counter() - start)
            passed, steps = passed + self.durations[-1], steps + 1
        self.joules += meter.joules() or 0.0
        return passed / steps

    def memory_bytes(self) -> int | None:
        """Bytes that a device needs for the program by the compiler's account: arguments, results and temporaries."""
        memory = self.extractor.compiled(self.images, True).memory_analysis()
        if memory is None:
            return None
        return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def end_to_end(extractor: Extractor, images: np.ndarray, about: float) -> Several:
    """uint8 in host memory -> float32 NumPy, `about` so many batches a call through the extractor's own stream."""
    count = min(max(FEWEST_BATCHES, math.ceil(about)), MOST_BATCHES)
    copies, size = (images, images.copy()), len(images)

    def call() -> None:
        for _ in extractor.stream((Batch(copies[i % 2], i * size, size, []) for i in range(count)), True):
            pass

    return Several(call, count)


def plain_flax(model: nnx.Module, images: np.ndarray, dtype: str) -> Callable[[], Any]:
    """The network as its Flax code says, jitted, up to `pre_logits` on one device: what freezing is compared with.

    Args:
      images: preprocessed float32 (B, H, W, C).
    """

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(DTYPES[dtype]) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    @jax.jit
    def forward(state: nnx.State, images: jax.Array) -> jax.Array:
        copy = nnx.merge(graph, state)
        copy.eval()
        return copy(images)[1]["pre_logits"]

    graph, state = nnx.split(model)
    arguments = jax.tree.map(cast, state), jnp.asarray(images, DTYPES[dtype])
    return lambda: forward(*arguments).block_until_ready()


@functools.lru_cache(maxsize=16)
def errors_by_tap(spec: NetworkSpec, dtype: str, precision: str, batch: int) -> dict[str, float]:
    """Measures what a faster precision costs, by the features of `batch` random images.

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
