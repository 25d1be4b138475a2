"""What extraction and heads of 14 and of 400 million images would take on a v5e-64, on paper; into docs/clusters.md.

python benchmarks/scaling_estimate.py            # prints it
python benchmarks/scaling_estimate.py --write    # puts it, and the table of scaling.json, into the page

Nothing of it was run there. Each figure is one of: measured here (scaling.json, input.json), a bound that the TPU's
compiler gives (tpu_pod.json), published by the maker, or assumed; the text says which.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import scaling

from transfer.store import sizes

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "clusters.md"
BLOCK = re.compile(r"(?<=<!-- scaling -->\n).*?(?=<!-- /scaling -->)", re.DOTALL)

CHIPS, VMS = 64, 16
# https://cloud.google.com/tpu/docs/v5e: memory of a chip and its bandwidth, its links (1,600 Gb/s), arithmetic in
# bfloat16.
CHIP_MEMORY, CHIP_BANDWIDTH, CHIP_LINKS, PEAK = 16 * 2**30, 819e9, 200e9, 197e12
# A product in full precision takes so many passes in bfloat16 (transfer.bench.target).
PASSES = 6
# Threads of a process that decode (transfer.data.loader.MOST_WORKERS); a VM of four chips has 112 vCPUs.
DECODERS = 32
# Assumed: bytes of a JPEG (ImageNet's 138 GB over 1,281,167), bytes a second that a VM reads from a bucket.
JPEG_BYTES, VM_READS = 108e3, 1e9
FEATURES, CLASSES, BATCH = 2048, 21_841, 4096


class Estimate(NamedTuple):
    """Of one data set; seconds unless the name says otherwise.

    Attributes:
        images: of the data set.
        compute, decode, read: each alone, over all chips or VMs.
        own: of our own code around the network, as measured, a process a VM.
        storage: bytes, by the type of the features.
        resident: whether bfloat16 features fit the chips' memory.
        epoch: of a head whose classes are on every chip, and over four of them.
    """

    images: int
    compute: float
    decode: float
    read: float
    own: float
    storage: Mapping[str, float]
    resident: bool
    epoch: tuple[float, float]

    @property
    def extraction(self) -> float:
        """The three overlap: the slowest of them."""
        return max(self.compute, self.decode, self.read)


def rates(measured: Mapping[str, Any], inputs: Mapping[str, Any], compiled: Mapping[str, Any]) -> dict[str, float]:
    """Images a second: of a chip, of a decoding thread; rows of a process around it; bytes that verify reads."""
    process = next(row for row in compiled["rows"] if row["program"] == "process" and "v5e" in row["target"])
    loading = next(row for row in inputs["rows"] if row["kind"] == "loading")
    extraction, verification = (
        max((row for row in measured["rows"] if row["case"] == case), key=lambda row: row["rows"])
        for case in ("extraction", "verification")
    )
    ours = sorted(loading["seconds"]["ours"])
    return {
        "chip": process["estimate"],
        "thread": 1 / ours[len(ours) // 2] / loading["threads"],
        "rows": extraction["rows"] / extraction["seconds"],
        "verify": verification["rows"] * scaling.WIDTH * 4 / verification["seconds"],
    }


def estimate(images: int, rate: Mapping[str, float]) -> Estimate:
    """See `Estimate`."""
    rows = {"float32": 4 * FEATURES, "bfloat16": 2 * FEATURES}
    storage = {kind: images * size for kind, size in rows.items()}
    resident = storage["bfloat16"] < 0.5 * CHIPS * CHIP_MEMORY
    reads = 0.0 if resident else storage["bfloat16"] / (VMS * VM_READS)
    return Estimate(
        images,
        compute=images / (rate["chip"] * CHIPS),
        decode=images / (rate["thread"] * DECODERS * VMS),
        read=images * JPEG_BYTES / (VMS * VM_READS),
        own=images / (rate["rows"] * VMS),
        storage=storage,
        resident=resident,
        epoch=tuple(max(reads, images / BATCH * step(over)) for over in (1, 4)),  # type: ignore[arg-type]
    )


def step(classes_over: int) -> float:
    """Seconds of a step of the head: the product, the optimiser's reads and writes, the sum of gradients."""
    kernel = FEATURES * CLASSES * 4 / classes_over
    data = CHIPS / classes_over
    arithmetic = BATCH / data * 4 * FEATURES * CLASSES / classes_over / (PEAK / PASSES)
    # parameters and two moments read and written, gradients read
    optimiser = 7 * kernel / CHIP_BANDWIDTH
    return arithmetic + optimiser + 2 * kernel * (data - 1) / data / CHIP_LINKS


