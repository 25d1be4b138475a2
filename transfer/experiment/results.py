"""`result.json`: what a run was, on what, and how it ended."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from transfer.runtime import distributed
from transfer.runtime.files import atomic
from transfer.training.run import Run

FILE = "result.json"
# How training was done, whatever a later command that trains nothing would do.
HOW = ("device", "jax_version", "num_devices", "streamed")


def facts(config: ConfigDict, model: Any, tap: str | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """The facts that are known before training: the model, its weights, the data; `seconds` of extraction."""
    return {
        "model": config.model.name,
        "weights_sha256": getattr(model, "weights_sha256", None),
        "tap": tap,
        "dataset": config.data.source,
        "seconds_extract": seconds,
    }


def of_training(known: Mapping[str, Any], measured: Mapping[str, Any], epochs: int | None, seconds: float) -> dict:
    """The facts of a run, its measures at the end, how long it has trained, and on what device."""
    return {
        **known,
        **measured,
        "epochs": epochs,
        "seconds_train": round(seconds, 3),
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
    }


def of_run(run: Run, known: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, and the last and the best epoch of `run`.

    Where it has come no further than the result `before` says, training was done as that says.
    """
    last, best = run.history[-1], run.history[run.best_epoch - 1]
    measured = {
        "train_loss": last["loss"],
        "train_accuracy": last["accuracy"],
        "validation_loss": last["validation_loss"],
        "validation_accuracy": last["validation_accuracy"],
        "best_validation_accuracy": best["validation_accuracy"],
        "best_epoch": run.best_epoch,
    }
    result = of_training(known, measured, run.epoch, run.seconds)
    return result if trained(run, before) else result | {key: before[key] for key in HOW if key in before}


def trained(run: Run, before: Mapping[str, Any]) -> bool:
    """Whether `run` has come to another epoch than the result that was there says."""
    return before.get("epochs") != run.epoch


def read(workdir: epath.Path) -> dict[str, Any]:
    """The result in `workdir`, empty if there is none yet."""
    path = workdir / FILE
    return atomic.read_json(path) if path.exists() else {}


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Writes the result into `workdir`, atomically, unless it is there; of several processes the first does."""
    if distributed.is_main() and read(workdir) != json.loads(json.dumps(result)):
        atomic.write_text(workdir / FILE, json.dumps(result, indent=2) + "\n")
