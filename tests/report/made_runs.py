"""Runs of which only the rows matter, made from arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from transfer.evaluation.predictions import Predictions
from transfer.report.run_data import DEFAULTS, Options, RunData

ODD = ("<script>alert(1)</script>", "\"quoted\" & 'so'", "ünïcode 猫 🙂", "a</script><b>")


class Tiles:
    """Images of noise, which compress worst; every seventh cannot be had."""

    def get(self, ids: Sequence[str], side: int) -> list[np.ndarray | None]:
        random = np.random.default_rng(0)
        return [None if i % 7 == 6 else random.integers(0, 256, (side, side, 3), np.uint8) for i in range(len(ids))]


def made_run(
    predictions: Predictions | None, features: np.ndarray | None = None, options: Options = DEFAULTS, **result: Any
) -> RunData:
    nowhere = epath.Path("/nowhere")
    run = RunData(nowhere, "/nowhere", nowhere, "made", {}, result, [], predictions, options=options)
    vars(run)["images"], vars(run)["_features"] = Tiles(), features
    return run


def of_classes(
    classes: int, rows: int, wrong: float = 0.25, seed: int = 0, names: Sequence[str] = (), **settings: Any
) -> Predictions:
    """Rows of which a part is taken for one of three others."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    logits = random.normal(0, 1, (rows, classes)).astype(np.float32)
    near = random.integers(0, classes, (classes, 3))
    said = np.where(random.random(rows) < wrong, near[labels, random.integers(0, 3, rows)], labels)
    logits[np.arange(rows), said] += random.uniform(4, 9, rows)
    ids = [f"image {i} <i>.png" for i in range(rows)]
    return Predictions.of_logits(logits, labels, ids, class_names=names, **settings)


def of_labels(rows: int = 120, labels: int = 4) -> Predictions:
    random = np.random.default_rng(1)
    truth = (random.random((rows, labels)) < 0.3).astype(np.float32)
    scores = 3 * (2 * truth - 1) + random.normal(0, 3, truth.shape)
    return Predictions.of_logits(scores, truth, kind="labels", class_names=ODD[:labels])


def of_values(rows: int = 120, targets: int = 2) -> Predictions:
    random = np.random.default_rng(2)
    truth = random.normal(0, 5, (rows, targets))
    return Predictions.of_logits(truth + random.normal(0, 1, truth.shape), truth, kind="values")
