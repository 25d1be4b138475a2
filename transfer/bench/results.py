"""The JSON of a benchmark: the command that made it, and its rows, written after each so that none is lost.

    {"schema": 1, "command": "python -m transfer bench …", "date": "2025-01-31T12:00:00+00:00", "complete": true,
     "rows": [{"kind": "extractor" | "head" | "target", …, "failed": null | "why", …machine}, …]}

A row is whole in itself: it repeats the machine, versions, flags and commit. `complete` is false while the run goes on,
and stays so where it was interrupted.
"""

import dataclasses
import datetime
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.bench.machine import machine
from transfer.errors import TransferError
from transfer.runtime.files import atomic

SCHEMA = 1
# Contenders of every extractor's row: a step on the device; uint8 in host memory -> NumPy; a CPU's yardstick.
OURS, END_TO_END, MATMUL = "compute", "end to end", "matmul"

Row = Mapping[str, Any]


@dataclasses.dataclass(kw_only=True)
class ExtractorRow:
    """What is measured of one network at one batch size in one dtype; None is a figure that is not known.

    Attributes:
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

    model: str
    weights: str
    tap: str
    image_size: tuple[int, int]
    batch: int
    batch_asked: int
    dtype: str
    precision: str
    kind: str = "extractor"
    failed: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    compile_seconds: float | None = None
    step_ms: float | None = None
    step_ms_p10: float | None = None
    step_ms_p90: float | None = None
    images_per_second: float | None = None
    images_per_second_per_device: float | None = None
    images_per_second_end_to_end: float | None = None
    gflops_per_image: float | None = None
    tflops: float | None = None
    peak_tflops: float | None = None
    peak_source: str | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    error: float | None = None
    error_tap: str | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    peers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


class Results:
    """Rows as they come; `path` None keeps them in memory only."""

    def __init__(self, arguments: Sequence[str], path: Path | None) -> None:
        self.command = shlex.join(["python", "-m", "transfer", "bench", *arguments])
        self.path, self.complete = path, False
        self.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Row) -> None:
        """Appends a row with the machine behind it, and writes the file."""
        self.rows.append({**row, **machine()})
        self.write()

    def finish(self) -> None:
        """Marks the run as complete, and writes the file."""
        self.complete = True
        self.write()

    def text(self) -> str:
        """The JSON."""
        about = {"schema": SCHEMA, "command": self.command, "date": self.date, "complete": self.complete}
        return json.dumps({**about, "rows": self.rows}, indent=1, allow_nan=False) + "\n"

    def write(self) -> None:
        """Replaces the file as a whole; OSError, naming it, where the disk is full."""
        if self.path is not None:
            atomic.write_text(self.path, self.text())


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
