"""The measures in a run's `metrics.jsonl`, without when and how fast an epoch was, which no two runs have alike."""

import json
from pathlib import Path
from typing import Any

TIMES = ("time", "seconds", "rows_per_second")


def rows(workdir: Path) -> list[dict[str, Any]]:
    """A row for each epoch."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]
