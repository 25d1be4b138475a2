"""What a trained head says of the validation rows, kept in the workdir; and what that is worth, for `result.json`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from transfer import heads
from transfer.errors import UsageError
from transfer.evaluation import predictions as files
from transfer.evaluation.calibration import temperature
from transfer.evaluation.measures import MEASURES
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.scores import Scores
from transfer.evaluation.summary import summary
from transfer.experiment.head_data import Data
from transfer.heads import saving, scaling
from transfer.runtime import distributed

HEAD = "head.safetensors"
# What of `result.json` is found out here.
KEYS = ("measures", "temperature")
# Measures in the line of a run, as far as what is predicted has them.
SHOWN = ("accuracy", "top_5_accuracy", "balanced_accuracy", "mean_average_precision", "rmse", "r2", "log_loss", "ece")


def is_there(workdir: epath.Path) -> bool:
    """Whether the workdir has predictions already."""
    return (workdir / files.FILE).exists()


def of_scores(workdir: epath.Path, parts: Iterable[np.ndarray | Scores], data: Data) -> dict[str, Any]:
    """Writes the predictions of the validation rows; returns `{"measures": …}` with their intervals.

    Args:
        parts: scores of the rows, (n, C) each, one part behind the other.
    """
    predictions = predicted(parts, data)
    predictions.write(workdir / files.FILE)
    return {"measures": summary(predictions)}


def summarised(scores: Scores, data: Data) -> dict[str, Any]:
    """All measures of scores of the validation rows, with their intervals."""
    return summary(predicted([scores], data))


def predicted(parts: Iterable[np.ndarray | Scores], data: Data) -> Predictions:
    """What scores say of the validation rows, with no more of them in memory than a part."""
    found = list(_each(parts, data))
    return found[0] if len(found) == 1 else Predictions.concatenate(found)


def _each(parts: Iterable[np.ndarray | Scores], data: Data) -> Iterator[Predictions]:
    ids, start = list(data.validation.ids[:]), 0
    if len(set(ids)) < len(ids):  # a source that names images alike: their places tell them apart
        ids = [str(row) for row in range(len(ids))]
    for part in parts:
        scores = part if isinstance(part, Scores) else Scores(part)
        rows = slice(start, start + len(scores.values))
        start = rows.stop
        yield Predictions.of_logits(
            scores.values,
            np.asarray(data.validation.labels[rows]),
            ids[rows],
            kind=data.kind,
            ranked=scores.ranked,
            probable=scores.probable,
            class_names=data.class_names,
        )


def calibrated(scores: Scores, held_scores: np.ndarray, held: np.ndarray, data: Data) -> dict[str, Any]:
    """Temperature scaling: the temperature of held-out rows, and what it makes of the validation rows.

    Args:
        scores: of the validation rows.
        held_scores, held: scores (M, C) and targets of the held-out rows, by a head that was not fitted on them.

    Returns:
        Nothing where there are no probabilities; else `{"temperature": {"value", "log_loss", "ece"}}`, the latter
        two (without "ece" of labels) of the scaled scores, with intervals.
    """
    if not scores.probable or data.kind == "values":
        return {}
    value = temperature(held_scores, held, data.kind)
    scaled = summarised(scores._replace(values=scores.values / np.float32(value)), data)
    kept = {name: scaled[name] for name in ("log_loss", "ece") if name in scaled}
    return {"temperature": {"value": round(value, 6), **kept}}


def keep(workdir: epath.Path, estimator: Any) -> None:
    """Writes a fitted head of ours as `head.safetensors`, for `transfer.heads.load`; a user's own is not written."""
    if not hasattr(estimator, "save"):
        return
    try:
        saving.save(estimator, workdir / HEAD)
    except UsageError as error:  # a subclass of a user's, in no file of ours, or with something that is no array
        distributed.print_once(f"{HEAD} is not written: {error}")


def keep_program(
    workdir: epath.Path, name: str, params: Any, parameters: Mapping[str, Any], data: Data, scaler: Any
) -> None:
    """Writes what the own program of our head `name` has trained, as `keep` does.

    A linear one without scikit-learn, which takes longer to import than JAX.

    Args:
        params: of the program's state.
        parameters: of the estimator.
        scaler: that the rows went through; None: none.
    """
    if set(params) != {"kernel", "bias"}:
        estimator = heads.HEADS[name](**parameters)
        keep(workdir, estimator.adopt(params, classes=data.classes, scaler=scaler))
        return
    fitted = {
        "coef_": np.asarray(params["kernel"]).T,
        "intercept_": np.asarray(params["bias"]),
        "classes_": data.classes,
        "kind_": data.kind,
        "n_features_in_": len(params["kernel"]),
        "scaler_": scaler or scaling.Scaler(),
    }
    saving.write(workdir / HEAD, name, f"{heads.camel(name)}Probe", parameters, fitted)


def print_summary(found: Mapping[str, Any]) -> None:
    """Prints what the validation rows say, a line."""
    if "measures" in found:
        distributed.print_once(f"validation: {line(found['measures'])}")


def line(measures: Mapping[str, Any]) -> str:
    """`accuracy 0.9722 [0.9528, 0.9889], …`."""
    there = [name for name in SHOWN if name in measures]
    of_kind = next(of_kind for of_kind in MEASURES.values() if of_kind.keys() >= set(there))
    return ", ".join(f"{of_kind[name].title} {interval(measures[name])}" for name in there)


def interval(measure: Mapping[str, float | None]) -> str:
    """A value with the ends of its interval."""
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "unknown" if value is None else f"{value:.4f}"
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"