def text(content: Mapping[str, Any], rate: Mapping[str, float]) -> str:
    """The section of the page."""
    sets = {"ImageNet-21k": estimate(14_197_122, rate), "400 million": estimate(400_000_000, rate)}
    machine = content["rows"][0]
    measured = f"""Measured on {machine["cores"]} cores ({machine["processor"]}), jax {machine["jax"]}, by
        `{content["command"]}`: seconds of the work, and peak memory of a process that does nothing else. Extraction is
        of generated images through a tiny network, so that what is around the network shows; heads train and are
        evaluated on {scaling.WIDTH} features a row that stream from a store, {scaling.WINDOW:,} rows at a time (1,000
        rows are less than that, and take less memory). The exponent is that of the rows in the time."""
    paper = f"""On paper, for a v5e-64 ({CHIPS} chips, {VMS} VMs): ResNet-50 in bfloat16, and a head for {CLASSES:,}
        classes on its {FEATURES:,} features. Nothing of it was run there."""
    of_shard = sizes.of_shards(400_000_000, 1024, [2 * FEATURES])["shard_rows"]
    costs = f"""What costs: reading the images, unless a VM reads faster than assumed; then the chips. Of the head the
        optimiser and the sum of gradients, not the products: `--config.mesh.model=4` takes a quarter of both. 400
        million rows do not fit the chips' memory and stream from the bucket in every epoch. A shard of features is an
        object, which costs by the piece: with {of_shard:,} rows in each there are {-(-400_000_000 // of_shard):,} of
        them, and as many of their checksums."""
    table = ["| | " + " | ".join(sets) + " | from |", "|---|---|---|---|", *_lines(sets, rate)]
    parts = [scaling.table(content), _wrapped(measured), _wrapped(paper), "\n".join(table), _wrapped(costs)]
    return "\n\n".join(parts) + "\n"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 128, break_on_hyphens=False, break_long_words=False)


def _lines(sets: Mapping[str, Estimate], rate: Mapping[str, float]) -> list[str]:
    both = list(sets.values())

    def line(name: str, cells: list[str], source: str) -> str:
        return f"| {name} | " + " | ".join(cells) + f" | {source} |"

    return [
        line(
            "network on the chips",
            [_time(one.compute) for one in both],
            f"bound: the compiler's estimate, {rate['chip']:,.0f} images/s a chip",
        ),
        line(
            "decoding",
            [_time(one.decode) for one in both],
            f"measured: {rate['thread']:,.0f} images/s a thread (500x375); assumed: {DECODERS} threads a VM scale",
        ),
        line(
            "reading JPEGs",
            [f"{_time(one.read)} ({_bytes(one.images * JPEG_BYTES)})" for one in both],
            f"assumed: {JPEG_BYTES / 1e3:.0f} kB an image, {VM_READS / 1e9:.0f} GB/s a VM",
        ),
        line(
            "our code around the network",
            [_time(one.own) for one in both],
            f"measured: {rate['rows']:,.0f} rows/s a process on two cores",
        ),
        line("**extraction**", [f"**{_hours(one.extraction)}**" for one in both], "the slowest of the first three"),
        line(
            "storage, float32 / bfloat16",
            [f"{_bytes(one.storage['float32'])} / {_bytes(one.storage['bfloat16'])}" for one in both],
            "computed",
        ),
        line(
            "features in the chips' memory",
            ["yes" if one.resident else "no, streamed" for one in both],
            "computed: bfloat16 in half of 16 GiB a chip",
        ),
        line(
            f"an epoch of the head, {BATCH:,} rows a step",
            [_time(one.epoch[0]) for one in both],
            "bound: published peaks; product in six passes, optimiser, sum of gradients, one after the other",
        ),
        line(
            "the same, classes over four chips", [_time(one.epoch[1]) for one in both], "the same; 1 GB/s a VM assumed"
        ),
        line("**50 epochs** of the head", [f"**{_hours(50 * one.epoch[1])}**" for one in both], ""),
        line(
            "`features verify`, bfloat16",
            [_time(one.storage["bfloat16"] / rate["verify"]) for one in both],
            f"measured: {rate['verify'] / 1e6:,.0f} MB/s of one process on a local disk",
        ),
    ]


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h"


def _bytes(count: float) -> str:
    return f"{count / 1e12:.2g} TB" if count >= 1e12 else f"{count / 1e9:.0f} GB"


def section() -> str:
    """The text of the section, made from the JSON files beside this one."""
    files = ("scaling.json", "input.json", "tpu_pod.json")
    measured, inputs, compiled = (json.loads((FOLDER / name).read_text()) for name in files)
    return text(measured, rates(measured, inputs, compiled))


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(BLOCK.sub(lambda _: section(), PAGE.read_text()))
    else:
        print(section(), end="")


if __name__ == "__main__":
    main()
