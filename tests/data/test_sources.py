"""Every source gives the images, labels and ids of a tiny data set in its real format."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from real_formats import (
    CLASSES,
    MAKERS,
    cifar_files,
    encoded,
    make_tfds,
    pixels,
    prepare_tfds,
    python3_pickle,
    write_files,
    write_tar,
)

from transfer.data import SOURCES, open_source, select
from transfer.data.loader import load_all
from transfer.data.source import digest
from transfer.errors import TransferError, UsageError


def in_one_order(images, labels):
    """Rows sorted by pixels: what a data set holds, whatever its order."""
    rows = sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    return rows


def test_images_labels_and_ids(data_set):
    kind, spec, splits = data_set
    for split, (images, labels) in splits.items():
        source = open_source(spec, split)
        assert len(source) == len(images) == len(source.ids) == len(set(source.ids))
        assert source.labels.dtype == np.int64 and source.labels.shape == (len(images),)
        assert all(isinstance(id_, str) for id_ in source.ids)
        assert source.image(0).dtype == np.uint8
        assert source.uniform_shape == images.shape[1:]
        read = load_all(source)
        if kind == "tfds":
            assert in_one_order(read, source.labels) == in_one_order(images, labels)
        else:
            np.testing.assert_array_equal(read, images)
            np.testing.assert_array_equal(source.labels, labels)
        if split:
            assert all(id_.startswith(split) for id_ in source.ids)


def test_splits_have_the_same_classes_and_a_split_must_be_named(data_set):
    kind, spec, splits = data_set
    if kind == "digits":
        assert open_source(spec).class_names == tuple("0123456789")
        with pytest.raises(UsageError, match="no splits"):
            open_source(spec, "train")
        return
    names = {open_source(spec, split).class_names for split in splits}
    assert len(names) == 1
    with pytest.raises(UsageError, match="train"):
        open_source(spec)
    with pytest.raises(UsageError, match="validate"):
        open_source(spec, "validate")


def test_the_fingerprint_is_of_the_content(data_set):
    _, spec, splits = data_set
    split = next(iter(splits))
    source, again = open_source(spec, split), open_source(spec, split)
    assert source.fingerprint == again.fingerprint
    others = [open_source(spec, other).fingerprint for other in splits if other != split]
    rows = [select(source, rows).fingerprint for rows in ([0, 1, 2], [0, 1], [2, 1, 0])]
    assert len({source.fingerprint, *others, *rows}) == 1 + len(others) + len(rows)


def test_a_fingerprint_tells_ids_from_classes():
    def source(ids, class_names, labels):
        return SimpleNamespace(target="classes", ids=ids, class_names=class_names, labels=np.array(labels))

    sources = [
        source("a", ["bc"], [0]),
        source(["ab"], "c", [0]),
        source("a", ["bc"], [1]),
        source("a", ["bc"], [0, 0]),
    ]
    digests = [digest(each, content) for each in sources for content in ([b"x", b"y"], [b"z"])]
    assert len(set(digests)) == len(digests) and digest(sources[0], [b"xy"]) == digests[0]


def test_a_selection_is_a_source(data_set):
    _, spec, splits = data_set
    source = open_source(spec, next(iter(splits)))
    some = select(select(source, [5, 3, 4]), [2, 0])
    assert len(some) == 2 and some.ids == [source.ids[4], source.ids[5]]
    assert some.class_names == source.class_names and some.uniform_shape == source.uniform_shape
    np.testing.assert_array_equal(some.labels, source.labels[[4, 5]])
    np.testing.assert_array_equal(some.image(1), source.image(5))


def test_every_kind_is_tested():
    assert {kind.split(" ")[0] for kind in MAKERS} == set(SOURCES)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_batches_written_anew_by_python_3(tmp_path, kind, packed):
    files, splits = cifar_files(kind, python3_pickle)
    if packed:
        path = tmp_path / f"{kind.replace('cifar', 'cifar-')}-python.tar.gz"
        write_tar(path, "any", files)
    else:
        path = write_files(tmp_path / "any", files)
    source = open_source(str(path), "test")  # the kind is guessed
    np.testing.assert_array_equal(load_all(source), splits["test"][0])
    np.testing.assert_array_equal(source.labels, splits["test"][1])
    assert source.class_names[3] == "class 3"


@pytest.mark.parametrize("grey", [(4, 6, 5), (4, 6, 5, 1)])
def test_grey_arrays_are_repeated_and_column_labels_flattened(tmp_path, grey):
    images = pixels(4, 6, 5)[..., 0].reshape(grey)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([[0], [1], [1], [0]], np.uint8))
    source = open_source(str(tmp_path / "a.npz"))
    assert source.class_names == ("0", "1") and source.ids[2] == "000002"
    np.testing.assert_array_equal(source.labels, [0, 1, 1, 0])
    for channel in range(3):
        np.testing.assert_array_equal(load_all(source)[..., channel], images.reshape(4, 6, 5))


@pytest.mark.parametrize(
    "images, labels", [("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("x_{}", "y_{}"), ("X_{}", "y_{}")]
)
def test_npz_with_the_names_of_keras_and_others(images, labels, tmp_path):
    arrays = {images.format(split): pixels(rows, seed=rows) for split, rows in (("train", 3), ("test", 2))}
    np.savez(tmp_path / "mnist.npz", **arrays, **{labels.format("train"): [0, 1, 2], labels.format("test"): [0, 1]})
    source = open_source(f"npz:{tmp_path}/mnist.npz", "test")
    assert source.ids == ["test/000000", "test/000001"] and source.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(load_all(source), pixels(2, seed=2))


def test_cifar_class_names_that_are_not_utf8(tmp_path):
    files, _ = cifar_files("cifar100")
    names = [b"fa\xe7ade", b"na\xc3\xafve", *(b"%d" % i for i in range(98))]
    files["meta"] = python3_pickle({"fine_label_names": names})
    assert open_source(f"cifar100:{write_files(tmp_path, files)}", "test").class_names[:3] == (
        "fa\ufffdade",
        "naïve",
        "0",
    )


READ_WITHOUT_TENSORFLOW = """
import sys
from transfer.data import open_source
source = open_source("tfds:tiny_animals", "train[:50%]")
assert source.image(0).shape == (9, 7, 3), source.image(0).shape
print(len(source), source.class_names, "tensorflow" in sys.modules)
"""


def test_tfds_is_read_from_its_files_without_tensorflow(tmp_path, monkeypatch):
    """In another process, which knows no builder of that name."""
    make_tfds(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    out = subprocess.run([sys.executable, "-c", READ_WITHOUT_TENSORFLOW], capture_output=True, text=True, timeout=120)
    assert out.stdout.split("\n")[0] == f"6 {CLASSES} False", out.stderr


MISTYPED = (
    "[:50 %]",
    "[:x]",
    "[",
    "]",
    "[99:]",
    "[:1000]",
    "[50%:150%]",
    "[0.5:]",
    "[:50%]x",
    "[10%]",
    "[:50%:2]",
    "+",
)
EMPTY = ("[:0]", "[:0%]", "[:1%]", "[5:2]", "[5:5]")


def test_a_mistyped_slice_of_tfds_is_what_is_wrong(tmp_path, monkeypatch):
    make_tfds(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for slice_ in (*MISTYPED, *EMPTY, "all[:3]"):
        split = slice_ if slice_.startswith("all") else f"train{slice_}"
        with pytest.raises(UsageError) as caught:
            open_source("tfds:tiny_animals", split)
        message = str(caught.value)
        assert repr(split) in message and "\n" not in message and "remove" not in message, message
        assert ("holds no images" in message) == (slice_ in EMPTY)
    assert len(open_source("tfds:tiny_animals", "train[:-50%] + test")) == 12


@pytest.mark.parametrize("sizes, uniform", [([(9, 7), (9, 7)], (9, 7, 3)), ([(9, 7), (8, 7)], None)])
def test_tfds_images_are_decoded_here(tmp_path, monkeypatch, sizes, uniform):
    """With an Image feature the file holds JPEG or PNG bytes, of sizes that only the bytes know."""
    import tensorflow_datasets as tfds

    images = [pixels(1, *size)[0] for size in sizes]
    feature = tfds.features.Image(shape=(None, None, 3))
    prepare_tfds(tmp_path, {"train": images}, feature, lambda image: io.BytesIO(encoded(image)))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = open_source("tfds:tiny_animals", "train")
    assert source.uniform_shape == uniform
    read = [source.image(i) for i in range(2)]
    assert in_one_order(read, source.labels) == in_one_order(images, [0, 1])


def test_tfds_not_prepared_says_what_to_run(tmp_path, monkeypatch):
    import transfer.data.tfds as module

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TransferError, match=r"pip install tensorflow && tfds build mnist --file_format=array_record"):
        open_source("tfds:mnist", "train")
    for name, near in (("fashion_mnits", "fashion_mnist"), ("cifar-10", "cifar10"), ("CIFAR10", "cifar10")):
        with pytest.raises(UsageError, match=f"did you mean .*{near}"):
            open_source(f"tfds:{name}", "train")
    with pytest.raises(UsageError, match="mnist.*9.9.9") as caught:
        open_source("tfds:mnist:9.9.9", "train")
    assert "did you mean" not in str(caught.value)
