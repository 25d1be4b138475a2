"""What makes a run say less than it seems to, from its rows to its result and its report."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import config as settings
from transfer import experiment
from transfer.report import run_data

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def config_of(head):
    chosen = settings.default()
    chosen.head.name, chosen.report = head, False
    if head == "linear":
        chosen.head.epochs = 2
    return chosen


@pytest.mark.parametrize("head", ["linear", "ridge"])
def test_rows_of_both_files_are_said_every_time(tmp_path, caplog, head):
    features, labels = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 2
    files = [str(tmp_path / name) for name in ("train.npz", "validation.npz")]
    np.savez(files[0], features=features[:20], labels=labels[:20])
    np.savez(files[1], features=features[17:], labels=labels[17:])
    expected = {"images": 3, "of": 13, "by": "features", "first": [["0", "17"], ["1", "18"], ["2", "19"]]}
    for _ in range(2):
        caplog.clear()
        result = experiment.train_on_files(config_of(head), *files, epath.Path(tmp_path / "run"))
        assert result["duplicates"] == expected == json.loads((tmp_path / "run/result.json").read_text())["duplicates"]
        line = "3 of 13 validation images are training images too, by the same features: 0 (= 17), 1 (= 18), 2 (= 19)"
        assert line in caplog.text
    assert any(note.startswith(line) for note in run_data.load([str(tmp_path / "run")])[0].notes)
    assert result["measures"]["majority"] == {"class": "1", "value": round(7 / 13, 6)}


def test_a_class_that_only_validates_is_said_by_a_head_that_goes_on(tmp_path, caplog):
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    files = [str(tmp_path / name) for name in ("train.npz", "validation.npz")]
    np.savez(files[0], features=features[:20], labels=["cat", "dog"] * 10)
    np.savez(files[1], features=features[20:], labels=["cat", "eel"] * 5)
    result = experiment.train_on_files(config_of("linear"), *files, epath.Path(tmp_path / "run"))
    line = "5 validation rows are of classes that no training row is of: eel"
    assert result["untrained_classes"] == line and line in caplog.text
    notes = run_data.load([str(tmp_path / "run")])[0].notes
    assert f"{line}." in notes and "No validation image is of dog: nothing is known of them." in notes


@pytest.mark.slow
@pytest.mark.parametrize("way", ["head", "finetune"])
def test_images_of_both_splits_are_told_by_their_files(tmp_path, way, caplog):
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for row in range(count):
                image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
                image.save(tmp_path / "photos" / split / name / f"{split}{row}.png")
    photos = tmp_path / "photos"
    (photos / "val/dog/copy.png").write_bytes((photos / "train/dog/train2.png").read_bytes())
    (photos / "val/dog/clip.mp4").touch()
    chosen = config_of("ridge")
    chosen.data.source, chosen.train, chosen.image_size = f"folder:{photos}", way, 32
    chosen.data.train, chosen.data.validation = "train", "val"
    if way == "finetune":
        chosen.finetune.update(epochs=1, batch_size=8, warmup_epochs=0)
        chosen.unfreeze = "logits"
    result = experiment.train(chosen, epath.Path(tmp_path / "run"))
    assert result["left_out"] == [f"folder:{photos}: left out of 'val': 1 .mp4"]
    assert result["left_out"][0] in run_data.load([str(tmp_path / "run")])[0].notes
    found = result["duplicates"]
    by = "file" if way == "head" else "pixels"
    assert {**found, "first": None} == {"images": 1, "of": 5, "by": by, "first": None}
    assert [[name.rsplit("/")[-1] for name in pair] for pair in found["first"]] == [["copy.png", "train2.png"]]


def test_a_head_that_is_far_off_has_one_loss(tmp_path):
    """The loss that its last epoch printed, however large: what is capped beside what is not would be two."""
    random, labels = np.random.default_rng(0), np.arange(60) % 2
    features = 1e4 * random.normal(size=(60, 4)).astype(np.float32)
    files = [str(tmp_path / name) for name in ("train.npz", "validation.npz")]
    for file, rows in zip(files, (slice(40), slice(40, None)), strict=True):
        np.savez(file, features=features[rows], labels=labels[rows])
    chosen = config_of("linear")
    chosen.head.learning_rate = 10.0
    result = experiment.train_on_files(chosen, *files, epath.Path(tmp_path / "run"))
    assert result["validation_loss"] > 1000
    assert result["measures"]["log_loss"]["value"] == pytest.approx(result["validation_loss"], rel=1e-5)
