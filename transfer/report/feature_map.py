"""The features of the validation images as points in the plane, with the image of each."""

from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.images import sheet
from transfer.report.run_data import RunData
from transfer.report.templates import Section, output_names, rendered, valid_text
from transfer.runtime.progress import waiting

MOST_POINTS = 2000
# Numbers that are read for a map: of wide features fewer rows are looked at.
MOST_NUMBERS = 1 << 23
FEWEST_POINTS = 200
# Pixels on a side of an image in the sheet, and of one among more than MANY.
SIDE, SMALL_SIDE, MANY = 48, 32, 1000
# Places of a point along an axis.
STEPS = 4000
# Passes over the features; each brings the two directions closer to those of an exact PCA.
PASSES = 4
# Rows that t-SNE takes for neighbours, as scikit-learn has it.
PERPLEXITY = 30.0
# Classes that colours and shapes of marks can tell.
READABLE = svg.SERIES * len(svg.SHAPES)
METHODS = {"pca": "PCA", "tsne": "t-SNE"}


def sample(count: int, most: int, seed: int) -> np.ndarray:
    """Up to `most` of the rows, int64, in order, the same ones for the same seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def components(features: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first principal components, found by subspace iteration: it never holds a (D, D) matrix.

    Args:
        features: float (n, D).
        count: of them.

    Returns:
        float64 (n, count) and the share of the variance in each, (count,); zeros where there are not so many. The
        largest weight of each direction is positive, so that a map isn't mirrored from one run to the next.
    """
    rows = features.astype(np.float32)
    rows -= rows.mean(axis=0)
    total = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    places, share = np.zeros((len(rows), count)), np.zeros(count)
    width = min(count + 8, *rows.shape)
    if not total > 0 or not width:
        return places, share
    basis = np.random.default_rng(seed).standard_normal((rows.shape[1], width)).astype(np.float32)
    for _ in range(PASSES):
        basis, _ = np.linalg.qr(rows.T @ np.linalg.qr(rows @ basis)[0])
    left, values, directions = np.linalg.svd((rows @ basis).astype(np.float64), full_matrices=False)
    directions = directions @ basis.T
    sign = np.sign(directions[np.arange(width), np.abs(directions).argmax(axis=1)])
    known = min(count, width)
    places[:, :known] = (left * values * sign)[:, :known]
    share[:known] = (values**2 / total)[:known]
    return places, share


def laid_out(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, str]:
    """Places float64 (n, 2) of features (n, D) and a line on what they mean; `method` is "pca" or "tsne".

    t-SNE is of the first 50 components, as its authors advise.
    """
    finite = np.nan_to_num(features.astype(np.float32), posinf=0.0, neginf=0.0)
    reduced, share = components(finite, 2 if method == "pca" else 50, seed)
    if method == "pca" or len(reduced) < 4 or not reduced.any():
        return reduced[:, :2], f"The two axes hold {100 * share[0]:.0f} % and {100 * share[1]:.0f} % of the variance."
    from sklearn.manifold import TSNE

    start = reduced[:, :2] / (reduced[:, 0].std() or 1.0) * 1e-4
    settings = {"perplexity": min(PERPLEXITY, (len(reduced) - 1) / 3), "init": start, "random_state": seed}
    with waiting(f"t-SNE of {len(reduced)} images"):
        made = TSNE(2, **settings).fit_transform(reduced.astype(np.float32))
    return made.astype(np.float64), "Neighbours are similar; distances between groups mean little."


