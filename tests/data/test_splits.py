"""Splits are scikit-learn's own, and N images a class are N images of every class."""

import logging
import re

import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_formats import cifar_files, encoded, pixels, write_files
from sklearn.model_selection import train_test_split

from transfer.data import open_source, splits
from transfer.data.source import ArraySource
from transfer.errors import TransferError, UsageError

LABELS = np.random.default_rng(0).integers(0, 7, 200)


@pytest.mark.parametrize("fraction, seed", [(0.2, 0), (0.3, 42), (0.33, 0)])
def test_splits_equal_those_of_scikit_learn(fraction, seed):
    rows = np.arange(200)
    for by_class, stratify in ((True, LABELS), (False, None)):
        expected = train_test_split(rows, test_size=fraction, random_state=seed, stratify=stratify)
        for ours, theirs in zip(splits.random_split(LABELS, fraction, seed, by_class), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(3, 20), min_size=1, max_size=6),
    n=st.integers(1, 3),
    seed=st.none() | st.integers(0, 9),
)
def test_n_images_of_every_class(counts, n, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = splits.per_class(labels, n, seed)
    assert np.all(np.diff(rows) > 0)
    assert np.bincount(labels[rows]).tolist() == [n] * len(counts)
    np.testing.assert_array_equal(rows, splits.per_class(labels, n, seed))
    if seed is None:
        for label in range(len(counts)):
            assert rows[labels[rows] == label].tolist() == np.flatnonzero(labels == label)[:n].tolist()


def test_another_seed_draws_other_images():
    drawn = {tuple(splits.per_class(LABELS, 5, seed)) for seed in (None, 0, 1, 2)}
    assert len(drawn) == 4


def test_a_fraction_of_the_digits():
    config = ml_collections.ConfigDict({"source": "digits", "validation_fraction": 0.3, "seed": 42})
    train, validation = splits.make_splits(config)
    digits = open_source("digits")
    expected = train_test_split(digits.ids, test_size=0.3, random_state=42, stratify=digits.labels)
    assert [train.ids, validation.ids] == expected


def test_named_splits_thinned_out(tmp_path):
    files, _ = cifar_files("cifar10")
    files = write_files(tmp_path, files)
    config = {"source": f"cifar10:{files}", "train": "train", "validation": "test", "seed": None, "train_per_class": 3}
    train, validation = splits.make_splits(config)
    assert len(train) == 30 and len(validation) == 6
    assert train.ids[0] == "train/000000" and validation.ids[0] == "test/000000"
    assert np.bincount(train.labels).tolist() == [3] * 10


def test_the_same_seed_gives_the_same_images():
    config = {"source": "digits", "train_per_class": 10, "seed": 3}
    ids = [splits.make_splits(config)[0].ids for _ in range(2)]
    assert ids[0] == ids[1] != splits.make_splits({**config, "seed": 4})[0].ids


@pytest.mark.parametrize(
    "fields, error, words",
    [
        ({"source": None}, UsageError, "names no data set"),
        ({"sauce": 1}, UsageError, "no field sauce"),
        ({"validation_fraction": 0.0}, UsageError, "between 0 and 1"),
        ({"validation_fraction": 0.001}, UsageError, "1797 images.*stratify=False takes no heed of classes$"),
        ({"seed": None}, UsageError, "needs a seed"),
        ({"train_per_class": 1000}, UsageError, "digits: class '0' has 142 images, fewer than the 1000 asked"),
        ({"train_per_class": 0}, UsageError, "at least one"),
        ({"train": "train"}, UsageError, "digits has no splits"),
    ],
)
def test_a_wrong_config(fields, error, words):
    with pytest.raises(error, match=words):
        splits.make_splits({"source": "digits", **fields})


def test_a_class_with_one_image_cannot_be_stratified(tmp_path):
    png = encoded(pixels(1, 4, 4)[0])
    path = write_files(tmp_path, {f"many/{i}.png": png for i in range(9)} | {"lonely/1.png": png})
    config = {"source": f"folder:{path}", "validation_fraction": 0.5}
    with pytest.raises(TransferError, match="class 'lonely' has one image"):
        splits.make_splits(config)
    assert len(splits.make_splits({**config, "stratify": False})[0]) == 5


def test_a_class_that_is_not_to_train_on_is_refused(tmp_path):
    png = encoded(pixels(1, 4, 4)[0])
    path = write_files(tmp_path, {"train/a/1.png": png, "train/b/1.png": png, "test/cat/1.png": png})
    words = "the splits have different classes: cat of the one to validate on is not among those to train on: a, b$"
    with pytest.raises(TransferError, match=words):
        splits.make_splits({"source": f"folder:{path}", "train": "train", "validation": "test"})


def test_a_split_may_lack_a_class(tmp_path):
    png = encoded(pixels(1, 4, 4)[0])
    path = write_files(tmp_path, {f"train/{name}/1.png": png for name in "abc"} | {"test/c/1.png": png})
    train, validation = splits.make_splits({"source": f"folder:{path}", "train": "train", "validation": "test"})
    assert train.class_names == validation.class_names == ("a", "b", "c")
    assert train.labels.tolist() == [0, 1, 2] and validation.labels.tolist() == [2]
    before = splits.make_splits({"source": f"folder:{path}", "train": "train", "validation": "train"})[1]
    assert validation.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "train, validation, names, train_labels, validation_labels",
    [
        ([0, 1, 2, 10], [0, 1, 2], ("0", "1", "2", "10"), [0, 1, 2, 3], [0, 1, 2]),
        ([0, 1, 2], [0, 2, 10], ("0", "1", "2", "10"), [0, 1, 2], [0, 2, 3]),
        ([1, 2, 3], [3, 1], ("1", "2", "3"), [0, 1, 2], [2, 0]),
        ([1, 9], [1, 3], ("1", "3", "9"), [0, 2], [0, 1]),
    ],
)
def test_numbered_classes_are_those_that_occur(tmp_path, train, validation, names, train_labels, validation_labels):
    arrays = {"x_train": pixels(len(train)), "y_train": train, "x_test": pixels(len(validation)), "y_test": validation}
    np.savez(tmp_path / "a.npz", **arrays)
    config = {"source": f"npz:{tmp_path}/a.npz", "train": "train", "validation": "test"}
    for source, labels in zip(splits.make_splits(config), (train_labels, validation_labels), strict=True):
        assert source.class_names == names and source.labels.tolist() == labels


