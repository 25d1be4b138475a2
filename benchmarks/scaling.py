"""Time and memory against the number of rows, for everything that goes through all of them.

python benchmarks/scaling.py               # measures what scaling.json lacks; may be stopped and started again
python benchmarks/scaling.py --table       # prints what it holds
python benchmarks/scaling_estimate.py      # what follows for ImageNet-21k and 400 million images

Every case runs in a process of its own, whose peak memory it reports. The time is that of the work: not of importing,
compiling or making the data. Extraction reads images that a source makes as they are asked for, so that nothing but our
own code could hold a million of them; heads are trained and evaluated on features that stream from a store.
"""

import argparse
import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from on_demand import OnDemand

FOLDER = Path(__file__).parent
MEASUREMENTS = FOLDER / "scaling.json"
COMMAND = "python benchmarks/scaling.py"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
# Features of a stored row, classes, and rows of a chunk; images of a batch, pixels of their sides.
WIDTH, CLASSES, CHUNK, BATCH, SIDE = 64, 10, 1000, 1000, 8
# Rows of a window of streamed features: eight chunks, so that from ten thousand rows on there is more than one.
WINDOW = 8 * CHUNK
# The seconds that small runs take together, so that their median means something and memory comes to rest.
LONG_ENOUGH, MOST_REPEATS = 3.0, 200
GOAL_EXPONENT, GOAL_MEMORY = 1.02, 1.10


class MadeSource:
    """Images that are parts of one long noise; nothing in it is as long as the data set (`transfer.data.Source`)."""

    name, class_names = "made", tuple(map(str, range(CLASSES)))
    uniform_shape = (SIDE, SIDE, 3)

    def __init__(self, rows: int) -> None:
        self.fingerprint = f"made {rows}"
        self.ids = OnDemand(rows, "train/{:09d}".format)
        self.labels = OnDemand(rows, lambda row: row % CLASSES)
        self._noise = np.random.default_rng(0).integers(0, 256, 10_007 + SIDE * SIDE * 3, np.uint8)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> np.ndarray:
        """(SIDE, SIDE, 3) uint8."""
        start = row * 31 % 10_007
        return self._noise[start : start + SIDE * SIDE * 3].reshape(SIDE, SIDE, 3)

    def image_into(self, row: int, out: Any = None, divisor: Any = None) -> np.ndarray:
        """The image of a row, as `image` has it; `out` is not written to."""
        return self.image(row)

    def shared_shape(self, indices: Any) -> tuple[int, int, int]:
        """The shape of all images, which is one."""
        return self.uniform_shape


def extractor() -> Any:
    """A network that does little, so that a million images are affordable: what grows is what is around it."""
    import jax.numpy as jnp
    from flax import nnx

    from transfer.extract import Extractor
    from transfer.preprocess.recipe import Preprocessing

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> tuple[Any, dict[str, Any]]:
            x = nnx.relu(self.conv(x))
            return x, {"pre_logits": jnp.mean(x, (1, 2))}

    recipe = Preprocessing(image_size=(SIDE, SIDE), scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Extractor(Network(), batch_size=BATCH, preprocessing=recipe)


def extraction(rows: int, folder: Path) -> Iterator[Callable[[], object]]:
    """Images into a new store, from creating it to counting its rows."""
    from transfer.extract import extract_to_store

    ours, runs = extractor(), folder / f"extraction_{rows}"
    shutil.rmtree(runs, ignore_errors=True)
    extract_to_store(ours, MadeSource(BATCH), runs / "warm")
    numbers = itertools.count()
    while True:
        yield lambda: extract_to_store(ours, MadeSource(rows), runs / str(next(numbers)))


def store(rows: int, folder: Path) -> Path:
    """A store of features with as much in them that a head can learn, written once."""
    from transfer.store.store import FeatureStore
    from transfer.store.writer import StoreWriter

    path = folder / f"features_{rows}"
    means = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)
    settings = dict(taps={"pre_logits": (WIDTH,)}, class_names=MadeSource.class_names, data="made", fingerprint={})
    source = MadeSource(rows)
    labels, ids = source.labels, source.ids
    with StoreWriter(path, labels=labels, ids=ids, batch_size=CHUNK, **settings) as writer:
        if writer.complete:
            return path
        for first, last in writer.pending():
            for start in range(first, last, CHUNK):
                of_chunk = np.arange(start, min(start + CHUNK, last)) % CLASSES
                noise = np.random.default_rng(start).normal(size=(len(of_chunk), WIDTH))
                writer.write(start, {"pre_logits": noise.astype(np.float32) + means[of_chunk]})
        writer.finish()
    assert len(FeatureStore.open(path)) == rows
    return path


