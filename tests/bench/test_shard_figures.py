"""`benchmarks/shards.py`: what is committed reaches its goals and stands on the page; it runs, on a few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "data.md"
MEASURED = json.loads((BENCHMARKS / "shards.json").read_text())
MOST_BYTES_A_ROW, LEAST_RATIO = 150, 0.95


def test_ten_million_rows_are_listed_in_bounded_memory_and_read_as_fast_as_a_folder():
    kinds = {(row["kind"], row["when"]): row for row in MEASURED["listing"]["kinds"]}
    assert set(kinds) == {("wds", "first"), ("wds", "again"), ("parquet", "first")}
    for row in kinds.values():
        assert row["rows"] == 10_000_000
        assert row["memory_mb"] * 2**20 / row["rows"] < MOST_BYTES_A_ROW
    assert set(MEASURED["reading"]["ratio"]) == {"folder", "wds", "parquet", "hf"}
    assert min(MEASURED["reading"]["ratio"].values()) >= LEAST_RATIO


def test_the_page_shows_what_the_file_says(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import shards

    assert shards.table(MEASURED) in PAGE.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["listing", "reading"])
def test_it_runs(part, tmp_path):
    output = tmp_path / "shards.json"
    command = [sys.executable, "shards.py", part, "--rows=20000", "--images=8", "--rounds=1", f"--output={output}"]
    subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True, timeout=120)
    measured = json.loads(output.read_text())[part]
    if part == "listing":
        assert [row["rows"] for row in measured["kinds"]] == [20_000] * 3
    else:
        assert measured["images"] == 8 and measured["ratio"]["folder"] == 1.0