DESCRIBED = {
    "several": ([0, 1, 2, 3] * 6, "0123", "train: 24 images of 4 classes: 0, 1, 2, 3"),
    "one of each": ([0], ["cat"], "train: 1 image of 1 class: cat"),
    "many": (range(43), [f"{i:05d}" for i in range(43)], "train: 43 images of 43 classes: 00000, .*, 00009, …"),
    "none of some": ([0, 0, 2], ["a", "b", "c"], "train: 3 images of 2 classes: a, c; none of b"),
    "odd names": ([0, 1], ["b\nc", "caf\udce9"], r"train: 2 images of 2 classes: b\\nc, caf\\udce9"),
}


@pytest.mark.parametrize("labels, names, words", DESCRIBED.values(), ids=DESCRIBED)
def test_a_side_in_a_line(labels, names, words):
    labels = np.asarray(labels)
    source = ArraySource("here", np.zeros((len(labels), 1, 1), np.uint8), labels, names)
    assert re.fullmatch(words, splits.described("train", source))


def test_images_and_classes_are_said(caplog):
    with caplog.at_level(logging.INFO):
        sources = splits.splits_to_train({"source": "digits", "train_per_class": 3})
    assert list(sources) == ["train", "validation"]
    for line in ("train: 30 images of 10 classes: 0, 1, 2,", "validation: 360 images of 10 classes: 0, 1, 2,"):
        assert line in caplog.text


TRACKS = [f"{track:05d}_{frame:05d}.ppm" for track in range(3) for frame in range(30)]  # the traffic signs of GTSRB


@pytest.mark.parametrize(
    "names, said",
    [
        (TRACKS, True),
        ([name for name in TRACKS if not name.endswith("17.ppm")], False),  # who numbers so leaves none out
        (TRACKS[:30], False),  # numbered, all of one
        ([f"IMG_{number:04d}.jpg" for number in range(90)], False),
        ([f"2026{day:04d}_{time:06d}.jpg" for day in (101, 102) for time in range(90000, 93000, 100)], False),
        ([f"{number:05d}.png" for number in range(90)], False),
    ],
)
def test_tracks_without_a_group_are_noticed_by_their_names(tmp_path, names, said, caplog):
    for class_name in ("00", "01"):
        (tmp_path / class_name).mkdir()
        for name in names:
            (tmp_path / class_name / name).touch()
    splits.make_splits({"source": f"folder:{tmp_path}"})
    assert ("frames of tracks or videos, of which both sides get near-copies" in caplog.text) == said
