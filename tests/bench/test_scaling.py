"""`benchmarks/scaling.py`: what is committed reaches its goals and stands on the page; it runs, on a few rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "clusters.md"
MEASURED = json.loads((BENCHMARKS / "scaling.json").read_text())


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_what_was_measured_is_complete_and_reaches_the_goals():
    import scaling

    assert {(row["case"], row["rows"]) for row in MEASURED["rows"]} == {
        (case, rows) for case in scaling.CASES for rows in scaling.ROWS
    }
    again = scaling.fitted(MEASURED["rows"])["fits"]
    assert {case: np.hstack(list(fit.values())) for case, fit in MEASURED["fits"].items()} == {
        case: pytest.approx(np.hstack(list(fit.values()))) for case, fit in again.items()
    }
    peaks = {(row["case"], row["rows"]): row["peak_bytes"] for row in MEASURED["rows"]}
    sizes = [size for size in scaling.ROWS if size > scaling.WINDOW and 100 * size in scaling.ROWS]
    assert sizes
    for case, fit in MEASURED["fits"].items():
        assert max(fit["exponent"], fit["exponent_of_last_tenfold"]) <= scaling.GOAL_EXPONENT
        assert all(peaks[case, 100 * size] <= scaling.GOAL_MEMORY * peaks[case, size] for size in sizes)


def test_exponent_of_a_power():
    import scaling

    assert scaling.exponent([(10, 3.0), (100, 3.0 * 10**1.5)]) == pytest.approx(1.5)
    assert scaling.exponent([(10, 3.0)]) is None


def test_the_page_shows_what_the_files_say():
    import scaling_estimate

    assert scaling_estimate.BLOCK.search(PAGE.read_text()).group() == scaling_estimate.section()


def test_an_estimate_grows_with_the_images():
    import scaling_estimate

    rate = {"chip": 1000.0, "thread": 100.0, "rows": 1e5, "verify": 1e8}
    small, large = (scaling_estimate.estimate(images, rate) for images in (10**6, 10**8))
    assert large.extraction == pytest.approx(100 * small.extraction)
    assert large.extraction == max(large.compute, large.decode, large.read)
    # four chips that share the classes have a quarter of the optimiser's work and of the sum
    assert small.epoch[1] < small.epoch[0] / 2
    assert small.resident and not scaling_estimate.estimate(10**9, rate).resident


@pytest.mark.slow
def test_it_measures(tmp_path):
    output = tmp_path / "scaling.json"
    command = [sys.executable, BENCHMARKS / "scaling.py", "--rows=1200", "--cases=verification"]
    path = {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(
        [*command, f"--output={output}"], env={**os.environ, **path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["case"], row["rows"]) == ("verification", 1200)
    assert row["seconds"] > 0 and row["peak_bytes"] > 1e7
