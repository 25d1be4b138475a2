"""The JSON of a benchmark: the command that made it, and its rows, written after each so that none is lost.

    {"schema": 2, "command": "python -m transfer bench …", "date": "2026-01-31T12:00:00+00:00", "complete": true,
     "units": {"step_ms": "ms", …},
     "rows": [{"kind": "extractor" | "head" | "latency" | …, …, "failed": null | "why", …machine}, …]}

A row is whole in itself: it repeats the machine, versions, flags and commit. `complete` is false while the run goes on,
and stays so where it was interrupted. What the fields are, and in which units, stands in `FIELDS`; None is a figure
that is not known, and a row that failed has none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import TransferError

SCHEMA = 2
# Contenders of every extractor's row: a step on the device; uint8 in host memory -> NumPy; a CPU's yardstick.
OURS, END_TO_END, MATMUL = "compute", "end to end", "matmul"

Row = Mapping[str, Any]

# Field of a row -> its unit ("" for what has none), and what it is. Those of --target are in `transfer.bench.target`.
FIELDS = {
    "model": ("", "catalogue name or architecture"),
    "weights": ("", '"random", or the name of the weight file'),
    "tap": ("", "end points, comma separated"),
    "image_size": ("pixels", "(height, width) of the network's input"),
    "batch": ("images", "images a step"),
    "batch_asked": ("images", "more than `batch` where memory ran out and it was halved"),
    "dtype": ("", "as `transfer.Extractor` takes it"),
    "precision": ("", "as `transfer.Extractor` takes it"),
    "failed": ("", "why the row has no figures, one line"),
    "notes": ("", "what a reader should know, one line each"),
    "compile_seconds": ("s", "from a model to its first features: folding, planning, tracing, compiling; no cache"),
    "step_ms": ("ms", "one batch, images on the device, features left there: the median of all single steps"),
    "step_ms_p10": ("ms", "their 10th percentile"),
    "step_ms_p90": ("ms", "their 90th percentile"),
    "images_per_second": ("images/s", "of the median step, over all `devices`"),
    "images_per_second_per_device": ("images/s", "of the median step, over one of them"),
    "images_per_second_end_to_end": ("images/s", "uint8 in host memory -> float32 NumPy, through `Extractor.stream`"),
    "gflops_per_image": ("GFLOP", "multiply-adds of convolutions and dense layers up to the tap, times 2"),
    "tflops": ("TFLOP/s", "achieved on all `devices`"),
    "peak_tflops": ("TFLOP/s", "of all `devices`, or of a matmul in the same rounds"),
    "peak_source": ("", '"published", "given" by --peak_tflops, or "matmul"'),
    "mfu": ("", "`tflops` over `peak_tflops`, published or given"),
    "times_matmul": ("", "`tflops` over `peak_tflops` of the matmul, where no peak is published: on a CPU"),
    "joules_per_image": ("J", "of a step, as the machine's own counters have it; None where it has none"),
    "peak_memory_bytes": (
        "bytes",
        "of the fullest device, or what the compiler says; on a CPU, resident in the process",
    ),
    "parameters": ("", "of the network as it was built, without a classifier that no tap needs"),
    "error": ("", 'largest relative error at any tap against float32 at precision "highest"'),
    "error_tap": ("", "where that is"),
    "errors": ("", "tap -> its error"),
    "seconds": ("s", "contender -> seconds a batch (a training, an image, a request), one figure a round"),
    "spread": ("", "contender -> 10th to 90th percentile of its rounds, over their median"),
    "peers": ("", "name -> `ratio` (how many times faster ours is), `images_per_second`, `error`; or `skipped`: why"),
    "latency_ms": ("ms", "`p50`, `p90`, `p99` of requests; p99 of fewer than 100 is about the slowest"),
    "rate": ("requests/s", "how often requests come; None: the next as soon as one is answered"),
    "requests": ("", "how many there were"),
    "cold_start_seconds": ("s", "from a new process to its first features: Python, JAX, weights, compiling"),
    "idle_share": ("", "of the time end to end in which the device waits for images"),
    "seed": ("", "of random weights, images and rows"),
    "rounds": ("", "samples of everything that is compared"),
    "sample_seconds": ("s", "how long a sample goes on at least"),
    "load_before": ("", "mean number of running processes in the last minute, before the row"),
    "load_after": ("", "and after it, this benchmark's own among them"),
    "busy": ("", "share of the cores' time that others took before the first row, 0 to 1"),
    "host_memory_bytes": ("bytes", "of the machine, or of the container"),
    "cores": ("", "that the process may run on"),
}


def text(command: str, date: str, rows: Sequence[Row], complete: bool) -> str:
    """The JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    content = {
        "schema": SCHEMA,
        "command": command,
        "date": date,
        "complete": complete,
        "units": {name: FIELDS[name][0] for name in names if name in FIELDS and FIELDS[name][0]},
        "rows": rows,
    }
    # JSON has no NaN: of a precision whose features are not finite, say
    content = json.loads(json.dumps(content), parse_constant=lambda name: None)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The contents of result files, in the order given; TransferError for a file that is not one."""
    contents = []
    for path in paths:
        try:
            content = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise TransferError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("schema") not in (1, SCHEMA) or "rows" not in content:
            raise TransferError(f"{path} is not a result of `python -m transfer bench --output`")
        if content["schema"] == 1:  # which called the share of a matmul MFU, too
            content["rows"] = [_with_times_matmul(row) for row in content["rows"]]
        contents.append(content)
    return contents


def _with_times_matmul(row: Row) -> dict[str, Any]:
    return {**row, "mfu": None, "times_matmul": row["mfu"]} if row.get("peak_source") == MATMUL else dict(row)
