"""A store of ten million rows, from its creation to an epoch that streams it: seconds, files and memory of each step.

python benchmarks/large_store.py --measure    # into large_store.json; takes 2 GB of the disk, which it gives back
python benchmarks/large_store.py              # prints what large_store.json holds

The features are made: 64 bfloat16 a row, the same few thousand rows again and again. An epoch goes in the order
"chunks" onto the devices, where nothing is computed. The disk's cache is as it comes. Memory is the most that the
process had in a step, less what it had before the first.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from on_demand import OnDemand

from transfer.bench.machine import machine
from transfer.runtime import devices
from transfer.runtime.memory import limit_heaps
from transfer.store import format as store_format
from transfer.store import sizes
from transfer.store.store import FeatureStore
from transfer.store.verify import verify
from transfer.store.writer import StoreWriter
from transfer.training.parallel.batches import Streamed
from transfer.training.parallel.reader import Reader, Split
from transfer.training.parallel.shuffle import Chunks, default_window

MEASUREMENTS = Path(__file__).parent / "large_store.json"
TAP, FEATURES, BATCH, CLASSES = "pre_logits", 64, 64, 1000
RANDOM_ROWS = 1000
SIZES = ("batch_size", "shard_rows", "chunk_rows")
# rows, features and bytes of one of those whose files are counted, of one tap of images that are files
COUNTED = ((10**7, 64, 2), (10**8, 64, 2), (10**8, 2048, 2), (10**8, 2048, 4))


def main() -> None:
    """Measures where that is asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--output", type=Path, default=MEASUREMENTS)
    options = parser.parse_args()
    if options.measure:
        limit_heaps()
        with tempfile.TemporaryDirectory(prefix="transfer_store_") as folder:
            measured = rehearse(Path(folder) / "store", options.rows)
        options.output.write_text(json.dumps(measured, indent=1) + "\n")
    print(table(json.loads(options.output.read_text())))


def rehearse(path: Path, rows: int) -> dict[str, Any]:
    """Every step on a store of so many rows."""
    steps: dict[str, dict[str, float]] = {}
    load, before = os.getloadavg()[0], peak_bytes()
    with step(steps, "write"):
        write(path, rows)
    with step(steps, "open"):
        store = FeatureStore.open(path)
    assert len(store) == rows
    with step(steps, "verify"):
        assert not verify(str(path), store.metadata)
    with step(steps, "stream"):
        assert stream(store) == rows
    with step(steps, "random rows"):
        for row in np.random.default_rng(0).integers(rows, size=RANDOM_ROWS).tolist():
            assert store.features[row].shape == (FEATURES,)
    files = [file for file in path.rglob("*") if file.is_file()]
    for facts in steps.values():
        facts["peak_mb"] = round((facts.pop("peak") - before) / 1e6)
    return {
        "command": "python benchmarks/large_store.py --measure",
        "machine": machine(),
        "load": load,
        "rows": rows,
        "sizes": {key: value for key, value in store.metadata.items() if key in SIZES},
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "steps": steps,
        "counted": [
            {"rows": n, "features": d, "bytes": size, "files": num_files(n, d, size)} for n, d, size in COUNTED
        ],
    }


@contextlib.contextmanager
def step(steps: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Measures what is done within."""
    peak_bytes()
    start, cpu = time.monotonic(), time.process_time()
    yield
    seconds = {"seconds": round(time.monotonic() - start, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
    steps[name] = {**seconds, "peak": peak_bytes()}
    print(name, steps[name], file=sys.stderr, flush=True)


def peak_bytes() -> int:
    """Bytes of this process at their most since the last call (Linux)."""
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    with contextlib.suppress(OSError):  # then it is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return int(peak) * 1024


def write(path: Path, rows: int) -> None:
    """Writes the store, batch by batch."""
    made = np.random.default_rng(0).normal(size=(4099, FEATURES)).astype(ml_dtypes.bfloat16)
    with StoreWriter(
        path,
        taps={TAP: (FEATURES,)},
        labels=np.arange(rows) % CLASSES,
        ids=OnDemand(rows, "{:09d}".format),
        class_names=list(map(str, range(CLASSES))),
        data="made",
        fingerprint={},
        batch_size=BATCH,
        features_dtype="bfloat16",
    ) as writer:
        for start in range(0, rows, BATCH):
            writer.write(start, {TAP: made[np.arange(start, min(start + BATCH, rows)) % len(made)]})
        writer.finish()


def stream(store: FeatureStore) -> int:
    """Brings all rows of an epoch onto the devices; how many those are."""
    reader = Reader(Split(store.features, store.label_rows), CLASSES)
    chunks = Chunks(reader.num_rows, store.chunk_rows, default_window(FEATURES))
    epoch = Streamed(reader, devices.head_mesh(), 1024, chunks).chunks(0, 0, 0)
    return int(sum(chunk.batches.sizes.sum() for chunk in epoch))


def num_files(rows: int, features: int, size: int) -> dict[str, int]:
    """Files of a store of images that are files, with shards and with a file for each batch."""
    metadata = {
        **{"num_images": rows, "batch_size": BATCH, "taps": {TAP: [features]}, "features_dtype": "float32"},
        **{"row_chunk": store_format.ROWS_AT_ONCE, "id_width": 20, store_format.CONTENT: True},
    }
    shards = sizes.of_shards(rows, BATCH, [features * size])
    ways = {"shards": {**metadata, **shards}, "batches": metadata}
    return {way: sum(spec.num_files for spec in store_format.arrays(each).values()) for way, each in ways.items()}


def table(measured: dict[str, Any]) -> str:
    """The figures as the page shows them."""
    rows = measured["rows"]
    lines = ["| step | seconds | CPU seconds | memory |", "|---|---|---|---|"]
    for name, facts in measured["steps"].items():
        title = f"{RANDOM_ROWS:,} random rows" if name == "random rows" else name
        lines.append(f"| {title} | {facts['seconds']:.1f} | {facts['cpu_seconds']:.1f} | {facts['peak_mb']} MB |")
    lines += [
        "",
        f"{rows:,} rows of {FEATURES} bfloat16: {measured['bytes'] / 1e9:.2f} GB in {measured['files']:,} files.",
        "",
        "| rows | a row | files | with a file for each batch of 64 |",
        "|---|---|---|---|",
    ]
    for each in measured["counted"]:
        a_row = f"{each['features']:,} {'bfloat16' if each['bytes'] == 2 else 'float32'}"
        files = each["files"]
        lines.append(f"| {each['rows']:,} | {a_row} | {files['shards']:,} | {files['batches']:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
