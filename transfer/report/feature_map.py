"""The features of the validation images as points in the plane, with the image of each."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import names
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered
from transfer.report.thumbnails import sheet
from transfer.runtime.progress import waiting

KEY = "map"
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
    found, share = np.zeros((len(rows), count)), np.zeros(count)
    width = min(count + 8, *rows.shape)
    if not total > 0 or not width:
        return found, share
    basis = np.random.default_rng(seed).standard_normal((rows.shape[1], width)).astype(np.float32)
    for _ in range(PASSES):
        basis, _ = np.linalg.qr(rows.T @ np.linalg.qr(rows @ basis)[0])
    left, values, directions = np.linalg.svd((rows @ basis).astype(np.float64), full_matrices=False)
    directions = directions @ basis.T
    sign = np.sign(directions[np.arange(width), np.abs(directions).argmax(axis=1)])
    there = min(count, width)
    found[:, :there] = (left * values * sign)[:, :there]
    share[:there] = (values**2 / total)[:there]
    return found, share


def _pca(features: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    places, share = components(features, 2, seed)
    return places, f"The two axes hold {100 * share[0]:.0f} % and {100 * share[1]:.0f} % of the variance."


def _tsne(features: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Of the first 50 components, as its authors advise; distances between far groups say nothing."""
    from sklearn.manifold import TSNE

    reduced, _ = components(features, 50, seed)
    if len(reduced) < 4 or not reduced.any():
        return _pca(features, seed)
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    start = reduced[:, :2] / (reduced[:, 0].std() or 1.0) * 1e-4
    with waiting(f"t-SNE of {len(reduced)} rows"):
        made = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced.astype(np.float32))
    return made.astype(np.float64), "Near points are alike; how far groups lie from each other says little."


_LAID_OUT: Mapping[str, Callable[[np.ndarray, int], tuple[np.ndarray, str]]] = {"pca": _pca, "tsne": _tsne}


def laid_out(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, str]:
    """Places float64 (n, 2) of features (n, D) and a line on what they mean; `method` is "pca" or "tsne"."""
    finite = np.nan_to_num(features.astype(np.float32), posinf=0.0, neginf=0.0)
    return _LAID_OUT[method](finite, seed)


def section(run: RunData, options: Options) -> Section | None:
    """The map; None where none is asked for or the features are gone, which a note then says."""
    if options.map == "none" or run.predictions is None:
        return None
    predictions = run.predictions
    rows = sample(len(predictions), MOST_POINTS, options.seed)
    first = run.features(rows[:1])
    if first is None:
        return None
    rows = sample(len(predictions), max(FEWEST_POINTS, min(MOST_POINTS, MOST_NUMBERS // first.shape[1])), options.seed)
    features = run.features(rows)
    if features is None:
        return None
    if len(rows) < 3:
        run.note("No map of features: fewer than three rows.")
        return None
    places, meaning = laid_out(features, options.map, options.seed)
    ids = [str(i) for i in predictions.ids[rows]]
    data: dict[str, Any] = {"points": _grid(places), "kind": predictions.kind, "ids": list(map(names.shown, ids))}
    data |= _facts(predictions, rows)
    side = SIDE if len(rows) <= MANY else SMALL_SIDE
    pictures = sheet(run.images.get(ids, side), side)
    data |= {"sheet": pictures._asdict() if pictures else None}
    values = {"rows": len(rows), "total": len(predictions), "method": METHODS[options.map], "meaning": meaning}
    html = rendered("map.html", **values, size=features.shape[1], kind=predictions.kind, classes=len(data["names"]),
                    images=pictures is not None)  # fmt: skip
    return Section(KEY, "Map of the features", html, data)


def _grid(places: np.ndarray) -> list[int]:
    """x0, y0, x1, y1, … from 0 to STEPS, both axes in one scale."""
    low, high = places.min(axis=0), places.max(axis=0)
    width = (high - low).max() or 1.0
    middle = (low + high) / 2
    return np.rint(np.clip((places - middle) / width + 0.5, 0, 1) * STEPS).astype(int).ravel().tolist()


def _facts(predictions: Predictions, rows: np.ndarray) -> dict[str, Any]:
    """What is said of each point: "right" classes and "said" ones as numbers, or both as text; "ok"; "sure"."""
    chosen = predictions.rows(rows)
    titles = names.of_outputs(predictions)
    if chosen.kind == "classes":
        found: dict[str, Any] = {"names": titles, "right": chosen.labels.tolist(), "said": chosen.top[:, 0].tolist()}
        sure = np.rint(1000 * chosen.probability[:, 0]).astype(int).tolist() if chosen.probable else None
        return found | {"ok": chosen.right.astype(int).tolist(), "sure": sure}
    if chosen.kind == "labels":
        texts = [[_listed(line, titles) for line in array > 0] for array in (chosen.labels, chosen.scores)]
        return {"names": [], "right": texts[0], "said": texts[1], "ok": chosen.right.astype(int).tolist(), "sure": None}
    numbers = [[", ".join(f"{x:.4g}" for x in line[:4]) for line in a] for a in (chosen.labels, chosen.scores)]
    target = chosen.labels[:, 0].astype(np.float64)
    level = (target - target.min()) / ((target.max() - target.min()) or 1.0)
    return {"names": [], "right": numbers[0], "said": numbers[1], "ok": None, "sure": None,
            "level": np.rint(1000 * level).astype(int).tolist()}  # fmt: skip


def _listed(marks: np.ndarray, titles: list[str], most: int = 6) -> str:
    there = np.flatnonzero(marks)
    more = f" and {len(there) - most} more" if len(there) > most else ""
    return (", ".join(titles[i] for i in there[:most]) or "none") + more
