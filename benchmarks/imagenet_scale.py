"""A head at the size of ImageNet, on made features whose best head is known: into a store, and out of it.

    python benchmarks/imagenet_scale.py --folder=/tmp/imagenet_scale --output=imagenet_scale_cpu.json
    python benchmarks/imagenet_scale.py --folder=/tmp/imagenet_scale --resident --output=imagenet_scale_gpu.json

1,281,167 rows of 2,048 features in bfloat16, 1,000 classes; 50,000 rows to validate on. The store takes 5.5 GB of the
folder, which are removed at the end, unless --keep. The head streams the store, or with --resident holds the rows on
all accelerators.

A row is its class' mean plus unit Gaussian noise, so the probability of a class given the row is exactly a softmax of a
known linear map: no head has a lower expected loss (but for the rounding to bfloat16, a relative 2^-9 of each value).
What is printed as `above the optimum` is the head's validation loss less that map's on the same rows. With as many
parameters as rows a finite training set keeps every head above it.
"""

import argparse
import contextlib
import json
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from etils import epath
from on_demand import OnDemand

from transfer.bench.machine import machine
from transfer.data.loader import default_workers
from transfer.heads.gradient import Params
from transfer.heads.programs import LINEAR
from transfer.runtime import devices
from transfer.runtime.memory import limit_heaps
from transfer.store.store import FeatureStore
from transfer.store.writer import StoreWriter
from transfer.training.loop import run_epochs
from transfer.training.parallel.epochs import MeshTrainer
from transfer.training.parallel.reader import Split
from transfer.training.parallel.step import shard_state
from transfer.training.run import Part, Run

TAP = "pre_logits"
SEEDS = {"train": 1, "validation": 2}
# Of a class' mean: a Bayes accuracy of 0.76 among 1,000 classes, a Bayes loss of 0.96 (estimated on 4,096 rows).
RADIUS = 4.0
CHUNK_ROWS = 256


