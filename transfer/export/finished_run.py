"""A finished run, read back: network, preprocessing, tap and head, to be used on other images."""

import dataclasses
from typing import Any

from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from transfer import heads
from transfer.errors import TransferError, UsageError
from transfer.evaluation import predictions
from transfer.evaluation.predictions import Predictions
from transfer.experiment import evaluate_head, results, workdirs
from transfer.experiment.backbone import build_frozen
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files import atomic, paths
from transfer.runtime.files.untrusted import printable
from transfer.weights import hub, native
from transfer.weights.create import create_model

CONFIG, NETWORK = "config.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run as it was when it ended: everything that its files hold together.

    Attributes:
        workdir: of the run.
        config: all of its settings.
        result: what `result.json` says.
        model: the network, its weights checked against the result's hash.
        preprocessing: from uint8 images to what the network takes.
        tap: of the features that the head was fitted on; None for a network that was trained itself.
        head: the fitted head; None for such a network, whose logits are the scores.
        class_names: the C or L names of the scores; none of values.
        kind: "classes", "labels" or "values".
    """

    workdir: epath.Path
    config: ConfigDict
    result: dict[str, Any]
    model: nnx.Module
    preprocessing: Preprocessing
    tap: str | None
    head: Any
    class_names: tuple[str, ...]
    kind: str


def load(workdir: Any) -> FinishedRun:
    """Reads a finished run.

    Raises:
        UsageError: no run's folder, or one of a run over seeds.
        TransferError: a run that is not done, is on feature files (no images lead to it), or kept no head; a weight
            file that is not the run's; damaged files.
    """
    folder = paths.open_path(workdir)
    config, result = _finished(folder)
    if config.get("train") == "finetune":
        # by its architecture, not its record: the file says which fields and which preprocessing it was trained with
        path = str(folder / NETWORK)
        network: Any = create_model(native.architecture(path) or str(config.model.name), path)
        names = _class_names(folder)
        return FinishedRun(folder, config, result, network, network.preprocessing, None, None, names, "classes")
    path = folder / evaluate_head.HEAD
    if not path.exists():
        raise TransferError(
            f"{folder} kept no {path.name}: its head is a class of the user's own, or an older version made the run, "
            "whose command, run again with another --workdir, keeps it"
        )
    for setting in ("name", "weights"):  # the commit that the run had, wherever its branch is now
        config.model[setting] = hub.pinned(config.model[setting], result.get("revision"))
    model, preprocessing = build_frozen(config)
    was, now = result.get("weights_sha256"), getattr(model, "weights_sha256", None)
    if was != now:
        source = config.model.weights or config.model.name
        raise TransferError(
            f"the weights {printable(str(source))} are not those of {folder}: their SHA-256 is {now}, the run's {was}"
        )
    head, names = heads.load(path), _class_names(folder)
    return FinishedRun(folder, config, result, model, preprocessing, result.get("tap"), head, names, head.kind_)


def _finished(folder: epath.Path) -> tuple[ConfigDict, dict[str, Any]]:
    if not folder.is_dir():
        raise UsageError(f"--workdir={folder}: there is no such folder")
    seeds = sorted(path.name for path in folder.iterdir() if path.name.startswith("seed_"))
    if seeds:
        raise UsageError(f"--workdir={folder} is a run over seeds; name one of them, --workdir={folder / seeds[0]}")
    if not (folder / CONFIG).exists():
        raise UsageError(f"--workdir={folder} is no run's: it has no {CONFIG}")
    config, result = workdirs.read_config(folder), results.read(folder)
    if "model" not in atomic.read_json(folder / CONFIG):
        raise TransferError(f"{folder} is a run on feature files: no network is known that makes features of images")
    if not result:
        raise TransferError(f"{folder} is not done: it has no {results.FILE}; the command that began it finishes it")
    return config, result


def _class_names(folder: epath.Path) -> tuple[str, ...]:
    path = folder / predictions.FILE
    if not path.exists():
        raise TransferError(f"{folder} has no {path.name}, which names the classes; the run's command writes it anew")
    return Predictions.read(path).class_names
