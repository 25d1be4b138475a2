"""`benchmarks/large_store.py`: what is committed reaches its goals and stands on the page; it runs, on a few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "large-data.md"
MEASURED = json.loads((BENCHMARKS / "large_store.json").read_text())
MOST_FILES, MOST_MB = 13_000, 500


def test_ten_million_rows_are_some_thousand_files_and_take_the_memory_of_a_few_chunks():
    assert MEASURED["rows"] == 10_000_000 and MEASURED["files"] < 5000
    assert set(MEASURED["steps"]) == {"write", "open", "verify", "stream", "random rows"}
    assert max(facts["peak_mb"] for facts in MEASURED["steps"].values()) < MOST_MB
    assert MEASURED["steps"]["open"]["seconds"] < 1


def test_the_files_are_those_that_a_store_would_have_now(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import large_store

    for each in MEASURED["counted"]:
        files = large_store.num_files(each["rows"], each["features"], each["bytes"])
        assert files == each["files"] and files["shards"] < MOST_FILES


def test_the_page_shows_what_the_file_says(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import large_store

    assert large_store.table(MEASURED) in PAGE.read_text("utf-8")


@pytest.mark.slow
def test_it_runs(tmp_path):
    output = tmp_path / "large_store.json"
    command = [sys.executable, "large_store.py", "--measure", "--rows=20000", f"--output={output}"]
    subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True, timeout=120)
    measured = json.loads(output.read_text())
    assert measured["rows"] == 20_000 and measured["sizes"] == {"batch_size": 64} and measured["files"] > 600
