"""The JSON of a benchmark: the command that made it, and its rows, written after each so that none is lost.

    {"schema": 1, "command": "python -m transfer bench …", "date": "2025-01-31T12:00:00+00:00", "complete": true,
     "rows": [{"kind": "extractor" | "head" | "target", …, "failed": null | "why", …machine}, …]}

A row is whole in itself: it repeats the machine, versions, flags and commit. `complete` is false while the run goes on,
and stays so where it was interrupted.

A row of kind "extractor" is of one network at one batch size in one dtype; None is a figure that is not known, and a
row that failed has none:

    model: catalogue name or architecture.
    weights: "random", or the name of the weight file.
    tap: end points, comma separated.
    image_size: (height, width) of the network's input, pixels.
    batch: images a step; `batch_asked` is more where memory ran out and it was halved.
    dtype, precision: as `transfer.Extractor` takes them.
    failed: why the row has no figures, one line.
    notes: what a reader should know, one line each.
    compile_seconds: from a model to its first features: folding, planning, tracing, compiling; no cache.
    step_ms, step_ms_p10, step_ms_p90: one batch, images on the device, features left there; median and percentiles of
      all single steps.
    images_per_second: of the median step; `images_per_second_per_device`: over `devices`.
    images_per_second_end_to_end: uint8 in host memory -> float32 NumPy, through `Extractor.stream`.
    gflops_per_image: multiply-adds of convolutions and dense layers up to the tap, times 2, in 1e9.
    tflops: achieved, 1e12 a second on all `devices`.
    peak_tflops: of all `devices`; `peak_source` is "published" or "matmul", measured in the same rounds.
    mfu: `tflops` over `peak_tflops`.
    peak_memory_bytes: of the fullest device, or what the compiler says where an earlier row held more; on a CPU,
      resident in the process.
    parameters: of the network as it was built, without a classifier that no tap needs.
    error: largest relative error at any tap against float32 at precision "highest"; `error_tap` which; `errors` all.
    seconds: contender -> seconds a batch, one figure a round: "compute" (ours), "end to end", "matmul", each peer.
    peers: name -> `ratio` (how many times faster ours is, median over rounds), `images_per_second`, `error` (of its
      features against ours); or `skipped`: why.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import TransferError

SCHEMA = 1
# Contenders of every extractor's row: a step on the device; uint8 in host memory -> NumPy; a CPU's yardstick.
OURS, END_TO_END, MATMUL = "compute", "end to end", "matmul"

Row = Mapping[str, Any]


def text(command: str, date: str, rows: Sequence[Row], complete: bool) -> str:
    """The JSON."""
    content = {"schema": SCHEMA, "command": command, "date": date, "complete": complete, "rows": rows}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The contents of result files, in the order given; TransferError for a file that is not one."""
    contents = []
    for path in paths:
        try:
            content = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise TransferError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise TransferError(f"{path} is not a result of `python -m transfer bench --output`")
        contents.append(content)
    return contents