class Made:
    """Rows whose best head is known.

    Attributes:
        means: float32 (classes, features), of the classes.
        labels: split -> int64 (N,).
    """

    def __init__(self, rows: dict[str, int], num_features: int, num_classes: int) -> None:
        random = np.random.Generator(np.random.PCG64(0))
        directions = random.standard_normal((num_classes, num_features), np.float32)
        self.means = RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.labels = {
            split: np.random.Generator(np.random.PCG64(SEEDS[split])).integers(num_classes, size=count)
            for split, count in rows.items()
        }

    def chunk(self, split: str, start: int) -> np.ndarray:
        """bfloat16 (CHUNK_ROWS, features) from row `start`, a multiple; fewer rows at the end."""
        labels = self.labels[split][start : start + CHUNK_ROWS]
        seed = np.random.SeedSequence([SEEDS[split], start // CHUNK_ROWS])
        noise = np.random.Generator(np.random.SFC64(seed)).standard_normal(
            (len(labels), self.means.shape[1]), np.float32
        )
        noise += self.means[labels]
        return noise.astype(ml_dtypes.bfloat16)

    def best(self) -> Params:
        """The head that is right about every probability."""
        return {"kernel": self.means.T, "bias": -np.square(self.means).sum(axis=1) / 2}


def write(made: Made, split: str, path: Path) -> FeatureStore:
    """The store of a split, or what is missing of it."""
    labels = made.labels[split]
    workers = default_workers()
    with (
        StoreWriter(
            path,
            taps={TAP: made.means.shape[1:]},
            labels=labels,
            ids=OnDemand(len(labels), "{:09d}".format),
            class_names=[str(label) for label in range(len(made.means))],
            data=f"made, {split}",
            fingerprint={"made": SEEDS[split], "radius": RADIUS},
            batch_size=CHUNK_ROWS,
            features_dtype="bfloat16",
        ) as writer,
        ThreadPoolExecutor(workers) as pool,
    ):
        starts = (row for start, stop in writer.pending() for row in range(start, stop, CHUNK_ROWS))
        coming: deque[tuple[int, Future[np.ndarray]]] = deque()
        for start in starts:
            coming.append((start, pool.submit(made.chunk, split, start)))
            if len(coming) > workers + 2:
                done, future = coming.popleft()
                writer.write(done, {TAP: future.result()})
        for done, future in coming:
            writer.write(done, {TAP: future.result()})
        if not writer.complete:
            writer.finish()
    return FeatureStore.open(path)


class Timed:
    """Epochs, and the seconds that each took, its validation included."""

    def __init__(self, epochs: MeshTrainer) -> None:
        self._epochs = epochs
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any) -> Iterator[Part]:
        """See `MeshTrainer`."""
        start = time.monotonic()
        for part in self._epochs(*arguments):
            if part.metrics is not None:
                part.metrics()
                self.seconds.append(time.monotonic() - start)
                start = time.monotonic()
            yield part


def peak_rss() -> int:
    """Bytes of this process at their most since the last call (Linux)."""
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    with contextlib.suppress(OSError):  # then it is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return peak * 1024


def device_peak() -> int | None:
    """Bytes of the fullest device at their most; None where it does not tell."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def timed(action: Any) -> tuple[Any, float]:
    """The result of `action()`, and the seconds it took."""
    start = time.monotonic()
    return action(), round(time.monotonic() - start, 3)


def train(options: argparse.Namespace, made: Made, stores: dict[str, FeatureStore], run: Path) -> dict[str, Any]:
    """Trains the head; what it reached and how long everything took."""
    splits = {split: Split(store.features, store.label_rows) for split, store in stores.items()}
    mesh = devices.head_mesh()
    settings = dict(order="chunks", chunk_rows=CHUNK_ROWS, stream=True)
    if options.resident:
        settings = dict(order="rows", stream=False)
    epochs, loading = timed(
        lambda: MeshTrainer(
            splits["train"], splits["validation"], options.classes, mesh, options.batch_size, options.rate, **settings
        )
    )
    state = epochs.shard_state(LINEAR.init_state(options.features, options.classes, LINEAR.init_key(0)))
    clock = Timed(epochs)
    ended = run_epochs(clock, state, options.epochs, epath.Path(run), checkpoint_seconds=300.0)
    best = shard_state(made.best(), mesh)
    optimum = epochs.validate(best)  # compiled, and the store's files in the page cache as after an epoch
    _, validation = timed(partial(epochs.validate, best))
    return {
        "num_devices": mesh.size,
        "loading_seconds": loading,
        "validation_seconds": validation,
        "optimum": optimum,
        "epochs": [_epoch(row, seconds, validation, optimum, options.rows) for row, seconds in _rows(ended, clock)],
    }


def _rows(ended: Run, clock: Timed) -> Iterator[tuple[dict[str, float], float]]:
    return zip(ended.history, clock.seconds, strict=True)


def _epoch(
    row: dict[str, float], seconds: float, validation: float, optimum: dict[str, float], num_rows: int
) -> dict[str, float]:
    return {
        **row,
        "above_optimum": row["validation_loss"] - optimum["validation_loss"],
        "seconds": round(seconds, 3),
        "rows_per_second": round(num_rows / max(seconds - validation, 1e-9), 1),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole rehearsal; prints as it goes."""
    folder, rows = Path(options.folder), {"train": options.rows, "validation": options.validation_rows}
    made = Made(rows, options.features, options.classes)
    peak_rss()
    stores, writing = {}, {}
    for split in rows:
        stores[split], writing[split] = timed(partial(write, made, split, folder / split))
        print(f"{split}: {rows[split]} rows in the store after {writing[split]} s", flush=True)
    peaks = {"writing": peak_rss()}
    shutil.rmtree(folder / "run", ignore_errors=True)
    found = train(options, made, stores, folder / "run")
    peaks["training"] = peak_rss()
    settings = {name: value for name, value in vars(options).items() if name not in ("folder", "output", "keep")}
    bytes_of = {
        split: sum(file.stat().st_size for file in (folder / split).rglob("*") if file.is_file()) for split in rows
    }
    return {
        **settings,
        "machine": machine(),
        "writing_seconds": writing,
        "store_bytes": bytes_of,
        **found,
        "peak_rss_bytes": peaks,
        "peak_device_bytes": device_peak(),
    }


def report(result: dict[str, Any]) -> str:
    """For a person."""
    optimum = result["optimum"]
    lines = [
        f"{result['rows']} x {result['features']}, {result['classes']} classes, on {result['num_devices']} x "
        f"{result['machine']['device_kind']}, {'resident' if result['resident'] else 'streamed'}",
        f"optimum: val_loss {optimum['validation_loss']:.4f}, val_accuracy {optimum['validation_accuracy']:.4f}",
        f"reading onto the devices {result['loading_seconds']} s, validation {result['validation_seconds']} s",
    ]
    for row in result["epochs"]:
        lines.append(
            f"epoch {row['epoch']}: {row['seconds']} s, {row['rows_per_second']:,.0f} rows/s, val_loss "
            f"{row['validation_loss']:.4f} ({row['above_optimum']:+.4f} above the optimum), val_accuracy "
            f"{row['validation_accuracy']:.4f}"
        )
    peaks = ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in result["peak_rss_bytes"].items())
    device = result["peak_device_bytes"]
    lines.append(f"peak memory of the host: {peaks}" + (f"; of a device {device / 1e9:.2f} GB" if device else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the flags, measures, prints, and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where the store goes")
    parser.add_argument("--keep", action="store_true", help="leave the store there, to be used again")
    parser.add_argument("--resident", action="store_true", help="hold the rows on the devices")
    parser.add_argument("--output", help="a JSON file")
    for name, value in (("rows", 1_281_167), ("validation_rows", 50_000), ("features", 2048), ("classes", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    options = parser.parse_args(arguments)
    limit_heaps()
    try:
        result = measure(options)
    finally:
        if not options.keep:
            for part in ("train", "validation", "run"):
                shutil.rmtree(Path(options.folder) / part, ignore_errors=True)
    print(report(result))
    if options.output:
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
