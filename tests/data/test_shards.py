"""Which files are the shards of a split, wherever they lie."""

import fsspec
import numpy as np
import pyarrow
import pytest

from transfer.data import shard_rows, shards
from transfer.errors import TransferError, UsageError

# What lies in a folder, split -> what is taken of it, or the words of the refusal.
LAYOUTS = {
    "one file": (["a.tar"], {None: ["a.tar"], "a": ["a.tar"]}),
    "numbered": (["train-000000.tar", "train-000001.tar"], {None: [0, 1], "train": [0, 1]}),
    "of two splits": (
        ["train-000000.tar", "train-000001.tar", "val-000000.tar"],
        {None: "needs a split; there is train, val", "train": [0, 1], "val": [2], "test": "no split 'test'"},
    ),
    "Hugging Face's": (
        ["data/test-00000-of-00001.tar", "data/train-00000-of-00002.tar", "data/train-00001-of-00002.tar"],
        {"train": [1, 2], "test": [0], "data/train": [1, 2], None: "there is data/test, data/train"},
    ),
    "with hashes": (
        ["data/train-00000-of-00002-0f3dc2a0b1c2d3e4.tar", "data/train-00001-of-00002-9f3dc2a0b1c2d3e4.tar"],
        {"train": [0, 1], None: [0, 1]},
    ),
    "not all of them": (
        ["train-00000-of-00003.tar", "train-00002-of-00003.tar", "val-00000-of-00001.tar"],
        {"train": "2 of 3 shards of train are there, by their names; copy", "val": [2], "train-*.tar": [0, 1]},
    ),
    "of two data sets": (
        ["train-00000-of-00001.tar", "train-00000-of-00002.tar", "train-00001-of-00002.tar"],
        {None: "3 of 2 shards of train are there, by their names", "train-*-of-00002.tar": [1, 2]},
    ),
    "folders of splits": (["train/000.tar", "train/001.tar", "val/000.tar"], {"train": [0, 1], "val": [2]}),
    "folders of parts": (["train/a-0.tar", "train/b-0.tar", "val/a-0.tar"], {"train": [0, 1], "val": [2]}),
    "named after the data set": (
        ["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"],
        {"train": [0], "validation": [1], "imagenet1k-train": [0], "val": "no split 'val'"},
    ),
    "a split whose name another one has in it": (
        ["train-0.tar", "train_extra-0.tar"],
        {"train": [0], "train_extra": [1], "extra": "no split 'extra'"},
    ),
    "two that may be meant": (
        ["a-train-0.tar", "b-train-0.tar"],
        {"train": "needs a split; there is a-train, b-train; or name files by a pattern"},
    ),
    "numbers alone": (["000000.tar", "000001.tar"], {None: [0, 1]}),
    "patterns as splits": (
        ["s-0.tar", "s-1.tar", "s-2.tar", "s-10.tar"],
        {
            "s-{0..1}.tar": [0, 1],
            "s-2.tar": [2],
            "s-?.tar": [0, 1, 2],
            "s-{0,10}.tar": [0, 3],
            "s-[01].tar": [0, 1],
            "s-{2..3}.tar": "1 of 2 not there: .*s-3.tar",
            "t-*.tar": "1 of 1 not there: .*t-.*tar",
        },
    ),
    "what is no shard": (["a.tar", ".b.tar", "c.txt", ".hidden/d.tar"], {None: ["a.tar"]}),
    "nothing": (["a.txt"], {None: "there are no wds files"}),
}


@pytest.mark.parametrize("place", ["disk", "bucket"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shards_of_a_split(layout, place, tmp_path):
    files, splits = LAYOUTS[layout]
    root = str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}"
    for file in files:
        with fsspec.open(f"{root}/{file}", "wb", auto_mkdir=True) as stream:
            stream.write(b"x")
    for split, expected in splits.items():
        if isinstance(expected, str):
            with pytest.raises((UsageError, TransferError), match=expected) as caught:
                shards.find("wds:x", root, split, r"\.tar$")
            assert "\n" not in str(caught.value)
        else:
            wanted = sorted(files[each] if isinstance(each, int) else each for each in expected)
            found = shards.find("wds:x", root, split, r"\.tar$")
            assert [shard.name for shard in found] == wanted
            assert [shard.read(0, 1) for shard in found] == [b"x"] * len(wanted)


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("d/s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("d/{s,t}-000.tar", ["s-000.tar", "t-000.tar"]),
        ("d/*-00[01].tar", ["s-000.tar", "s-001.tar", "t-000.tar"]),
        ("*/t-*.tar", ["d/t-000.tar"]),
        ("d/s-000.tar", ["s-000.tar"]),
        ("d/../d/t-000.tar", ["t-000.tar"]),
    ],
)
def test_patterns_take_all_that_they_name(pattern, expected, tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("s-000", "s-001", "s-002", "t-000"):
        (tmp_path / "d" / f"{name}.tar").write_bytes(b"")
    found = shards.find("wds:x", f"{tmp_path}/{pattern}", None, r"\.tar$")
    assert [shard.name for shard in found] == expected


@pytest.mark.parametrize(
    "path, words",
    [
        ("gone", "1 of 1 not there: .*gone"),
        ("gone-{0..3}.tar", "4 of 4 not there: .*gone-0.tar, .*, …"),
        ("gone-*.tar", "1 of 1 not there"),
        ("a-{0..3.tar", "Unbalanced braces"),
        ("nowhere://bucket/a.tar", "nowhere:// cannot be read here .*Protocol not known"),
    ],
)
def test_what_is_not_there(path, words, tmp_path):
    where = path if "://" in path else f"{tmp_path}/{path}"
    with pytest.raises((UsageError, TransferError), match=words) as caught:
        shards.find("wds:x", where, None, r"\.tar$")
    assert "\n" not in str(caught.value)


def test_a_shard_that_was_cut_since_is_no_broken_image(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    (shard,) = shards.find("wds:x", str(tmp_path), None, r"\.tar$")
    assert shard.read(2, 3) == b"234"
    (tmp_path / "a.tar").write_bytes(b"0123")
    with pytest.raises(TransferError, match=r"a\.tar: has become shorter since it was listed"):
        shard.read(2, 3)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(TransferError, match=r"a\.tar: cannot be read \(FileNotFoundError"):
        shard.read(2, 3)


def source_of(parts, **columns):
    """A source of shards that say this of their rows."""
    found = [shards.Shard(f"{number}", "", 0, 0, None) for number in range(len(parts))]
    tables = [pyarrow.table({"0": pyarrow.array(part), "size": np.zeros(len(part), np.int64)}) for part in parts]
    return shard_rows.ShardSource("x", found, tables, shard_rows.Columns(**columns))


@pytest.mark.parametrize(
    "parts, names, labels",
    [
        ([["9", "10", "9"], ["10", "2"]], ("2", "9", "10"), [1, 2, 1, 2, 0]),
        ([["dog", "cat"], ["eel"]], ("cat", "dog", "eel"), [1, 0, 2]),
        ([["10", "9", "x", None]], ("10", "9", "x"), [0, 1, 2]),
        ([["a"], [None, "b"]], ("a", "b"), [0, 1]),
    ],
)
def test_labels_of_several_shards(parts, names, labels):
    source = source_of(parts)
    assert source.class_names == names and source.labels.tolist() == labels and source.labels.dtype == np.int64


def test_a_label_beyond_the_names_that_are_given():
    with pytest.raises(TransferError, match="x: label 2 among 2 classes"):
        source_of([[0, 2]], class_names=("a", "b"))