def epochs(train: Any, validation: Any) -> Callable[[], object]:
    """One epoch of the published recipe on streamed rows after the other, the first one done."""
    import jax

    from transfer.heads.programs import LINEAR
    from transfer.runtime import devices
    from transfer.training.parallel.epochs import MeshTrainer

    trainer = MeshTrainer(
        train,
        validation,
        CLASSES,
        devices.head_mesh(),
        order="chunks",
        chunk_rows=CHUNK,
        window_rows=WINDOW,
        stream=True,
    )
    state, number = trainer.shard_state(LINEAR.init_state(WIDTH, CLASSES, LINEAR.init_key(0))), 0

    def one() -> None:
        nonlocal state, number
        state, metrics = trainer.epoch(state, number)
        assert all(map(math.isfinite, metrics.values()))
        jax.block_until_ready(state)
        number += 1

    one()
    return one


def training(rows: int, folder: Path) -> Iterator[Callable[[], object]]:
    """An epoch of a head on streamed features, without validation."""
    from transfer.store.store import FeatureStore
    from transfer.training.parallel.reader import Split

    opened = FeatureStore.open(store(rows, folder))
    one = epochs(Split(opened.features, opened.label_rows), None)
    while True:
        yield one


def evaluation(rows: int, folder: Path) -> Iterator[Callable[[], object]]:
    """A pass over streamed validation rows, behind an epoch of one step."""
    from transfer.store.store import FeatureStore
    from transfer.training.parallel.reader import Split

    opened = FeatureStore.open(store(rows, folder))
    few = Split(opened.features[:256], opened.label_rows[:256])
    one = epochs(few, Split(opened.features, opened.label_rows))
    while True:
        yield one


def opening(rows: int, folder: Path) -> Iterator[Callable[[], object]]:
    """Opening a store, and its first chunk."""
    from transfer.store.store import FeatureStore

    path = store(rows, folder)

    def one() -> None:
        opened = FeatureStore.open(path)
        first = opened.chunk(0)
        assert len(opened.features[first]) == len(opened.id_rows[first]) == min(rows, opened.chunk_rows)

    while True:
        yield one


def verification(rows: int, folder: Path) -> Iterator[Callable[[], object]]:
    """`features verify`: every chunk read, every row's checksum computed anew."""
    from transfer.store.format import read_metadata
    from transfer.store.verify import verify

    path = store(rows, folder)

    def one() -> None:
        assert not verify(str(path), read_metadata(str(path)))

    while True:
        yield one


CASES = {one.__name__: one for one in (extraction, training, evaluation, opening, verification)}


def measured(case: str, rows: int, folder: Path) -> dict[str, Any]:
    """The median of a case's runs in this process, and this process' peak memory."""
    from transfer.bench.machine import machine
    from transfer.runtime.devices import use_cores

    use_cores()
    seconds: list[float] = []
    for run in CASES[case](rows, folder):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > LONG_ENOUGH or len(seconds) == MOST_REPEATS:
            break
    return {
        "case": case,
        "rows": rows,
        "seconds": statistics.median(seconds),
        "runs": len(seconds),
        "peak_bytes": peak_bytes(),
        **machine(),
    }


