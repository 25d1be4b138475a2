"""Data sets of Hugging Face's `datasets`: folders of `save_to_disk`, and what is asked of the library."""

import logging

import datasets
import numpy as np
import pytest
from real_formats import CLASSES, encoded, pixels

from transfer.data import BrokenImage, open_source
from transfer.data.loader import load_all
from transfer.errors import TransferError, UsageError

IMAGES = pixels(6, 8, 6)
LABELS = [0, 1, 2] * 2
DATA = [{"bytes": encoded(image), "path": None} for image in IMAGES]
NAMED = datasets.ClassLabel(names=list(CLASSES))


def rows(label=NAMED, labels=LABELS, images=DATA, **columns):
    """A data set of six images."""
    features = datasets.Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": images, "label": labels, **columns}, features)


@pytest.mark.parametrize(
    "label, labels, class_names",
    [
        (NAMED, LABELS, CLASSES),
        (datasets.Value("int64"), [3, 10, 2] * 2, ("2", "3", "10")),
        (datasets.Value("string"), ["b", "c", "a"] * 2, ("a", "b", "c")),
    ],
)
def test_a_saved_data_set(label, labels, class_names, tmp_path):
    rows(label, labels).save_to_disk(tmp_path / "a")
    source = open_source(f"hf:{tmp_path}/a")
    assert source.class_names == class_names and source.ids[5] == "000005"
    assert [class_names[number] for number in source.labels] == (
        [CLASSES[number] for number in LABELS] if label is NAMED else list(map(str, labels))
    )
    np.testing.assert_array_equal(load_all(source), IMAGES)
    again = open_source(f"hf:{tmp_path}/a")
    assert again.fingerprint == source.fingerprint
    assert again.file_stamps([0, 1]).tolist() == source.file_stamps([0, 1]).tolist()
    assert again.file_checksums([0, 3]).tolist() == source.file_checksums_read([0, 3]).tolist()


def test_rows_that_were_chosen_are_those_that_are_read(tmp_path):
    rows().select([4, 0, 3]).save_to_disk(tmp_path / "a")
    source = open_source(f"hf:{tmp_path}/a")
    assert source.labels.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(load_all(source), IMAGES[[4, 0, 3]])


def test_rows_without_a_label_are_counted(tmp_path, caplog):
    rows(labels=[0, -1, 1, None, 2, 0]).save_to_disk(tmp_path / "a")
    with caplog.at_level(logging.WARNING, "absl"):
        source = open_source(f"hf:{tmp_path}/a")
    assert f"hf:{tmp_path}/a: left out: 2 without a label (first: 000001)" in caplog.messages
    np.testing.assert_array_equal(load_all(source), IMAGES[[0, 2, 4, 5]])


def test_several_labels_and_values(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "tags": datasets.List(NAMED), "age": datasets.Value("int8")}
    )
    table = {"image": DATA[:3], "tags": [[0, 2], [], [1]], "age": [3, 1, 2]}
    datasets.Dataset.from_dict(table, features).save_to_disk(tmp_path / "a")
    source = open_source(f"hf:{tmp_path}/a", columns={"labels": "tags"})
    assert source.target == "labels" and source.class_names == CLASSES
    assert source.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    source = open_source(f"hf:{tmp_path}/a", columns={"value": "age"})
    assert source.target == "values" and source.labels.tolist() == [[3], [1], [2]]


def test_broken_images_are_named_by_our_decoder(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(IMAGES[1]))
    images = [{"bytes": b"<html>", "path": None}, None, str(tmp_path / "x.png"), *DATA[3:]]
    rows(images=images).save_to_disk(tmp_path / "a")
    (tmp_path / "x.png").rename(tmp_path / "z.png")
    source = open_source(f"hf:{tmp_path}/a")
    with pytest.raises(BrokenImage, match=r"a: 000000: not a readable image"):
        source.image(0)
    with pytest.raises(BrokenImage, match=r"a: 000001: cannot be read \(there is neither data nor a path"):
        source.image(1)
    np.testing.assert_array_equal(source.image(3), IMAGES[3])


@pytest.mark.parametrize(
    "split, words",
    [
        (None, r"^hf:\S+: needs a split; there is test, train"),
        ("val", r"^hf:\S+: no split 'val'; there is test, tr"),
    ],
)
def test_splits_of_a_saved_data_set(split, words, tmp_path):
    datasets.DatasetDict(test=rows(), train=rows()).save_to_disk(tmp_path / "a")
    with pytest.raises(UsageError, match=words):
        open_source(f"hf:{tmp_path}/a", split)
    rows().save_to_disk(tmp_path / "b")
    with pytest.raises(UsageError, match="no split 'train'; there is nothing"):
        open_source(f"hf:{tmp_path}/b", "train")


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(TransferError, match=r"^hf:.*: cannot be opened \(FileNotFoundError: .*neither a"):
        open_source(f"hf:{tmp_path}")


@pytest.fixture
def asked(monkeypatch):
    """What the library was asked for; it has one data set."""
    calls = []

    def load(*args, **options):
        calls.append((*args, options))
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args: ["train", "test"])
    return calls


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mnist", ("mnist", None)),
        ("uoft-cs/cifar100", ("uoft-cs/cifar100", None)),
        ("dpdl-benchmark/caltech/v1.0", ("dpdl-benchmark/caltech", "v1.0")),
    ],
)
def test_a_name_on_a_hub(name, expected, asked):
    source = open_source(f"hf:{name}", "train[:50%]")
    assert asked == [(*expected, {"split": "train[:50%]"})]
    assert source.ids[0] == "train[:50%]/000000" and source.name == f"hf:{name}"
    with pytest.raises(UsageError, match="needs a split; there is train, test"):
        open_source(f"hf:{name}")


def test_what_the_library_says_is_one_line(monkeypatch):
    def load(*args, **options):
        raise ValueError("Unknown split\n'x'.\x1b[2J")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UsageError, match=r"^hf:a/b: cannot be opened \(ValueError: Unknown split 'x'.\\x1b\[2J\)$"):
        open_source("hf:a/b", "x")
    with pytest.raises(UsageError, match="write hf:NAME"):
        open_source("hf:")
