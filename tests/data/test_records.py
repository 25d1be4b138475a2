"""TFRecord and ArrayRecord files of Examples: written by the libraries of others, damaged, and of other contents."""

import gzip
import struct
import zlib

import google_crc32c
import numpy as np
import pytest
from real_formats import encoded, example, imagenet, pixels, write_array_record, write_tfrecord
from tensorflow_datasets.proto import tf_example_pb2

from transfer.data import BrokenImage, open_source
from transfer.data.loader import load_all
from transfer.errors import TransferError, UsageError

IMAGES = pixels(6, 8, 6)
DATA = [encoded(image) for image in IMAGES]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is kept of shards, of this test alone."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture(params=["tfrecord", "arrayrecord"])
def written(request, tmp_path):
    """Writes a file of records, and gives its spec."""

    def write(found, name="train"):
        path = tmp_path / f"{name}.{request.param}"
        (write_tfrecord if request.param == "tfrecord" else write_array_record)(path, found)
        return f"{request.param}:{path}"

    return write


# the record of an image and a label -> settings, what the labels are
LAYOUTS = {
    "ImageNet": (lambda image, row: imagenet(image, row % 3 + 1), {}, ("1", "2", "3")),
    "TensorFlow Datasets": (lambda image, row: example(image=image, label=row % 3, file_name="a.png"), {}, "012"),
    "names of classes": (lambda image, row: example(image=image, label="cde"[row % 3]), {}, "cde"),
    "text alone": (lambda image, row: example(image__encoded=image, image__class__text="cde"[row % 3]), {}, "cde"),
    "other names": (
        lambda image, row: example(left=image, right=b"", kind="cde"[row % 3], label=7),
        {"path": "left", "label": "kind"},
        "cde",
    ),
    "text where numbers are, too": (
        lambda image, row: example(image=image, label=0, image__class__text="cde"[row % 3]),
        {"label": "image/class/text"},
        "cde",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_labels(layout, written, cache):
    make, columns, class_names = LAYOUTS[layout]
    spec = written([make(image, row) for row, image in enumerate(DATA)])
    for _ in range(2):
        source = open_source(spec, columns=columns)
        assert source.class_names == tuple(class_names) and source.labels.tolist() == [0, 1, 2] * 2
        assert source.ids[5].endswith("record/000005") and len(list(cache.iterdir())) == 1
        np.testing.assert_array_equal(load_all(source), IMAGES)
        assert source.uniform_shape == (8, 6, 3)


# settings, features of the records -> target, names, labels
SEVERAL = {
    "a list of numbers": ({"labels": "tags"}, [[7, 10], [], [7]], ("labels", ("7", "10"), [[1, 1], [0, 0], [1, 0]])),
    "a list of text": (
        {"labels": "tags"},
        [["b c"], ["a"], ["a", "b c"]],
        ("labels", ("a", "b c"), [[0, 1], [1, 0], [1, 1]]),
    ),
    "numbers": ({"value": "tags"}, [1.5, 2.0, -1.0], ("values", ("tags",), [[1.5], [2], [-1]])),
    "whole numbers": ({"value": "tags"}, [1, 2, -1], ("values", ("tags",), [[1], [2], [-1]])),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_labels_and_values(kind, written):
    columns, tags, (target, names, labels) = SEVERAL[kind]
    source = open_source(written([example(image=DATA[0], tags=each) for each in tags]), columns=columns)
    if kind == "a list of numbers":  # without a value nothing is said
        labels = [labels[0], labels[2]]
    assert source.target == target and source.class_names == names and source.labels.tolist() == labels


def test_records_that_are_left_out_are_counted(written, caplog):
    image = DATA[0]
    others = [
        example(image=image, label=-1),
        example(image=image, label=[1, 2]),
        example(image=image, label=0.5),
        example(image=image, label=b"\xff"),
        example(image=[image, image], label=1),
        example(image="x", file=1),
        example(label=1),
        example(image=3, label=1),
    ]
    source = open_source(written([example(image=image, label=4), *others]))
    assert len(source) == 1 and source.class_names == ("4",)
    (line,) = caplog.messages
    assert "left out: 2 without a label (first: train." in line and "3 without one image (first: " in line
    assert "3 whose label is no label (first: train." in line and "\n" not in line


def test_the_first_record_says_where_labels_are(written, caplog):
    """Of two features each with a label only one means the same in all records."""
    source = open_source(written([imagenet(DATA[0], 7), example(image=DATA[1], label=8), imagenet(DATA[2], 9)]))
    assert source.class_names == ("7", "9") and "left out: 1 without a label (first: train." in caplog.messages[0]


REFUSED = {
    "nothing that is asked for": (
        lambda: example(jpeg=DATA[0], label=1),
        "a record has no image/encoded; config.data.columns may name what there is: jpeg, label$",
    ),
    "no label": (lambda: example(image=DATA[0], kind=1), "a record has no image/class/label; .* is: image, kind$"),
    "nothing": (lambda: b"", "a record has no image/encoded; config.data.columns may name what there is: nothing$"),
    "a picture": (lambda: encoded(IMAGES[0], "JPEG"), r"a record is no tf.train.Example: it begins with b'.xff.xd8"),
    "a sequence": (
        lambda: tf_example_pb2.SequenceExample(
            feature_lists={"feature_list": {"image": tf_example_pb2.SequenceExample().feature_lists.feature_list["a"]}}
        ).SerializeToString(),
        "a record is a tf.train.SequenceExample: write an Example for each image$",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_records_of_other_contents(kind, written):
    make, words = REFUSED[kind]
    with pytest.raises(TransferError, match=words) as caught:
        open_source(written([make()]))
    assert "\n" not in str(caught.value) and "train." in str(caught.value)


def framed(record):
    """A record as the specification of TFRecord has it, by another library's checksum."""

    def masked(data):
        value = google_crc32c.value(data)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


GOOD = b"".join(framed(imagenet(image, 1)) for image in DATA)
FIRST = len(framed(imagenet(DATA[0], 1)))
HUGE = struct.pack("<Q", 1 << 60)
DAMAGED = {
    "gzip": (gzip.compress(GOOD), "is packed by gzip: unpack it .gunzip., images are read where they lie$"),
    "zlib": (zlib.compress(GOOD), "no TFRecord file, or a damaged one$"),
    "a page of the web": (b"<html>" * 100, "no TFRecord file"),
    "half a header": (GOOD[:7], "no TFRecord file"),
    "cut off in a record": (GOOD[:-60], "ends early: .* bytes should follow byte .*; copy or download it again$"),
    "cut off in a length": (GOOD[: FIRST + 5], f"damaged at byte {FIRST}; copy"),
    "cut off in a checksum": (GOOD[:-2], "ends early"),
    "a bit of an image": (
        GOOD[: FIRST + 200] + bytes([GOOD[FIRST + 200] ^ 1]) + GOOD[FIRST + 201 :],
        f"damaged in the record at byte {FIRST}, by its checksum",
    ),
    "a bit of a length": (bytes([GOOD[0] ^ 1]) + GOOD[1:], "no TFRecord file"),
    "a record of an exabyte": (
        HUGE + framed(HUGE)[-4:] + b"x",
        f"ends early: {1 << 60} bytes should follow byte 12 of 13",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_tfrecord_file_is_one_line_that_names_it(kind, tmp_path, cache):
    data, words = DAMAGED[kind]
    (tmp_path / "train-00000-of-00002").write_bytes(GOOD)
    (tmp_path / "train-00001-of-00002").write_bytes(data)
    with pytest.raises(TransferError, match=words) as caught:
        open_source(f"tfrecord:{tmp_path}", "train")
    assert str(caught.value).startswith(f"{tmp_path}/train-00001-of-00002: ") and "\n" not in str(caught.value)
    assert len(list(cache.iterdir())) == 1
    whole = {"cut off in a record": 5, "cut off in a checksum": 5}.get(kind, 1 if f"byte {FIRST}" in words else 0)
    assert len(open_source(f"tfrecord:{tmp_path}", "train", skip_damage=True)) == 6 + whole


def test_what_the_specification_says_is_what_is_read(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(GOOD)
    np.testing.assert_array_equal(load_all(open_source(str(tmp_path / "a.tfrecord"))), IMAGES)
    write_tfrecord(tmp_path / "b.tfrecord", [imagenet(image, 1) for image in DATA])
    assert (tmp_path / "b.tfrecord").read_bytes() == GOOD


@pytest.mark.parametrize("data", [b"", b"junk" * 9, b"x" * 100_000, "half", "end", "start"])
def test_a_damaged_array_record_file_is_one_line_that_names_it(data, tmp_path):
    path = tmp_path / "a.array_record"
    write_array_record(path, [example(image=image, label=1) for image in DATA])
    whole = path.read_bytes()
    cuts = {"half": whole[: len(whole) // 2], "end": whole[:-10], "start": whole[10:]}
    path.write_bytes(cuts[data] if isinstance(data, str) else data)
    with pytest.raises(TransferError, match=r"cannot be read .*no ArrayRecord file, or a damaged one") as caught:
        open_source(f"arrayrecord:{path}")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", ["group_size:1", "group_size:4", "group_size:3,uncompressed", "group_size:2,snappy"]
)
def test_array_records_however_they_were_written(options, tmp_path):
    write_array_record(tmp_path / "a.arrayrecord", [example(image=image, label=1) for image in DATA * 30], options)
    source = open_source(f"arrayrecord:{tmp_path}")
    np.testing.assert_array_equal(load_all(source), np.concatenate([IMAGES] * 30))


def test_broken_images_are_named(written):
    source = open_source(written([example(image=b"<html>", label=1), example(image=b"", label=1)]))
    for row in range(2):
        with pytest.raises(BrokenImage, match=rf"record/00000{row}: not a readable image"):
            source.image(row)


def test_files_on_a_bucket(tmp_path):
    import fsspec

    for name in ("train-00000-of-00001", "train.array_record-00000-of-00001"):
        with fsspec.open(f"memory://{tmp_path.name}/{name}", "wb") as stream:
            stream.write(GOOD)
    source = open_source(f"tfrecord:memory://{tmp_path.name}", "train")
    assert source.ids[0] == "train-00000-of-00001/000000"
    np.testing.assert_array_equal(load_all(source), IMAGES)
    with pytest.raises(TransferError, match="ArrayRecord files are read from this machine's disks: copy it there"):
        open_source(f"arrayrecord:memory://{tmp_path.name}", "train")


@pytest.mark.parametrize(
    "name, split",
    [
        ("train-00000-of-00001", "train"),
        ("imagenet2012-train.tfrecord-00000-of-00001", "train"),
        ("tiny-test.tfrecord", "test"),
        ("val.tfrecords", "val"),
        ("train/a.tfrecord-00000-of-00001", "train"),
    ],
)
def test_how_files_are_named(name, split, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "dataset_info.json").write_text("{}")
    assert len(open_source(f"tfrecord:{tmp_path}", split)) == 6
    with pytest.raises(UsageError, match="no split 'gone'; there is"):
        open_source(f"tfrecord:{tmp_path}", "gone")
    with pytest.raises(TransferError, match="there are no arrayrecord files"):
        open_source(f"arrayrecord:{tmp_path}", split)