def peak_bytes() -> int:
    """Of this program alone: what resource.getrusage says would begin with what its parent had."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def measure(cases: Sequence[str], sizes: Sequence[int], folder: Path, output: Path) -> None:
    """Each case that is not there yet, in a process of its own, written as soon as it is known."""
    found = json.loads(output.read_text())["rows"] if output.exists() else []
    there = {(row["case"], row["rows"]) for row in found}
    for rows in sizes:
        if set(cases) - {"extraction"} - {case for case, size in there if size == rows}:
            child("store", rows, folder)
        for case in cases:
            if (case, rows) in there:
                continue
            found.append(json.loads(child(case, rows, folder)))
            print(
                f"{case:12} {rows:>9,} rows {found[-1]['seconds']:10.4f} s {found[-1]['peak_bytes'] / 2**20:8.0f} MiB"
            )
            shutil.rmtree(folder / f"extraction_{rows}", ignore_errors=True)
            content = {"command": COMMAND, **fitted(found), "rows": found}
            output.write_text(json.dumps(content, indent=1) + "\n")


def child(case: str, rows: int, folder: Path) -> str:
    """The last line that it prints."""
    command = [sys.executable, __file__, f"--child={case}", f"--rows={rows}", f"--folder={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return (done.stdout.splitlines() or [""])[-1]


def fitted(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Exponents of the time, over all sizes and over the last tenfold, and memory at 100 N over that at N."""
    fits = {}
    for case in dict.fromkeys(row["case"] for row in found):
        points = sorted((row["rows"], row["seconds"]) for row in found if row["case"] == case)
        peaks = {row["rows"]: row["peak_bytes"] for row in found if row["case"] == case}
        fits[case] = {
            "exponent": exponent(points),
            "exponent_of_last_tenfold": exponent(points[-2:]),
            "memory_at_100_n": [peaks[100 * n] / peaks[n] for n in sorted(peaks) if 100 * n in peaks],
        }
    return {"fits": fits}


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """By least squares of log seconds on log rows; None for fewer than two points."""
    if len(points) < 2:
        return None
    rows, seconds = np.log(np.array(points, float)).T
    return float(np.polyfit(rows, seconds, 1)[0])


def table(content: Mapping[str, Any]) -> str:
    """For a page: a line a case, seconds and MiB by rows."""
    sizes = sorted({row["rows"] for row in content["rows"]})
    by_size = {(row["case"], row["rows"]): row for row in content["rows"]}
    lines = [
        "| | "
        + " | ".join(f"{size:,} rows" for size in sizes)
        + " | exponent | of the last tenfold | memory of 100 N over that of N |",
        "|---" * (len(sizes) + 4) + "|",
    ]
    for case, fit in content["fits"].items():
        cells = [
            f"{row['seconds']:.3g} s, {row['peak_bytes'] / 2**20:.0f} MiB"
            for row in (by_size[case, size] for size in sizes if (case, size) in by_size)
        ]
        powers = [fit["exponent"], fit["exponent_of_last_tenfold"]]
        cells += ["-" if power is None else f"{power:.2f}" for power in powers]
        cells.append(", ".join(f"{ratio:.2f}" for ratio in fit["memory_at_100_n"]) or "-")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="sizes, comma separated")
    parser.add_argument("--cases", default=",".join(CASES), help="comma separated")
    parser.add_argument(
        "--folder", type=Path, help="where stores are kept between two starts (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, default=MEASUREMENTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(size) for size in options.rows.split(",")]
    if options.child == "store":
        store(sizes[0], options.folder)
    elif options.child:
        print(json.dumps(measured(options.child, sizes[0], options.folder)))
    elif options.table:
        print(table(json.loads(options.output.read_text())))
    else:
        with tempfile.TemporaryDirectory(prefix="transfer_scaling_") as temporary:
            measure(options.cases.split(","), sizes, options.folder or Path(temporary), options.output)


if __name__ == "__main__":
    main()
