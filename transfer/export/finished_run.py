"""A finished run, read back: network, preprocessing, tap and head, to be used on other images."""

import dataclasses
from collections import Counter
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
from transfer.weights import catalogue, hub, native
from transfer.weights.create import create_model

CONFIG, NETWORK = "config.json", "model.safetensors"
# Images a step of a network that no run has trained.
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run as it was when it ended: everything that its files hold together.

    Attributes:
        workdir: of the run; the current folder of a network that no run has trained.
        config: all of its settings.
        result: what `result.json` says.
        model: the network, its weights checked against the result's hash.
        preprocessing: from uint8 images to what the network takes.
        tap: of the features that the head was fitted on; None for a network that was trained itself.
        head: the fitted head; None for such a network, whose logits are the scores.
        class_names: the C or L names of the scores, or those of the values.
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


def of_network(
    name: str, weights: Any = None, preprocessing: Preprocessing | None = None, **choices: Any
) -> FinishedRun:
    """A network with the classifier of its own file, as if a run had trained it: of `create_model`'s arguments.

    Its classes have the names that stand beside the file, or the numbers of their logits.

    Raises:
        UsageError: it has no classifier, or it is not known how its images are made and `preprocessing` is None.
        TransferError: what `create_model` raises.
    """
    model: Any = create_model(name, weights, **choices)
    own = preprocessing or model.preprocessing
    if not model.num_classes:
        text = "has no classifier: `train` makes one, and of a whole Keras model head=file takes its own"
        raise UsageError(f"{weights or name} {text}")
    if own is None:
        known = catalogue.listed(catalogue.names(f"{name}.*")) or "another model"
        text = "does not say how its images are made; if it is as for a record, name that as the model"
        raise UsageError(f"{weights or name} {text} in place of {name} ({known})")
    names = model.label_names or tuple(map(str, range(model.num_classes)))
    twice = {label for label, times in Counter(names).items() if times > 1}  # ImageNet's classes have two cranes
    names = tuple(f"{label} ({number})" if label in twice else label for number, label in enumerate(names))
    config = ConfigDict({"batch_size": BATCH_SIZE, "dtype": "float32"})
    return FinishedRun(epath.Path(), config, {}, model, own, None, None, names, "classes")


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
