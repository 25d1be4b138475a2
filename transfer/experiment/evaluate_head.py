"""What a trained head predicts of the validation rows, and what that is worth: files of the workdir, and measures."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental.multihost_utils import process_allgather

from transfer import heads
from transfer.errors import TransferError, UsageError
from transfer.evaluation import predictions as files
from transfer.evaluation.calibration import temperature
from transfer.evaluation.predictions import Predictions, Scores
from transfer.evaluation.summary import summary
from transfer.experiment.head_data import Data
from transfer.experiment.head_settings import HeadSettings
from transfer.heads import saving, scaling
from transfer.heads.programs import PROGRAMS
from transfer.runtime import distributed
from transfer.training.parallel.reader import Split

HEAD = "head.safetensors"
# Rows that are evaluated at a time.
EVALUATED = 4096


def evaluate(workdir: epath.Path, parts: Iterable[np.ndarray | Scores], data: Data) -> dict[str, Any]:
    """Writes predictions of the validation rows, whose scores (n, C) come part by part; returns `{"measures": …}`."""
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
        rows = slice(start, start := start + len(scores.values))
        labels = np.asarray(data.validation.labels[rows])
        how = dict[str, Any](kind=data.kind, ranked=scores.ranked, probable=scores.probable)
        made.append(Predictions.of_logits(scores.values, labels, ids[rows], class_names=data.class_names, **how))
    return made[0] if len(made) == 1 else Predictions.concatenate(made)


def calibrated(scores: Scores, held_scores: np.ndarray, held: np.ndarray, data: Data) -> dict[str, Any]:
    """Temperature scaling of the validation rows' scores by held-out rows, of a head that was not fitted on them.

    Returns nothing where there are no probabilities; else `{"temperature": {"value", "log_loss", "ece"}}`, the latter
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


def evaluate_params(
    head: HeadSettings,
    params: Any,
    epochs: int,
    scaler: scaling.Scaler | None,
    rows: Split,
    data: Data,
    workdir: epath.Path,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Measures of the validation rows, scaled by `scaler`, by what a program has trained in so many epochs.

    Predictions and head are kept in the workdir; where those of the result `before` are there, its measures stay. Of
    several processes all take part, as weights may be spread over them; all but the first return nothing.
    """
    if not jax.tree.leaves(params)[0].is_fully_addressable:
        params = process_allgather(params, tiled=True)
    if not distributed.is_main():
        return {}
    if is_evaluated(workdir, before):
        return {"measures": before["measures"]}
    params = jax.device_get(params)
    size = max(1, EVALUATED // data.chunk_rows) * data.chunk_rows
    measured = evaluate(workdir, _logits(head.program, params, rows, size), data)
    # a head of a user's that borrows a program is another estimator
    if PROGRAMS.get(head.name) is head.program:
        _save_params(workdir, head, params, epochs, data, scaler)
    return measured


def _logits(program: Any, params: Any, rows: Split, size: int) -> Iterator[np.ndarray]:
    """Logits float32 (n, C) of the rows, `size` at a time, by one program."""
    count = len(rows.labels)
    size = min(size, count)
    logits = jax.jit(program.logits)
    for start in range(0, count, size):
        block = np.asarray(rows.features[start : start + size]).reshape(-1, rows.num_features).astype(np.float32)
        padded = np.pad(block, [(0, size - len(block)), (0, 0)])
        values = np.asarray(logits(params, padded))[: len(block)]
        if not np.isfinite(values).all():
            raise TransferError("the head's scores of the validation rows are not finite; lower its learning_rate")
        yield values


def _save_params(
    workdir: epath.Path, head: HeadSettings, params: Any, epochs: int, data: Data, scaler: scaling.Scaler | None
) -> None:
    """Writes what a program of ours has trained, as `save_estimator` does.

    A linear one without scikit-learn, which takes longer to import than JAX.
    """
    parameters = {**head.settings, "seed": head.seed}
    if set(params) != {"kernel", "bias"}:
        estimator = heads.HEADS[head.name](**parameters).adopt(params, classes=data.classes, scaler=scaler)
        estimator.n_iter_ = epochs
        save_estimator(workdir, estimator)
        return
    fitted = {
        "coef_": np.asarray(params["kernel"]).T,
        "intercept_": np.asarray(params["bias"]),
        "classes_": data.classes,
        "kind_": data.kind,
        "n_features_in_": len(params["kernel"]),
        "n_iter_": epochs,
        "scaler_": scaler or scaling.Scaler(),
    }
    saving.write(workdir / HEAD, head.name, f"{heads.camel(head.name)}Probe", parameters, fitted)
