"""How fast shards are listed, what memory that takes, and how fast their images come in beside a folder's.

python benchmarks/shards.py listing    # ten million rows, into shards.json
python benchmarks/shards.py reading    # 600 JPEGs
python benchmarks/shards.py            # prints what shards.json holds

Ten million rows are ten shards of 10,000 that are listed under a thousand names (links), so that they fit on a disk;
every name is listed by itself. Each listing is a process of its own, whose peak memory it reports, less that of
one that lists ten rows. Images are read and resized to 224 pixels by `transfer.data.loader`, the same JPEGs from
everywhere, in turn, round by round; the ratio is the median of the rounds' ratios. Their seconds are of CPU time, of
all threads, which other programs on the machine leave as it is: reading is bound by it.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MEASUREMENTS = Path(__file__).parent / "shards.json"
ROWS_OF_SHARD, FILES = 10_000, 10
TINY = b"\xff\xd8\xff" + bytes(97)  # nobody decodes it
CLASSES = 1000
JPEGS, GROUP, BATCH = 600, 100, 64


def main() -> None:
    """Measures the parts that are asked for, and keeps the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("part", nargs="?", choices=("listing", "reading"))
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--images", type=int, default=JPEGS)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--output", default=str(MEASUREMENTS))
    options.add_argument("--list", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.list:
        print(json.dumps(listing(given.list)))
        return
    output = Path(given.output)
    measured = json.loads(output.read_text()) if output.exists() else {}
    if part := given.part:
        with tempfile.TemporaryDirectory(prefix="transfer_shards_") as temporary:
            folder = Path(temporary)
            measured[part] = {
                "command": f"python benchmarks/shards.py {part}",
                "cores": len(os.sched_getaffinity(0)),
                "load": os.getloadavg()[0],
                "python": sys.version.split()[0],
                **(listings(folder, given.rows) if part == "listing" else reading(folder, given.images, given.rounds)),
            }
        output.write_text(json.dumps(measured, indent=1) + "\n")
    print(table(measured))


def listing(spec: str) -> dict[str, Any]:
    """Opens a data set: rows, seconds, seconds for its fingerprint, and the most memory that the process had (MB)."""
    import pyarrow.parquet  # noqa: F401

    from transfer.data import open_source

    start = time.perf_counter()
    source = open_source(spec)
    opened = time.perf_counter()
    source.fingerprint  # noqa: B018 - a pass over all ids
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"rows": len(source), "seconds": opened - start, "fingerprint": ended - opened, "peak_mb": peak}


