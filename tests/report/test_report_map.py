"""The map of the features: where points lie, and that pointer and keyboard show the image of the point."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run, of_classes, of_labels, of_values
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from transfer.report import feature_map, page, run_data
from transfer.report.run_data import Options


def blobs(rows: int, width: int, groups: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    of = random.integers(0, groups, rows)
    return (random.normal(0, 4, (groups, width))[of] + random.normal(0, 1, (rows, width))).astype(np.float32), of


@pytest.mark.parametrize("width", [2, 3, 300])
def test_components_are_those_of_an_exact_pca(width: int) -> None:
    features, _ = blobs(200, width)
    places, share = feature_map.components(features, 2)
    exact = PCA(2, svd_solver="full").fit(features)
    known = exact.transform(features)
    for axis in range(2):
        assert abs(np.corrcoef(places[:, axis], known[:, axis])[0, 1]) > 0.9999
    assert share == pytest.approx(exact.explained_variance_ratio_, rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 1), (5, 4), (4, 9)])
def test_components_of_little(shape: tuple[int, int]) -> None:
    places, share = feature_map.components(np.random.default_rng(0).normal(size=shape), 2)
    assert places.shape == (shape[0], 2) and np.isfinite(places).all() and 0.5 < share.sum() <= 1.0001


def test_features_that_are_all_alike() -> None:
    places, share = feature_map.components(np.ones((6, 4), np.float32), 2)
    assert not places.any() and not share.any()
    found = feature_map.section(made_run(of_classes(3, 6), np.ones((6, 4), np.float32)))
    assert found is not None and set(found.data["points"]) == {feature_map.STEPS // 2}


def test_tsne_keeps_neighbours() -> None:
    features, of = blobs(60, 20)
    places, _ = feature_map.laid_out(features, "tsne", 0)
    assert trustworthiness(features, places) > 0.9
    centres = np.stack([places[of == i].mean(axis=0) for i in range(5)])
    nearest = ((places[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == of).mean() > 0.97


@pytest.mark.parametrize("rows", [3, 5])
def test_tsne_of_few_rows(rows: int) -> None:
    places, _ = feature_map.laid_out(blobs(rows, 4)[0], "tsne", 0)
    assert places.shape == (rows, 2) and np.isfinite(places).all()


def test_a_sample_is_said_so() -> None:
    run = made_run(of_classes(4, 2500), blobs(2500, 3)[0])
    found = feature_map.section(run)
    assert found is not None
    rows = feature_map.sample(2500, feature_map.MOST_POINTS, 0)
    assert "A sample of 2\u202f000 of the 2\u202f500" in found.html and len(found.data["ids"]) == 2000
    assert run.predictions is not None
    assert found.data["right"] == run.predictions.labels[rows].tolist()
    assert found.data["ids"] == run.predictions.ids[rows].tolist()
    run.options = Options(seed=1)
    other = feature_map.section(run)
    assert other is not None and other.data["ids"] != found.data["ids"]


def test_no_map_is_made_unless_it_can_be() -> None:
    assert feature_map.section(made_run(of_classes(4, 20), blobs(20, 3)[0], Options(map="none"))) is None
    assert feature_map.section(made_run(of_classes(4, 20))) is None
    for rows in (1, 2):
        run = made_run(of_classes(2, rows), blobs(rows, 3)[0])
        assert feature_map.section(run) is None and "fewer than three" in run.notes[0]


@pytest.mark.parametrize(
    "made", [of_classes(50, 90), of_labels(90), of_values(90)], ids=["classes", "labels", "values"]
)
def test_every_kind_is_drawn(made: Any, tmp_path: Path, watched: Any) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.page([made_run(made, blobs(90, 5)[0])]), "utf-8")
    opened = watched(path, 390)
    opened.locator("#map-0 canvas.points").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#map-0 .tip").is_visible()
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


@pytest.fixture(scope="module")
def points(trained: Path) -> dict[str, Any]:
    html = (trained / "report.html").read_text("utf-8")
    return json.loads(re.search(r'id="map-0".*?application/json">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]


def test_the_sheet_holds_the_image_of_each_point(trained: Path, points: dict[str, Any]) -> None:
    run = run_data.load([str(trained)])[0]
    assert run.predictions is not None and points["ids"] == run.predictions.ids.tolist()
    sheet = points["sheet"]
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["address"].split(",")[1])))).astype(int)
    for place, image in enumerate(run.images.get(points["ids"], sheet["side"])):
        top, left = (x * sheet["side"] for x in divmod(place, sheet["columns"]))
        found = whole[top : top + sheet["side"], left : left + sheet["side"]]
        assert np.abs(found - image).mean() < 8


def spot(page: Any, points: dict[str, Any], row: int) -> tuple[float, float]:
    canvas = page.locator("#map-0 canvas.points")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = points["points"][2 * row], feature_map.STEPS - points["points"][2 * row + 1]
    side = box["width"] - 24
    return box["x"] + 12 + x / feature_map.STEPS * side, box["y"] + 12 + y / feature_map.STEPS * side


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pointer_shows_the_image(
    trained: Path, points: dict[str, Any], watched: Any, width: int, scheme: str
) -> None:
    page = watched(trained / "report.html", width, scheme=scheme)
    rows = np.asarray(points["points"]).reshape(-1, 2)
    # a point that has no other close by
    apart = np.sort(((rows[:, None] - rows[None]) ** 2).sum(axis=2), axis=1)[:, 1]
    row = int(apart.argmax())
    tip = page.locator("#map-0 .tip")
    assert tip.is_hidden()
    page.mouse.move(*spot(page, points, row))
    assert tip.is_visible() and tip.locator(".image").get_attribute("data-row") == str(row)
    at = tip.locator(".image").evaluate("one => getComputedStyle(one).backgroundPosition")
    line, column = divmod(row, points["sheet"]["columns"])
    assert at == f"{-144 * column}px {-144 * line}px"
    assert points["ids"][row] in page.locator("#map-0 .reading").inner_text()
    box, canvas = tip.bounding_box(), page.locator("#map-0 canvas.points").bounding_box()
    assert box["x"] >= canvas["x"] - 1 and box["x"] + box["width"] <= canvas["x"] + canvas["width"] + 1
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_the_keyboard_shows_the_images(trained: Path, points: dict[str, Any], watched: Any) -> None:
    page = watched(trained / "report.html")
    canvas, image = page.locator("#map-0 canvas.points"), page.locator("#map-0 .image")
    page.locator("#map-0 .whole").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert canvas.evaluate("one => one === document.activeElement") and page.locator("#map-0 .tip").is_visible()
    first = int(image.get_attribute("data-row"))
    page.keyboard.press("ArrowRight")
    second = int(image.get_attribute("data-row"))
    assert points["points"][2 * second] > points["points"][2 * first]
    page.keyboard.press("e")
    wrong = int(image.get_attribute("data-row"))
    assert not points["ok"][wrong] and points["ids"][wrong] in page.locator("#map-0 .reading").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#map-0 .tip").is_hidden()


def test_classes_are_told_by_more_than_colour(trained: Path, points: dict[str, Any], watched: Any) -> None:
    page = watched(trained / "report.html")
    legend = page.locator("#map-0 .marks li").all_inner_texts()
    assert legend == [*points["names"], "ringed: misclassified"]
    marks = page.evaluate("[...document.querySelectorAll('#map-0 .marks canvas')].map(one => one.toDataURL())")
    assert len(set(marks)) == len(points["names"])
    page.locator("#map-0 .paint").select_option("ok")
    assert page.locator("#map-0 .marks li").all_inner_texts() == ["correct", "misclassified"]
