"""`result.json`: what a run was, on what, and how it ended."""

import json
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
    """What is known before training: the model, its weights, the data; `seconds` of extraction."""
    return {
        "model": config.model.name,
        "weights_sha256": getattr(model, "weights_sha256", None),
        "tap": tap,
        "dataset": config.data.source,
        "seconds_extract": seconds,
    }


def of_run(run: Run, known: dict[str, Any], **sizes: int) -> dict[str, Any]:
    """The whole result: `known` facts, `sizes`, and the last and the best epoch of `run`."""
    last, best = run.history[-1], run.history[run.best_epoch - 1]
    return {
        **known,
        **sizes,
        "train_loss": last["loss"],
        "train_accuracy": last["accuracy"],
        "validation_loss": last["validation_loss"],
        "validation_accuracy": last["validation_accuracy"],
        "best_validation_accuracy": best["validation_accuracy"],
        "best_epoch": run.best_epoch,
        "epochs": run.epoch,
        "seconds_train": round(run.seconds, 3),
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
    }


def trained(run: Run, before: dict[str, Any]) -> bool:
    """Whether `run` has come to another epoch than the result that was there says."""
    return before.get("epochs") != run.epoch


def how(before: dict[str, Any]) -> dict[str, Any]:
    """What a result says of how training was done."""
    return {key: before[key] for key in HOW if key in before}


def read(workdir: epath.Path) -> dict[str, Any]:
    """The result in `workdir`, empty if there is none yet."""
    path = workdir / FILE
    return atomic.read_json(path) if path.exists() else {}


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Writes the result into `workdir`, atomically, unless it is there; of several processes the first does."""
    if distributed.is_main() and read(workdir) != json.loads(json.dumps(result)):
        atomic.write_text(workdir / FILE, json.dumps(result, indent=2) + "\n")
