"""What a trained head predicts of the validation rows, and what that is worth: files of the workdir, and measures."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from transfer import heads
from transfer.errors import UsageError
from transfer.evaluation import predictions as files
from transfer.evaluation.calibration import temperature
from transfer.evaluation.predictions import Predictions, Scores
from transfer.evaluation.summary import summary
from transfer.experiment.head_data import Data
from transfer.heads import saving, scaling
from transfer.runtime import distributed

HEAD = "head.safetensors"
# Keys of `result.json` that are found out here.
KEYS = ("measures", "temperature")


def evaluate(workdir: epath.Path, parts: Iterable[np.ndarray | Scores], data: Data) -> dict[str, Any]:
    """Writes the predictions of the validation rows; returns `{"measures": …}` with their intervals.

    Args:
        parts: scores of the rows, (n, C) each, one part behind the other.
    """
    predictions = predicted(parts, data)
    predictions.write(workdir / files.FILE)
    return {"measures": summary(predictions)}


def is_evaluated(workdir: epath.Path, result: Mapping[str, Any]) -> bool:
    """Whether the workdir has predictions already, and its result their measures."""
    return (workdir / files.FILE).exists() and "measures" in result


def summarised(scores: Scores, data: Data) -> dict[str, Any]:
    """All measures of scores of the validation rows, with their intervals."""
    return summary(predicted([scores], data))


def predicted(parts: Iterable[np.ndarray | Scores], data: Data) -> Predictions:
    """The predictions of the validation rows, with no more scores in memory than a part's."""
    ids, start, made = list(data.validation.ids[:]), 0, []
    if len(set(ids)) < len(ids):  # a source that names images alike: their places tell them apart
        ids = [str(row) for row in range(len(ids))]
    for part in parts:
        scores = part if isinstance(part, Scores) else Scores(part)
        rows = slice(start, start + len(scores.values))
        start = rows.stop
        labels = np.asarray(data.validation.labels[rows])
        predictions = Predictions.of_logits(
            scores.values,
            labels,
            ids[rows],
            kind=data.kind,
            ranked=scores.ranked,
            probable=scores.probable,
            class_names=data.class_names,
        )
        made.append(predictions)
    return made[0] if len(made) == 1 else Predictions.concatenate(made)


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


def save_estimator(workdir: epath.Path, estimator: Any) -> None:
    """Writes a fitted head of ours as `head.safetensors`, for `transfer.heads.load`; a user's own is not written."""
    if not hasattr(estimator, "save"):
        return
    try:
        saving.save(estimator, workdir / HEAD)
    except UsageError as error:  # a subclass of a user's, in no file of ours, or with something that is no array
        distributed.print_once(f"{HEAD} is not written: {error}")


def save_params(
    workdir: epath.Path, name: str, params: Any, parameters: Mapping[str, Any], data: Data, scaler: Any
) -> None:
    """Writes what the program of our head `name` has trained, as `save_estimator` does.

    A linear one without scikit-learn, which takes longer to import than JAX.

    Args:
        params: of the program's state.
        parameters: of the estimator.
        scaler: that the rows went through; None: none.
    """
    if set(params) != {"kernel", "bias"}:
        estimator = heads.HEADS[name](**parameters)
        save_estimator(workdir, estimator.adopt(params, classes=data.classes, scaler=scaler))
        return
    fitted = {
        "coef_": np.asarray(params["kernel"]).T,
        "intercept_": np.asarray(params["bias"]),
        "classes_": data.classes,
        "kind_": data.kind,
        "n_features_in_": len(params["kernel"]),
        "n_iter_": parameters["epochs"],
        "scaler_": scaler or scaling.Scaler(),
    }
    saving.write(workdir / HEAD, name, f"{heads.camel(name)}Probe", parameters, fitted)
