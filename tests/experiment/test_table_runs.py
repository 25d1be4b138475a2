"""Runs on images with several labels, and with values: from a table to predictions, beside scikit-learn's."""

import csv
import json
import logging

import numpy as np
import pytest
from etils import epath
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score
from sklearn.preprocessing import StandardScaler

from transfer import FeatureStore, config, experiment
from transfer.__main__ import main
from transfer.errors import TransferError, UsageError
from transfer.evaluation.predictions import Predictions
from transfer.store import feature_files

pytestmark = pytest.mark.usefixtures("compiled_quickly")

COUNT = 240
LABELS = {"even": range(0, 10, 2), "large": range(5, 10), "round": (0, 8)}
MEASURES = {"labels": ("mean_average_precision", average_precision_score), "values": ("r2", r2_score)}
COLUMNS = {"labels": "tags", "values": "left,ink"}
TARGETS = {"labels": "logistic", "values": "ridge"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of digits with a table: which of three labels each has, its ink on the left and in all, its writer."""
    folder = tmp_path_factory.mktemp("digits")
    bunch = load_digits()
    with open(folder / "digits.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", *LABELS, "left", "ink", "tags", "subject"])
        for row, (image, digit) in enumerate(zip(bunch.images[:COUNT], bunch.target[:COUNT], strict=True)):
            Image.fromarray(np.kron(image * 15, np.ones((4, 4))).astype(np.uint8)).save(folder / f"{row}.png")
            marks = [int(digit in digits) for digits in LABELS.values()]
            tags = "|".join(name for name, mark in zip(LABELS, marks, strict=True) if mark)
            table.writerow([row, *marks, image[:, :4].sum() / 100, image.sum() / 100, tags, row // 8])
    return folder


def settings(folder, target, **changed):
    chosen = config.default()
    chosen.model.name, chosen.tap, chosen.image_size, chosen.batch_size = "vgg11_slim.cifar10", "block2:avg", 32, 32
    chosen.data.source, chosen.data.validation_fraction = f"csv:{folder}/digits.csv", 0.25
    chosen.data.columns[target.removesuffix("s") if target == "values" else target] = COLUMNS[target]
    chosen.head.name, chosen.head.target, chosen.head.scaling = TARGETS[target], target, "standard"
    chosen.update_from_flattened_dict(changed)
    return chosen


@pytest.fixture(scope="module", params=TARGETS)
def run(request, digits, tmp_path_factory):
    """(target, workdir, result) of a finished run."""
    workdir = tmp_path_factory.mktemp(request.param)
    return request.param, workdir, experiment.train(settings(digits, request.param), epath.Path(workdir))


def names_of(target):
    return sorted(LABELS) if target == "labels" else ["left", "ink"]


def rows(workdir):
    """The features, the labels and the ids of both sides."""
    stores = [FeatureStore.open(workdir / "features" / split) for split in ("train", "validation")]
    return [array for store in stores for array in (store.features[:], store.labels)], [store.ids for store in stores]


def of_scikit_learn(target, workdir):
    """What scikit-learn's heads with the same settings say of the validation rows."""
    (train, labels, validation, _), _ = rows(workdir)
    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    if target == "values":
        return Ridge(alpha=1.0).fit(train, labels).predict(validation)
    heads = [LogisticRegression(tol=1e-8, max_iter=5000).fit(train, column) for column in labels.T]
    return np.stack([head.predict_proba(validation)[:, 1] for head in heads], axis=1)


def test_the_store_has_what_the_table_says(run, digits):
    target, workdir, _ = run
    _, ids = rows(workdir)
    table = {line["id"]: line for line in csv.DictReader((digits / "digits.csv").read_text().splitlines())}
    names = names_of(target)
    for split, of_split in zip(("train", "validation"), ids, strict=True):
        store = FeatureStore.open(workdir / "features" / split)
        expected = [[float(table[id_.removesuffix(".png")][name]) for name in names] for id_ in of_split]
        assert store.target == target and store.class_names == tuple(names)
        np.testing.assert_array_equal(store.labels, np.array(expected, np.float32))
    assert not {int(id_[:-4]) // 8 for id_ in ids[0]} & {int(id_[:-4]) // 8 for id_ in ids[1]}
    assert main(["features", "verify", str(workdir / "features" / "validation"), "--workdir", str(workdir)]) == 0


def test_the_measures_are_those_of_scikit_learn(run):
    target, workdir, result = run
    (_, _, _, right), (_, ids) = rows(workdir)
    predictions = Predictions.read(workdir / "predictions.npz")
    assert predictions.ids.tolist() == ids and predictions.class_names == tuple(names_of(target))
    measure, value = MEASURES[target]
    assert result["measures"][measure]["value"] == pytest.approx(value(right, predictions.scores), abs=1e-6)
    assert result["num_classes"] == len(right.T)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_predictions_of_the_images_are_those_of_scikit_learn(run, digits, form, tmp_path):
    target, workdir, _ = run
    _, (_, ids) = rows(workdir)
    images = [str(digits / id_) for id_ in ids[:20]]
    command = ["predict", "--workdir", str(workdir), "--format", form, "--output", str(tmp_path / "said")]
    assert main([*command, *images]) == 0 == main([*command, *images])  # and again over its own file
    expected = of_scikit_learn(target, workdir)[:20]
    names = names_of(target)
    with open(tmp_path / "said", newline="") as file:
        lines = list(csv.DictReader(file)) if form == "csv" else list(map(json.loads, file))
    of_lines = {"labels": ("probabilities", "probability of "), "values": ("values", "value of ")}[target]
    numbers = [
        [line[of_lines[0]][name] if form == "jsonl" else float(line[of_lines[1] + name]) for name in names]
        for line in lines
    ]
    np.testing.assert_allclose(numbers, expected, atol=2e-3)


def test_what_a_prediction_of_another_kind_has_no_use_for(run, digits):
    target, workdir, _ = run
    command = ["predict", "--workdir", str(workdir), str(digits / "0.png")]
    assert main([*command, "--top=2"]) == 2


def test_the_report_names_labels_and_values(run):
    target, workdir, _ = run
    page = (workdir / "report.html").read_text("utf-8")
    assert all(f">{name}<" in page for name in names_of(target))


def test_the_head_is_exported(run, tmp_path):
    target, workdir, _ = run
    path = tmp_path / "head.safetensors"
    assert main(["export", "--workdir", str(workdir), "--format=safetensors", "--output", str(path)]) == 0
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["kind"] == target and described["class_names"] == names_of(target)


def test_the_same_command_has_nothing_to_do(run, digits, capsys):
    target, workdir, result = run
    again = experiment.train(settings(digits, target), epath.Path(workdir))
    assert again["measures"] == result["measures"] and "Already fitted" in capsys.readouterr().out


def test_exported_features_are_read_again(run, digits, tmp_path):
    target, workdir, _ = run
    chosen = settings(digits, target, **{"export": str(tmp_path / "f.npz"), "features": str(workdir / "features")})
    stores, _ = experiment.extract(chosen, epath.Path(tmp_path / "run"))
    features, labels = feature_files.read(tmp_path / "f_train.npz", target)
    np.testing.assert_array_equal(labels, stores["train"].labels)
    np.testing.assert_array_equal(features.reshape(len(labels), -1), stores["train"].features[:])


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"head.target": "classes"}, r"has several labels for each image, not a class; --config\.head\.target=labels"),
        ({"head.target": "values", "head.name": "ridge"}, "has several labels for each image, not values"),
        (
            {"few_shot": config.ConfigDict({"per_class": (1,)})},
            r"config\.few_shot counts images a class; with",
        ),
        ({"data.train_per_class": 3}, "images have labels, not a class each"),
    ],
)
def test_what_is_of_classes_is_refused(changed, words, digits, tmp_path):
    chosen = settings(digits, "labels")
    with chosen.unlocked():
        chosen.update_from_flattened_dict(changed)
    with pytest.raises((UsageError, TransferError), match=words):
        experiment.train(chosen, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_measure_of_another_kind_is_named(run, digits, tmp_path):
    target, workdir, _ = run
    chosen = settings(digits, target, **{"features": str(workdir / "features"), "report": False})
    chosen.sweep.measure, chosen.sweep.scaling = {"labels": "rmse", "values": "log_loss"}[target], ("standard", "l2")
    with pytest.raises(UsageError, match=r"^config\.sweep\.measure='(rmse|log_loss)' is not one of"):
        experiment.train(chosen, epath.Path(tmp_path / "run"))


def test_a_network_is_not_fine_tuned_on_labels(digits, tmp_path):
    chosen = config.default()
    chosen.train, chosen.data.source, chosen.data.columns.labels = "finetune", f"csv:{digits}/digits.csv", "tags"
    with pytest.raises(UsageError, match="has several labels for each image, not a class"):
        experiment.train(chosen, epath.Path(tmp_path / "run"))


def test_labels_of_images_that_were_skipped(digits, tmp_path, caplog):
    lines = (digits / "digits.csv").read_text().splitlines()
    gone = [line.replace(line.split(",")[0], f"gone{place}", 1) for place, line in enumerate(lines[1:4])]
    (digits / "gone.csv").write_text("\n".join([lines[0], *gone, *lines[4:]]))
    chosen = settings(digits, "labels", **{"on_error": "skip", "data.source": f"csv:{digits}/gone.csv"})
    caplog.set_level(logging.WARNING)
    stores, facts = experiment.extract(chosen, epath.Path(tmp_path / "run"))
    assert sum(lost["images"] for lost in facts["skipped"].values()) == 3
    assert sum(map(len, stores.values())) == COUNT - 3 and "images could not be read and were skipped" in caplog.text
