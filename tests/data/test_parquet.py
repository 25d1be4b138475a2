"""Parquet files with images inside, as Hugging Face's `datasets` writes them and as others do."""

import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_formats import encoded, image_table, pixels

from transfer.data import BrokenImage, open_source, parquet
from transfer.data.loader import batches, load_all
from transfer.data.source import digest
from transfer.data.splits import make_splits
from transfer.errors import TransferError, UsageError

IMAGES = pixels(12, 8, 6)
LABELS = [0, 1, 2] * 4
DATA = [encoded(image) for image in IMAGES]


def write(path, table, **options):
    """The spec of a file of `table`."""
    pq.write_table(table, path, **options)
    return f"parquet:{path}"


def plain(**columns):
    """A table without metadata."""
    return pa.table(
        {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    )


# columns -> class names
TABLES = {
    "bytes and numbers": (lambda: plain(image=DATA, label=LABELS), ("0", "1", "2")),
    "numbers from 1": (lambda: plain(image=DATA, label=[label + 1 for label in LABELS]), ("1", "2", "3")),
    "numbers of both signs": (lambda: plain(image=DATA, label=[5 * label - 5 for label in LABELS]), ("-5", "0", "5")),
    "small numbers": (lambda: plain(image=DATA, label=pa.array(LABELS, pa.uint8())), ("0", "1", "2")),
    "text": (lambda: plain(image=DATA, label=["c", "d", "e"] * 4), ("c", "d", "e")),
    "categories": (lambda: plain(image=DATA, label=pa.array(["c", "d", "e"] * 4).dictionary_encode()), ("c", "d", "e")),
    "large text": (
        lambda: plain(image=pa.array(DATA, pa.large_binary()), label=pa.array(["c", "d", "e"] * 4, pa.large_string())),
        ("c", "d", "e"),
    ),
    "a struct of bytes alone": (lambda: plain(image=[{"bytes": data} for data in DATA], label=LABELS), ("0", "1", "2")),
    "other names": (lambda: plain(img=DATA, category=LABELS), ("0", "1", "2")),
    "other columns": (lambda: plain(id=LABELS, image=DATA, label=LABELS, score=[0.5] * 12), ("0", "1", "2")),
    "Hugging Face's": (lambda: image_table(IMAGES, LABELS), ("cat", "dog", "eel")),
    "Hugging Face's, other names": (
        lambda: image_table(IMAGES, LABELS, image="img", label="fine"),
        ("cat", "dog", "eel"),
    ),
    "Hugging Face's, a class without an image": (lambda: image_table(IMAGES, LABELS, [*"abcd"]), ("a", "b", "c", "d")),
    "metadata of others": (
        lambda: plain(image=DATA, label=LABELS).replace_schema_metadata({"huggingface": "{"}),
        ("0", "1", "2"),
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_images_and_labels(kind, tmp_path):
    make, class_names = TABLES[kind]
    source = open_source(write(tmp_path / "a.parquet", make(), row_group_size=5))
    assert source.class_names == class_names and source.labels.tolist() == LABELS
    assert source.ids[0] == "a.parquet/000000" and source.ids[11] == "a.parquet/000011"
    np.testing.assert_array_equal(load_all(source), IMAGES)


REFUSED = {
    "no bytes": (
        lambda: plain(image=["a.png"] * 12, label=LABELS),
        "columns.path must name one column of encoded images .a table of paths is csv:FILE.; there is image .string",
    ),
    "two of images": (
        lambda: plain(left=DATA, right=DATA, label=LABELS),
        "must name .* images .*; there is left .binary., right",
    ),
    "two of labels": (
        lambda: plain(image=DATA, a=LABELS, b=LABELS),
        "must name one column of classes; there is image .*, a .*, b",
    ),
    "no labels": (lambda: plain(image=DATA), "columns.label must name one column of classes; there is image"),
    "unlabelled": (
        lambda: image_table(IMAGES, [-1] * 12),
        "there is no image with a label: 12 without a label .first: a.parquet/000000.$",
    ),
    "nothing": (lambda: image_table(IMAGES[:0], []), "there is no image with a label: it is empty$"),
    "a label beyond the names": (lambda: image_table(IMAGES, [3] * 12), "label 3 among 3 classes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind, tmp_path):
    make, words = REFUSED[kind]
    with pytest.raises((TransferError, UsageError), match=words) as caught:
        open_source(write(tmp_path / "a.parquet", make()))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def hugging(**features):
    """What `datasets` writes of the features of a table."""
    return {"huggingface": json.dumps({"info": {"features": features}})}


TAGS = [[0, 2], [], [1]] * 4
OF_CLASSES = {"feature": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}, "_type": "List"}
# settings, columns -> target, names, the labels of the first rows
SEVERAL = {
    "lists of text": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=[["c", "a"], [], ["b"]] * 4),
        ("labels", ("a", "b", "c"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "lists of numbers": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=TAGS),
        ("labels", ("0", "1", "2"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "lists of classes of Hugging Face": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=TAGS).replace_schema_metadata(hugging(tags=OF_CLASSES)),
        ("labels", ("cat", "dog", "eel"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "lists of marks": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=[[True, False, True], [False] * 3, [False, True, False]] * 4),
        ("labels", ("0", "1", "2"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "lists that are filled up": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=[[0, 2], [-1, None], [1, -1]] * 4).replace_schema_metadata(
            hugging(tags=OF_CLASSES)
        ),
        ("labels", ("cat", "dog", "eel"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "text that is separated": (
        {"labels": "tags"},
        lambda: plain(image=DATA, tags=["c|a", "", "b"] * 4),
        ("labels", ("a", "b", "c"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ),
    "columns of marks": (
        {"labels": "old,torn"},
        lambda: plain(image=DATA, old=[1, 0, 1] * 4, torn=[True, False, False] * 4),
        ("labels", ("old", "torn"), [[1, 1], [0, 0], [1, 0]]),
    ),
    "values": (
        {"value": "x,y"},
        lambda: plain(image=DATA, x=[1.5, -2, 0] * 4, y=[1, 2, 3] * 4, label=LABELS),
        ("values", ("x", "y"), [[1.5, 1], [-2, 2], [0, 3]]),
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_labels_and_values(kind, tmp_path, caplog):
    columns, make, (target, names, labels) = SEVERAL[kind]
    spec = write(tmp_path / "train-0.parquet", make(), row_group_size=5)
    write(tmp_path / "train-1.parquet", make().slice(1, 1))
    source = open_source(f"parquet:{tmp_path}", columns=columns)
    assert source.target == target and source.class_names == names and not caplog.messages
    np.testing.assert_array_equal(source.labels, [*labels * 4, labels[1]])
    np.testing.assert_array_equal(source.image(12), IMAGES[1])
    with pytest.raises(
        UsageError, match=r"config.data.columns.labels must name one column of labels; there is image \(binary\), "
    ):
        open_source(spec, columns={"labels": "gone"})


def test_the_fingerprint_is_of_row_groups(tmp_path):
    """Stores of the version before have it so."""
    source = open_source(write(tmp_path / "a.parquet", plain(image=DATA, label=LABELS), row_group_size=5))
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    sizes = [metadata.row_group(group).total_byte_size for group in range(3)]
    assert source.fingerprint == digest(source, [np.array(sizes, "<i8").tobytes()])


@pytest.mark.parametrize("encode", [pa.array, lambda texts: pa.array(texts).dictionary_encode()])
def test_empty_text_is_no_class(encode, tmp_path, caplog):
    source = open_source(write(tmp_path / "a.parquet", plain(image=DATA[:4], label=encode(["b", "", "a", None]))))
    assert source.class_names == ("a", "b") and source.labels.tolist() == [1, 0]
    assert "left out: 2 without a label (first: a.parquet/000001)" in caplog.text


NO_LABELS = [[{"kind": "a"}, {"kind": "b"}], []], [{"a": 1, "b": 0}] * 2, [b"a|b", b"c"]


@pytest.mark.parametrize("tags", NO_LABELS)
def test_what_is_no_label(tags, tmp_path):
    spec = write(tmp_path / "a.parquet", plain(image=DATA[:2], tags=tags))
    with pytest.raises(TransferError, match=r"^parquet:.*: labels are text or numbers, not (\{'|b')"):
        open_source(spec, columns={"path": "image", "labels": "tags"})


def test_columns_may_be_named(tmp_path):
    table = plain(left=DATA[::-1], right=DATA, coarse=[0] * 12, fine=LABELS)
    spec = write(tmp_path / "a.parquet", table)
    source = parquet.open_split(spec.partition(":")[2], None, {"path": "right", "label": "fine"})
    assert source.labels.tolist() == LABELS
    np.testing.assert_array_equal(load_all(source), IMAGES)
    with pytest.raises(UsageError, match=r"columns.label must name one column of classes; there is left"):
        parquet.open_split(spec.partition(":")[2], None, {"path": "right", "label": "left"})


def test_rows_without_a_label_are_counted(tmp_path, caplog):
    labels = [0, -1, 1, 2, None, 0] * 2
    with caplog.at_level(logging.WARNING):
        source = open_source(write(tmp_path / "a.parquet", image_table(IMAGES, labels), row_group_size=4))
    assert f"parquet:{tmp_path}/a.parquet: left out: 4 without a label (first: a.parquet/000001)" in caplog.messages
    assert len(source) == 8 and source.in_order and source.ids[1] == "a.parquet/000002"
    np.testing.assert_array_equal(load_all(source), IMAGES[[0, 2, 3, 5, 6, 8, 9, 11]])


OTHERS = {
    "another name": (
        lambda: image_table(IMAGES, LABELS, label="class"),
        "train-1.parquet: has other columns than the first file: .'class',., not .'label'",
    ),
    "another type": (
        lambda: plain(image=DATA, label=["a"] * 12),
        "has other columns than .*: .'binary', 'string'., not .'struct<bytes",
    ),
    "other classes": (lambda: image_table(IMAGES, LABELS, ["x", "y", "z"]), "has other columns than .*'x', 'y', 'z'"),
    "none": (lambda: plain(image=DATA), "train-1.parquet: config.data.columns.label must name"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_unlike_columns(kind, tmp_path):
    make, words = OTHERS[kind]
    write(tmp_path / "train-0.parquet", image_table(IMAGES, LABELS))
    write(tmp_path / "train-1.parquet", make())
    with pytest.raises((TransferError, UsageError), match=words) as caught:
        open_source(f"parquet:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_splits_of_unlike_classes(tmp_path):
    write(tmp_path / "train-0.parquet", image_table(IMAGES, LABELS))
    write(tmp_path / "test-0.parquet", image_table(IMAGES, LABELS, ["cat", "dog", "owl"]))
    with pytest.raises(TransferError, match="different classes.*eel.*owl|classes.*owl"):
        make_splits({"source": f"parquet:{tmp_path}", "train": "train", "validation": "test"})


@pytest.mark.parametrize("damage", ["end", "start", "middle", "empty", "text"])
def test_a_damaged_file_is_one_line_that_names_it(damage, tmp_path):
    path = tmp_path / "a.parquet"
    spec = write(path, image_table(IMAGES, LABELS))
    data = bytearray(path.read_bytes())
    if damage == "middle":
        data[len(data) // 2 - 300 : len(data) // 2 + 300] = bytes(600)
    path.write_bytes({"end": data[:-100], "start": data[100:], "empty": b"", "text": b"<html>" * 99}.get(damage, data))
    with pytest.raises((TransferError, BrokenImage), match=r"a\.parquet: ") as caught:
        load_all(open_source(spec))
    assert "\n" not in str(caught.value)


def test_images_that_are_only_paths_are_named(tmp_path):
    rows = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": DATA[1], "path": None}] * 6
    table = pa.table({"image": pa.array(rows, image_table(IMAGES, LABELS).schema.field(0).type), "label": LABELS})
    source = open_source(write(tmp_path / "a.parquet", table))
    with pytest.raises(BrokenImage, match=r"a\.parquet/000000: cannot be read \(the file holds no bytes of it"):
        source.image(0)
    np.testing.assert_array_equal(source.image(1), IMAGES[1])


@pytest.fixture
def unpacked(monkeypatch):
    """Which row groups were unpacked, in order."""
    groups = []
    real = parquet.ParquetSource._unpacked

    def note(self, shard, group):
        if shard < len(self.shards):  # not what would be ahead of the last
            groups.append((shard, group))
        return real(self, shard, group)

    monkeypatch.setattr(parquet.ParquetSource, "_unpacked", note)
    return groups


def test_in_order_each_row_group_is_unpacked_once_and_ahead(unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FEWEST", 8)
    monkeypatch.setattr(parquet, "MOST_BYTES", 0)
    for shard in range(2):
        write(tmp_path / f"train-{shard}.parquet", image_table(IMAGES, LABELS), row_group_size=2)
    source = open_source(f"parquet:{tmp_path}")
    assert source.uniform_shape == (8, 6, 3)
    unpacked.clear()
    for batch in batches(source, 0, 24, 3, None, workers=4):
        np.testing.assert_array_equal(batch.images, IMAGES[np.arange(batch.start, batch.start + 3) % 12])
    assert sorted(unpacked) == [(shard, group) for shard in range(2) for group in range(6)]


def test_a_drawn_split_is_read_in_order(unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_BYTES", 0)
    spec = write(tmp_path / "a.parquet", image_table(IMAGES, LABELS), row_group_size=1)
    for source in make_splits({"source": spec, "validation_fraction": 0.5}):
        assert list(source.ids) == sorted(source.ids)
        unpacked.clear()
        images = [source.image(row) for row in range(len(source))]
        np.testing.assert_array_equal(images, IMAGES[[int(id_[-6:]) for id_ in source.ids]])
        assert len(unpacked) == len(set(unpacked))


@pytest.mark.parametrize("most, kept", [(0, parquet.FEWEST), (1 << 20, 12)])
def test_shuffled_reading_keeps_what_memory_is_meant_for(most, kept, unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_BYTES", most)
    source = open_source(write(tmp_path / "a.parquet", image_table(IMAGES, LABELS), row_group_size=1))
    for row in [*np.random.default_rng(0).permutation(12).tolist(), 3, 3, 3]:
        np.testing.assert_array_equal(source.image(row), IMAGES[row])
    assert len(unpacked) == 12 if most else 12 <= len(unpacked) <= 26
    assert min(source._unpacking.cache_info().currsize, 12) == kept


def test_ids_stay_when_a_file_is_added(tmp_path):
    for shard in range(2):
        write(tmp_path / f"train-{shard}.parquet", image_table(IMAGES, LABELS))
    before = open_source(f"parquet:{tmp_path}")
    write(tmp_path / "train-2.parquet", image_table(IMAGES[:1], [1]))
    after = open_source(f"parquet:{tmp_path}")
    assert after.ids[:24] == list(before.ids) and after.ids[24] == "train-2.parquet/000000"
    assert before.file_stamps([0, 12, 23]).tolist() == after.file_stamps([0, 12, 23]).tolist()


def test_a_file_on_a_bucket(tmp_path):
    import fsspec

    stream = io.BytesIO()
    pq.write_table(image_table(IMAGES, LABELS), stream)
    with fsspec.open(f"memory://{tmp_path.name}/data/train-00000-of-00001.parquet", "wb") as file:
        file.write(stream.getvalue())
    source = open_source(f"parquet:memory://{tmp_path.name}", "train")
    assert source.ids[0] == "data/train-00000-of-00001.parquet/000000"
    np.testing.assert_array_equal(load_all(source), IMAGES)
