"""What pretraining is worth: few-shot accuracy on the extracted features, on random weights' features and on pixels."""

from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from transfer.data.loader import load_all
from transfer.data.splits import SPLITS, drawn_alike, make_splits, per_class
from transfer.errors import TransferError
from transfer.experiment.backbone import build_extractor
from transfer.extract.to_store import extract_to_store
from transfer.heads.fewshot import accuracy_by_seed

Rows = dict[str, tuple[np.ndarray, np.ndarray]]


def few_shot(config: ConfigDict, extracted: Rows) -> dict[str, Any]:
    """Validation accuracy at `few_shot.per_class` training images a class over `few_shot.seeds` draws of them.

    The same rows, the same head and the same validation images for three kinds of features: those that were
    extracted, those of the same network with random weights, and the raw pixels. The head is logistic regression at
    its optimum, on features scaled as a whole (`transfer.heads.fewshot`), which suits pixels better than scaling
    column by column. Where every seed draws the same rows ("same_rows"), no "spread" is known: None.
    """
    wanted, images = config.few_shot, _images(config, extracted)
    kinds = {
        f"{config.model.name}, {config.tap}": extracted,
        f"the same network, random weights (seed {config.seed})": _with_labels(
            _random_features(config, images), extracted
        ),
        "raw pixels": _with_labels(_pixels(images), extracted),
    }
    labels = np.unique(np.ravel(extracted["train"][1]), return_inverse=True)[1]
    same = drawn_alike(per_class(labels, wanted.per_class, seed) for seed in range(wanted.seeds))
    rows = []
    for name, splits in kinds.items():
        accuracies = accuracy_by_seed(
            *splits["train"], wanted.per_class, wanted.seeds, *splits["validation"], scaling="whole"
        )
        rows.append(
            {
                "features": name,
                "size": int(np.prod(splits["train"][0].shape[1:])),
                "mean": round(float(accuracies.mean()), 4),
                "spread": None if same else round(float(accuracies.std(ddof=min(1, len(accuracies) - 1))), 4),
                "accuracies": [round(float(a), 4) for a in accuracies],
            }
        )
    return {"per_class": wanted.per_class, "seeds": wanted.seeds, "same_rows": same, "rows": rows}


def baselines(config: ConfigDict, workdir: epath.Path) -> dict[str, dict[str, Any]]:
    """What features should be compared with: name -> split -> rows (N, ...), of the images of `config.data`.

    Raw pixels, and each tap of the same network with random weights, by `config.seed`; the latter are stored in
    WORKDIR/random_features, and extracted where they are not there yet.
    """
    sources = dict(zip(SPLITS, make_splits(config.data), strict=True))
    extractor = build_extractor(_with_random_weights(config))
    stores = {
        split: extract_to_store(
            extractor, source, workdir / "random_features" / split, config.on_error, split, config.features_dtype
        )
        for split, source in sources.items()
    }
    found: dict[str, dict[str, Any]] = {"raw pixels": _pixels({s: load_all(source) for s, source in sources.items()})}
    for tap in stores["train"].taps:
        found[f"{tap}, random weights"] = {split: store.tap(tap) for split, store in stores.items()}
    return found


def _images(config: ConfigDict, extracted: Rows) -> dict[str, np.ndarray]:
    sources = dict(zip(extracted, make_splits(config.data), strict=True))
    if any(len(sources[split]) != len(labels) for split, (_, labels) in extracted.items()):
        raise TransferError(
            "config.few_shot compares with raw pixels, none skipped; repair the images that were, or leave it out"
        )
    return {split: load_all(source) for split, source in sources.items()}


def _with_labels(features: dict[str, np.ndarray], extracted: Rows) -> Rows:
    return {split: (values, extracted[split][1]) for split, values in features.items()}


def _random_features(config: ConfigDict, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    extractor = build_extractor(_with_random_weights(config))
    return {split: np.asarray(extractor(values)) for split, values in images.items()}


def _with_random_weights(config: ConfigDict) -> ConfigDict:
    random = config.copy_and_resolve_references()
    random.model.weights = "random"
    return random


def _pixels(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {split: values.reshape(len(values), -1) / np.float32(255) for split, values in images.items()}


def table(result: dict[str, Any]) -> str:
    """The comparison as lines of text: features, size, mean and standard deviation over the seeds."""
    rows = result["rows"]
    width = max(len(row["features"]) for row in rows)
    head = f"validation accuracy at {result['per_class']} images a class, {result['seeds']} seeds"
    lines = [head, f"{'features':<{width}}  {'size':>6}  {'mean':>6}  spread"]
    for row in rows:
        spread = "same rows" if row["spread"] is None else f"{row['spread']:.3f}"
        lines.append(f"{row['features']:<{width}}  {row['size']:>6}  {row['mean']:>6.3f}  {spread}")
    return "\n".join(lines)
