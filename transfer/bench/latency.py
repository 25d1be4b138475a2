"""`bench --latency`: how long one image takes, from uint8 in memory to NumPy, and how long until the first is done.

Requests come one after another, and then at a fixed rate: there a request's time runs from when it was due, so that
those that wait for a slow one count, too.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from transfer.bench.cases import Case, Network, NetworkSpec, cases_of, load
from transfer.bench.table import MISSING, number, pixels, significant
from transfer.bench.worker import Prepared, Skipped, Worker
from transfer.errors import UsageError
from transfer.runtime import tables

PERCENTILES = (50, 90, 99)
# Without --rate, requests come at this share of how fast they are answered one after another, or a bit less: at one of
# few rates, so that two runs have the same.
USUAL_LOAD, DIGITS = 0.5, (0.5, 1, 2, 5)
# Where they come faster than they are answered, the wait has no end: a round ends after so many times its seconds.
OVERTIME = 10
OURS = "ours"

Row = dict[str, Any]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Of each network and dtype one row without a rate and one with; UsageError at once for wrong flags."""
    if options.batch not in (None, "1"):
        raise UsageError(f"--latency is that of one image; leave --batch={options.batch} out")
    cases = cases_of(options, "1")
    return (row for case in cases for row in _rows(case, options))


def _rows(case: Case, options: argparse.Namespace) -> Iterator[Row]:
    logging.info("%s: latency", case)
    spec = NetworkSpec.of(case.model, options)
    network = load(spec)
    cold = cold_start(spec, case.dtype, options.precision)
    request = _request(network, spec, case.dtype, options.precision)
    shared = {"kind": "latency", "model": case.model, "weights": network.weights, "tap": options.tap}
    shared |= {"image_size": network.preprocessing.image_size, "batch": 1, "dtype": case.dtype}
    shared |= {"precision": options.precision, "cold_start_seconds": cold, "failed": None}
    request()
    rate, answered = None, math.inf
    for _ in range(2):
        notes: list[str] = []
        if rate is not None and rate > answered:
            possible = significant(answered)
            notes = [f"{rate:g} requests a second are more than the {possible} that are answered: their wait grows"]
            logging.warning("%s: %s", case, *notes)
        rounds = [requests(request, options.seconds, rate) for _ in range(options.rounds)]
        durations = np.concatenate(rounds)
        row = {**shared, "rate": rate, "notes": notes, "requests": len(durations)}
        row["latency_ms"] = {f"p{share}": 1e3 * float(np.percentile(durations, share)) for share in PERCENTILES}
        yield row | {"seconds": {OURS: [float(np.median(each)) for each in rounds]}}
        answered = 1 / float(np.median(durations))
        rate = options.rate or usual_rate(answered)


def usual_rate(answered: float) -> float:
    """The largest of 1, 2, 5, 10, 20, … (0.5, 0.2, …) that is at most the usual load."""
    most = USUAL_LOAD * answered
    power = math.floor(math.log10(most))
    return max(rate for digit in DIGITS if (rate := float(f"{digit}e{power}")) <= most)


def requests(call: Callable[[], Any], seconds: float, rate: float | None) -> np.ndarray:
    """Seconds from when each request was due until it was answered, float64 (N,), for so long, one at least."""
    start = time.perf_counter()
    durations: list[float] = []
    while True:
        due = time.perf_counter() if rate is None else start + len(durations) / rate
        overtime = time.perf_counter() - start >= OVERTIME * seconds
        if durations and (overtime or due - start >= seconds):
            return np.array(durations)
        time.sleep(max(due - time.perf_counter(), 0))
        call()
        durations.append(time.perf_counter() - due)


def cold_start(spec: NetworkSpec, dtype: str, precision: str) -> float | None:
    """Seconds from starting a Python process to its first features, with nothing compiled before; None if it fails."""
    start = time.perf_counter()
    try:
        worker = Worker(f"{__name__}:first_features", (spec, dtype, precision))
    except Skipped as reason:
        logging.warning("cold start of %s: %s", spec.model, reason)
        return None
    seconds = time.perf_counter() - start
    worker.close()
    return seconds


def first_features(case: tuple[NetworkSpec, str, str]) -> Prepared:
    """The contender of a cold start: its first call is what counts."""
    spec, dtype, precision = case
    jax.config.update("jax_enable_compilation_cache", False)
    return Prepared(_request(load(spec), spec, dtype, precision), lambda features: None)


def _request(network: Network, spec: NetworkSpec, dtype: str, precision: str) -> Callable[[], Any]:
    """What is timed: features of one image of the network's size."""
    extractor = network.extractor(spec.tap, batch_size=1, dtype=dtype, precision=precision)
    shape = (1, *network.preprocessing.image_size, 3)
    image = np.random.default_rng(spec.seed).integers(0, 256, shape, np.uint8)
    return lambda: extractor(image)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    names = [f"p{share}" for share in PERCENTILES]
    lines = [["model", "px", "dtype", "requests/s", "requests", *(f"{name} ms" for name in names), "cold start s"]]
    for row in rows:
        case = [row["model"], pixels(row["image_size"]), row["dtype"]]
        asked = [f"{row['rate']:g}" if row["rate"] else MISSING, str(row["requests"])]
        times = [number(row["latency_ms"][name], ".1f") for name in names]
        lines.append([*case, *asked, *times, number(row["cold_start_seconds"], ".1f")])
    return tables.text(lines, left=1)
