"""1,000 classes and 100,000 rows: how large the page is, and how long a browser takes with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import ODD, made_run

from transfer.evaluation.predictions import Predictions
from transfer.report import page

CLASSES, ROWS = 1000, 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: Any) -> Path:
    """A quarter of the rows wrong, each class for any other: the most cells that so many rows can fill."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, ROWS).astype(np.int32)
    top = (labels[:, None] + np.arange(5)).astype(np.int32) % CLASSES
    wrong = random.random(ROWS) < 0.25
    top[wrong, 0] = random.integers(0, CLASSES, wrong.sum())
    probability = np.sort(random.dirichlet(np.ones(6), ROWS)[:, :5], axis=1)[:, ::-1].astype(np.float32)
    right = top[:, 0] == labels
    predictions = Predictions(
        "classes",
        np.asarray([f"validation/n{c:08d}/ILSVRC2012_val_{i:08d}.JPEG" for i, c in enumerate(labels.tolist())]),
        labels,
        np.empty((ROWS, 0), np.float32),
        top,
        probability,
        -np.log(np.where(right, probability[:, 0], probability[:, 1])),
        CLASSES,
        class_names=tuple(f"{ODD[i % 4]} {i}" for i in range(CLASSES)),
    )
    features = random.normal(size=(ROWS, 16)).astype(np.float32)
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(page.page([made_run(predictions, features)]), "utf-8")
    return path


def test_it_stays_small(large: Path) -> None:
    assert large.stat().st_size < 8e6


@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_and_answers_soon(large: Path, watched: Any, width: int) -> None:
    page = watched(large, width)
    ready = page.evaluate("performance.now()")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#classes-0 tbody tr").count() == CLASSES
    page.locator("#confusion-0 canvas").focus()
    for key in ("e", "+", "+", "+", "e"):
        page.keyboard.press(key)
    assert " predicted as “" in page.locator("#confusion-0 .reading").inner_text()
    page.locator("#confusion-0 .order").select_option("alike")
    page.locator("#confusion-0 .filter").fill(" 77")
    page.locator("#map-0 canvas.points").focus()
    page.keyboard.press("e")
    assert page.locator("#map-0 .tip").is_visible()
    taken = page.evaluate("performance.now()") - ready
    # about a second here; other tests run beside it
    assert ready < 6000 and taken < 6000, (ready, taken)