def listings(folder: Path, rows: int) -> dict[str, Any]:
    """A row for each kind: the first time, and again where an index is kept."""
    found = []
    makers: dict[str, Callable[[Path, int, int], None]] = {"wds": tiny_tar, "parquet": tiny_parquet}
    for kind, make in makers.items():
        ending = {"wds": "tar", "parquet": "parquet"}[kind]
        least = folder / f"{kind}_least"
        make(least / f"train-0.{ending}", 0, 10)
        many = folder / f"{kind}_many"
        for shard in range(max(rows // ROWS_OF_SHARD, 1)):
            path = many / f"train-{shard:06d}.{ending}"
            if shard < FILES:
                make(path, shard, min(rows, ROWS_OF_SHARD))
            else:
                path.hardlink_to(many / f"train-{shard % FILES:06d}.{ending}")
        base = in_process(f"{kind}:{least}", folder / "cache")["peak_mb"]
        for when in ("first", "again")[: 2 if kind == "wds" else 1]:
            row = in_process(f"{kind}:{many}", folder / "cache")
            row["memory_mb"] = row.pop("peak_mb") - base
            found.append({"kind": kind, "when": when, **row})
            print(found[-1], file=sys.stderr)
    return {"kinds": found}


def in_process(spec: str, cache: Path) -> dict[str, Any]:
    """`listing` by a process of its own."""
    environment = {**os.environ, "TRANSFER_CACHE": str(cache)}
    command = [sys.executable, __file__, f"--list={spec}"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    """Writes a tar of files, each a name and its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def tiny_tar(path: Path, shard: int, rows: int) -> None:
    """A shard of samples of an image and a class."""
    files = []
    for row in range(rows):
        files += [(f"{shard:04d}{row:06d}.jpg", TINY), (f"{shard:04d}{row:06d}.cls", b"%d" % (row % CLASSES))]
    write_tar(path, files)


def tiny_parquet(path: Path, shard: int, rows: int) -> None:
    """A shard of images and classes, in row groups of a thousand."""
    write_parquet(path, [TINY] * rows, [row % CLASSES for row in range(rows)], 1000)


def write_parquet(path: Path, images: list[bytes], labels: list[int], group: int) -> None:
    """Writes a Parquet file of encoded images and their labels, so many rows a group."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pyarrow.array([{"bytes": image, "path": None} for image in images])
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": labels}), path, row_group_size=group)


def reading(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """Images a second of CPU time of each kind, a figure a round, and the median of its ratios to the folder's."""
    import datasets

    from transfer.bench import photographs
    from transfer.data import open_source
    from transfer.data.loader import batches, default_workers
    from transfer.preprocess.recipe import Preprocessing

    photographs.write(folder / "jpegs", [(375, 500), (500, 375), (333, 500)], images, 0)
    files = sorted((folder / "jpegs").rglob("*.jpg"))
    data, labels = [file.read_bytes() for file in files], [row % 2 for row in range(len(files))]
    samples: list[tuple[str, bytes]] = []
    for row, image in enumerate(data):
        samples += [(f"{row:06d}.jpg", image), (f"{row:06d}.cls", b"%d" % labels[row])]
    write_tar(folder / "wds" / "train-0.tar", samples)
    write_parquet(folder / "parquet" / "train-0.parquet", data, labels, GROUP)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": image, "path": None} for image in data], "label": labels}
    datasets.Dataset.from_dict(rows, features).save_to_disk(folder / "hf")
    os.environ["TRANSFER_CACHE"] = str(folder / "cache")
    kinds = {kind: open_source(f"{kind}:{folder / kind}") for kind in ("wds", "parquet", "hf")}
    sources = {"folder": open_source(f"folder:{folder / 'jpegs'}"), **kinds}
    recipe = Preprocessing((224, 224))

    def one_pass(kind: str) -> float:
        start = time.process_time()
        count = sum(batch.size for batch in batches(sources[kind], 0, len(files), BATCH, recipe))
        return count / (time.process_time() - start)

    for kind in sources:
        one_pass(kind)  # files into the system's cache, libraries loaded
    rates: dict[str, list[float]] = {kind: [] for kind in sources}
    for number in range(rounds):
        for kind in np.roll(list(sources), number).tolist():
            rates[kind].append(round(one_pass(kind), 1))
    ratio = {kind: round(statistics.median(np.divide(rates[kind], rates["folder"]).tolist()), 3) for kind in sources}
    return {"images": len(files), "threads": default_workers(), "images_a_cpu_second": rates, "ratio": ratio}


def table(measured: dict[str, Any]) -> str:
    """The measurements, as Markdown."""
    lines = ["| | rows | rows a second | memory | bytes a row | fingerprint |", "|---|---|---|---|---|---|"]
    for row in measured.get("listing", {"kinds": ()})["kinds"]:
        name = row["kind"] + (", from the kept index" if row["kind"] == "wds" and row["when"] == "again" else "")
        bytes_a_row = row["memory_mb"] * 2**20 / row["rows"]
        lines.append(
            f"| {name} | {row['rows']:,} | {row['rows'] / row['seconds']:,.0f} | {row['memory_mb']:,} MB "
            f"| {bytes_a_row:.0f} | {row['fingerprint']:.0f} s |"
        )
    lines += ["", "| source | images a CPU second | of the folder's |", "|---|---|---|"]
    for kind, rates in measured.get("reading", {"images_a_cpu_second": {}})["images_a_cpu_second"].items():
        lines.append(f"| {kind} | {statistics.median(rates):,.0f} | {measured['reading']['ratio'][kind]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
