"""All measures of a run's predictions with their intervals, as `result.json` holds them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.evaluation.intervals import CONFIDENCE, RESAMPLES, interval_of, resampled, wilson
from transfer.evaluation.measures import applicable
from transfer.evaluation.predictions import Predictions

# Of more classes `result.json` names none one by one; `per_class` gives them.
MOST_CLASSES = 100
DIGITS = 6


def summary(
    predictions: Predictions,
    class_names: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Every measure of predictions, JSON throughout.

    Args:
        class_names: of all classes (or labels); None: those that the predictions know.
        resamples, seed: of the bootstrap; the same rows and seed give the same intervals.

    Returns:
        measure -> {"value", "low", "high"} for each that applies (`transfer.evaluation.measures`), low and high the
        ends of the 95 % interval over rows (`transfer.evaluation.intervals.interval_of`); and "rows",
        "confidence", "resamples", "seed". Of classes also "majority", the most frequent class and its share, which is
        the accuracy of predicting nothing else; of up to 100 "per_class" (see `per_class`); and
        "classes_without_rows", which the balanced accuracy leaves out. A number that is not defined is None.
    """
    result: dict[str, Any] = {}
    measures, all_rows = applicable(predictions), np.ones((1, len(predictions)))
    functions = {name: measure.of(predictions) for name, measure in measures.items()}
    bootstrapped = {name: function for name, function in functions.items() if measures[name].bootstrapped}
    values = resampled(bootstrapped, len(predictions), resamples=resamples, seed=seed)
    for name, function in functions.items():
        value = float(function(all_rows)[0])
        result[name] = _rounded(value, *interval_of(measures[name], predictions, value, values.get(name)))
    result |= {"rows": len(predictions), "confidence": CONFIDENCE, "resamples": resamples, "seed": seed}
    if predictions.kind == "classes":
        rows = per_class(predictions, class_names)
        most = max(rows, key=lambda row: row["rows"])
        result["majority"] = {"class": most["class"], "value": round(most["rows"] / len(predictions), DIGITS)}
        if len(rows) <= MOST_CLASSES:
            result["per_class"] = [row for row in rows if row["rows"]]
        result["classes_without_rows"] = [row["class"] for row in rows if not row["rows"]][:MOST_CLASSES]
    return result


def per_class(predictions: Predictions, class_names: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """A row for each class: "class" (its name), "rows", and as "value", "low", "high" the share that is right.

    The interval is Wilson's, which holds for few rows; the three are None where there is no row.
    """
    count = predictions.num_outputs
    names = list(map(str, class_names if class_names is not None else predictions.class_names))
    names += [str(number) for number in range(len(names), count)]
    rows = np.bincount(predictions.labels, minlength=count)
    right = np.bincount(predictions.labels[predictions.right], minlength=count)
    ends = np.where(rows > 0, [right / np.maximum(rows, 1), *wilson(right, rows)], np.nan).T
    of_classes = zip(names, rows.tolist(), ends, strict=False)
    return [{"class": name, "rows": count} | _rounded(*ends) for name, count, ends in of_classes]


def _rounded(value: float, low: float, high: float) -> dict[str, float | None]:
    """A measure as JSON has it: no NaN, no infinity."""
    numbers = {"value": value, "low": low, "high": high}
    return {name: round(float(x), DIGITS) if math.isfinite(x) else None for name, x in numbers.items()}