def section(run: RunData) -> Section | None:
    """The map; None where none is asked for or the features are gone, which a note then says."""
    predictions, (method, seed) = run.predictions, run.options
    if predictions is None or method == "none" or (first := run.features(np.arange(1))) is None:
        return None
    size = first.shape[1]
    rows = sample(len(predictions), max(FEWEST_POINTS, min(MOST_POINTS, MOST_NUMBERS // size)), seed)
    if (features := run.features(rows)) is None:
        return None
    if len(rows) < 3:
        run.note("No feature map: fewer than three images.")
        return None
    places, meaning = laid_out(features, method, seed)
    low, high = places.min(axis=0), places.max(axis=0)
    shares = (places - (low + high) / 2) / ((high - low).max() or 1.0) + 0.5  # both axes in one scale
    grid, facts = np.rint(np.clip(shares, 0, 1) * STEPS).astype(int), _facts(predictions, rows)
    side = SIDE if len(rows) <= MANY else SMALL_SIDE
    pictures = sheet(run.thumbnails(rows, side), side)
    data = {
        "points": grid.ravel().tolist(),
        "kind": predictions.kind,
        "ids": list(map(valid_text, run.ids(rows))),
        "sheet": pictures._asdict() if pictures else None,
        **facts,
    }
    values = {"rows": len(rows), "total": len(predictions), "method": METHODS[method], "size": size, "meaning": meaning}
    html = rendered("map.html", **values, kind=predictions.kind, images=pictures is not None)
    return Section("map", "Feature map", html, data, lambda: _charts(grid, facts, METHODS[method], meaning))


def _charts(grid: np.ndarray, facts: dict[str, Any], method: str, meaning: str) -> list[svg.Chart]:
    """The map without images: classes by colour and shape, the misclassified ringed; of many classes and of labels
    correct and misclassified; none of values."""
    if facts["ok"] is None:
        return []
    frame = svg.Frame((0, STEPS), (0, STEPS), 560, 560, 12, 12, 12, 12)
    parts = [svg.element("rect", class_="sunk", width=560, height=560, rx=10)]
    by_class = 0 < len(facts["names"]) <= READABLE
    for i, (x, y) in enumerate(grid.tolist()):
        right = facts["ok"][i]
        shape, colour = divmod(facts["right"][i] if by_class else 0 if right else svg.SERIES + 1, svg.SERIES)
        parts.append(svg.dot(frame, x, y, colour + 1, shape=shape))
        if by_class and not right:
            parts.append(svg.element("circle", class_="ring", cx=frame.at_x(x), cy=frame.at_y(y), r=6))
    legend = []
    for number, name in enumerate(facts["names"]) if by_class else ((0, "correct"), (svg.SERIES + 1, "misclassified")):
        shape, colour = divmod(number, svg.SERIES)
        legend.append((svg.swatch(colour + 1, shape, lined=False), svg.short(name, 24)))
    title = f"Features of {len(grid)} images, by {method}" + "; ringed: misclassified" * by_class
    return [svg.Chart(title, frame, f"{title}. {meaning}", svg.joined(parts), legend)]


def _facts(predictions: Predictions, rows: np.ndarray) -> dict[str, Any]:
    """The facts of each point: "right" and "said", classes as numbers of "names", else text; "ok", "sure", "level"."""
    chosen, titles = predictions.rows(rows), output_names(predictions)
    facts: dict[str, Any] = {"names": [], "ok": chosen.right.astype(int).tolist(), "sure": None}
    if chosen.kind == "classes":
        if chosen.probable:
            facts["sure"] = np.rint(1000 * chosen.probability[:, 0]).astype(int).tolist()
        return facts | {"names": titles, "right": chosen.labels.tolist(), "said": chosen.top[:, 0].tolist()}
    if chosen.kind == "labels":
        texts = ([_listed(line, titles) for line in array > 0] for array in (chosen.labels, chosen.scores))
    else:
        texts = (
            [", ".join(f"{x:.4g}" for x in line[:4]) for line in array] for array in (chosen.labels, chosen.scores)
        )
        target = chosen.labels[:, 0].astype(np.float64)
        level = (target - target.min()) / ((target.max() - target.min()) or 1.0)
        facts |= {"ok": None, "level": np.rint(1000 * level).astype(int).tolist()}
    return facts | dict(zip(("right", "said"), texts, strict=True))


def _listed(marks: np.ndarray, titles: list[str], most: int = 6) -> str:
    there = np.flatnonzero(marks)
    more = f" and {len(there) - most} more" if len(there) > most else ""
    return (", ".join(titles[i] for i in there[:most]) or "none") + more
