"""The confusion matrix: its numbers, its orders, and what the pointer and the keyboard read from the picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import ODD, made_run, of_classes
from sklearn.metrics import confusion_matrix

from transfer.evaluation.predictions import Predictions
from transfer.report import page
from transfer.report.confusion import alike, confusion, section


@pytest.mark.parametrize("classes", [2, 7, 300])
def test_counts_are_those_of_scikit_learn(classes: int) -> None:
    predictions = of_classes(classes, 400)
    found = confusion(predictions)
    dense = np.zeros((classes, classes), int)
    dense[found.actual, found.predicted] = found.count
    assert (dense == confusion_matrix(predictions.labels, predictions.top[:, 0], labels=range(classes))).all()
    assert (found.rows == dense.sum(axis=1)).all() and (found.said == dense.sum(axis=0)).all()
    wrong = found.mistakes()
    assert wrong.count.sum() == (~predictions.right).sum() and (np.diff(wrong.count) <= 0).all()


def test_alike_puts_confused_classes_beside_each_other() -> None:
    """Classes that are confused in a ring of every third one: neighbours in the order are neighbours in the ring."""
    classes = 10
    labels = np.repeat(np.arange(classes), 6)
    said = np.where(np.tile(np.arange(6) < 2, classes), (labels + 3) % classes, labels)
    order = alike(confusion(Predictions.of_logits(np.eye(classes)[said], labels)))
    assert sorted(order.tolist()) == list(range(classes))
    assert {int(step) for step in np.diff(order) % classes} <= {3, 7}


def test_alike_keeps_the_order_where_nothing_is_confused() -> None:
    labels = np.arange(5)
    assert alike(confusion(Predictions.of_logits(np.eye(5), labels))).tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: Any) -> tuple[Path, Predictions]:
    """Of six classes, four with names that nobody should choose: 1 is taken for 4 most."""
    labels = np.repeat(np.arange(6), 20)
    said = labels.copy()
    said[20:29], said[60:64], said[100] = 4, 5, 0
    logits = np.eye(6, dtype=np.float32)[said] * np.linspace(3, 9, 120)[:, None]
    predictions = Predictions.of_logits(logits, labels, class_names=[*ODD, "four", "five"])
    path = tmp_path_factory.mktemp("matrix") / "report.html"
    path.write_text(page.page([made_run(predictions)]), "utf-8")
    return path, predictions


def cell(page: Any, row: int, column: int, classes: int = 6) -> tuple[float, float]:
    """The middle of a cell, found at the right and lower edges: names take the room on the other two."""
    canvas = page.locator("#confusion-0 canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    side = page.evaluate("document.querySelector('#confusion-0 canvas').dataset.side")
    size = float(side) / classes
    right, below = box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    return right - (classes - column - 0.5) * size, below - (classes - row - 0.5) * size


@pytest.mark.parametrize("width", [390, 1280])
def test_the_pointer_reads_a_cell(matrix: tuple[Path, Predictions], watched: Any, width: int) -> None:
    page = watched(matrix[0], width)
    reading = page.locator("#confusion-0 .reading")
    page.mouse.move(*cell(page, 1, 4))
    assert reading.inner_text() == "“\"quoted\" & 'so'” (20 images): 9 predicted as “four”, 45\u202f%"
    page.mouse.move(*cell(page, 2, 2))
    assert reading.inner_text() == "“ünïcode 猫 🙂” (20 images): 20 correct, 100\u202f%"


def test_the_keyboard_goes_from_error_to_error(matrix: tuple[Path, Predictions], watched: Any) -> None:
    page = watched(matrix[0])
    reading = page.locator("#confusion-0 .reading")
    page.locator("#confusion-0 canvas").focus()
    read = []
    for key in ("e", "e", "ArrowRight", "e", "e", "Escape"):
        page.keyboard.press(key)
        read.append(reading.inner_text())
    assert "9 predicted as “four”" in read[0] and "4 predicted as “five”" in read[1]
    assert read[1] == read[2], "the last column has no next one"
    assert "1 predicted as “<script>alert(1)</script>”" in read[3] and read[4] == read[0]
    assert read[5].startswith("Point at a cell")


def test_orders_shares_and_filters(matrix: tuple[Path, Predictions], watched: Any) -> None:
    page = watched(matrix[0])
    root = page.locator("#confusion-0")
    reading = root.locator(".reading")
    root.locator(".order").select_option("worst")
    page.mouse.move(*cell(page, 0, 0))
    assert "11 correct" in reading.inner_text()
    root.locator(".shares").select_option("said")
    page.mouse.move(*cell(page, 0, 0))
    assert "100\u202f% of all predicted as it" in reading.inner_text()
    root.locator(".filter").fill("QUOTED")
    assert reading.inner_text().startswith("2 classes")
    page.mouse.move(*cell(page, 1, 1, classes=2))
    assert "“four” (20 images): 20 correct" in reading.inner_text()
    root.locator(".filter").fill("no such class")
    assert reading.inner_text().startswith("0 classes")


PICTURE = "document.querySelector('#confusion-0 canvas').toDataURL()"


def test_it_zooms_and_the_error_stays_in_sight(matrix: tuple[Path, Predictions], watched: Any) -> None:
    page = watched(matrix[0])
    root = page.locator("#confusion-0")
    root.locator("canvas").focus()
    before = page.evaluate(PICTURE)
    page.keyboard.press("e")
    page.keyboard.press("+")
    page.keyboard.press("e")
    page.wait_for_timeout(50)
    assert page.evaluate(PICTURE) != before
    assert "4 predicted as “five”" in root.locator(".reading").inner_text()
    page.keyboard.press("Escape")
    root.locator(".whole").click()
    page.wait_for_timeout(50)
    assert page.evaluate(PICTURE) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_errors_and_hits_have_colours_of_their_own(matrix: tuple[Path, Predictions], watched: Any, scheme: str) -> None:
    page = watched(matrix[0], scheme=scheme)
    colours = page.evaluate("""() => {
        const canvas = document.querySelector('#confusion-0 canvas'), side = Number(canvas.dataset.side);
        const size = side / 6, first = canvas.clientWidth - 2 - side, scale = devicePixelRatio;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [[1, 1], [1, 4], [1, 2]].map(([row, column]) => {
            const [x, y] = [column, row].map(i => Math.round((first + (i + 0.12) * size) * scale));
            return [...pixels.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3)];
        });
    }""")
    apart = [sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(colours, colours[1:], strict=False)]
    assert min(apart) > 90


def test_the_table_says_the_same(matrix: tuple[Path, Predictions], watched: Any) -> None:
    page = watched(matrix[0])
    rows = page.locator("#confusion-0 tbody tr").all_inner_texts()
    assert [row.split("\t")[2:] for row in rows] == [["9", "45.0\u202f%"], ["4", "20.0\u202f%"], ["1", "5.0\u202f%"]]
    assert rows[2].split("\t")[:2] == ["five", ODD[0]]


def test_nothing_wrong_and_one_class(tmp_path: Path, watched: Any) -> None:
    predictions = Predictions.of_logits(np.zeros((3, 1)), [0, 0, 0], class_names=["only"])
    path = tmp_path / "report.html"
    path.write_text(page.page([made_run(predictions)]), "utf-8")
    opened = watched(path, 390)
    assert "All 3 images are classified correctly" in opened.locator("#confusion-0").inner_text()
    opened.locator("#confusion-0 canvas").focus()
    for key in ("e", "ArrowDown", "+", "-"):
        opened.keyboard.press(key)
    assert "3 correct" in opened.locator("#confusion-0 .reading").inner_text()
    assert section(made_run(None)) is None
