"""What is wrong with a data set is said in one line that names it."""

import pickle

import numpy as np
import pytest
from real_formats import cifar_files, pixels, write_files

from transfer.data import open_source
from transfer.errors import TransferError, UsageError

IMAGES = pixels(4, 8, 8)


@pytest.mark.parametrize(
    "spec, error, words",
    [
        ("digit", UsageError, "unknown data source 'digit'; did you mean digits"),
        ("cifar:/tmp", UsageError, "did you mean cifar10"),
        ("zzz", UsageError, "did you mean digits, tfds, .*, wds, tfrecord, arrayrecord, parquet or hf"),
        ("folder:/not/there", TransferError, "no such file or folder: /not/there"),
        ("/not/there", TransferError, "no such file or folder"),
        ("pictures.zip", TransferError, "no such file or folder"),
        ("npz:", UsageError, "write npz:PATH"),
        ("tfds:", UsageError, "write tfds:NAME"),
    ],
)
def test_a_wrong_spec(spec, error, words):
    with pytest.raises(error, match=words):
        open_source(spec)


def test_a_file_of_unknown_kind(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot tell what it holds"):
        open_source(str(tmp_path / "a.bin"))


OBJECTS = np.array([None, {}], object)


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"images": IMAGES, "labels": [0, 1, 1]}, "4 images but 3 labels"),
        ({"images": IMAGES, "labels": np.zeros((4, 2), int)}, r"labels of shape \(4, 2\)"),
        ({"images": IMAGES, "labels": [0, 0, -1, 1]}, "negative"),
        ({"images": IMAGES, "labels": [0, 0, 0.5, 1]}, "whole numbers"),
        ({"images": IMAGES, "labels": list("abcd")}, "whole numbers"),
        ({"images": IMAGES, "labels": [0, 1, 2, 1 << 40]}, "a label is 1099511627776; there may be 1048576 classes"),
        ({"images": IMAGES, "labels": [0, 1, 2, 1 << 20]}, "a label is 1048576; there may be 1048576 classes"),
        ({"images": IMAGES, "labels": [0, 1, 2, 1e300]}, r"a label is 1e\+300; there may be 1048576 classes"),
        ({"images": IMAGES, "labels": [0, 1, 2, 1], "class_names": ["a", "b"]}, "label 2 among 2 classes"),
        ({"images": IMAGES / 255, "labels": [0] * 4}, "images of type float64"),
        ({"images": IMAGES[..., :2], "labels": [0] * 4}, r"images of shape \(4, 8, 8, 2\)"),
        ({"images": IMAGES[:0], "labels": []}, "no images"),
        ({"images": IMAGES}, "needs arrays images and labels; it holds images"),
        ({"images": OBJECTS, "labels": [0, 1]}, "array 'images': Object arrays are not read"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(TransferError, match=words) as caught:
        open_source(f"npz:{tmp_path}/a.npz")
    assert "a.npz" in str(caught.value)


class Dangerous:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize("bad", [Dangerous(), object, np.zeros(3, "O")])
def test_a_pickle_with_anything_but_arrays_is_refused(tmp_path, bad):
    path = tmp_path / "train.p"
    path.write_bytes(pickle.dumps({"features": IMAGES, "labels": [0, 1, 0, 1], "more": bad}))
    with pytest.raises(TransferError, match="train.p"):
        open_source(f"pickle:{path}")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"features": IMAGES, "labels": [0, 1, 0]}, "4 images but 3 labels"),
        ({"features": IMAGES}, "'features' and 'labels'"),
        ([1, 2], "'features' and 'labels'"),
        ({"features": IMAGES.astype(np.float32), "labels": [0, 1, 0, 1]}, "images of type float32"),
    ],
)
def test_traffic_signs_that_do_not_fit(tmp_path, content, words):
    (tmp_path / "train.p").write_bytes(pickle.dumps(content))
    with pytest.raises(TransferError, match=words):
        open_source(f"pickle:{tmp_path}/train.p")


UNFIT = [IMAGES, *(np.zeros(shape, np.uint8) for shape in [3072, (4, 3071), (4, 3072, 1)]), np.zeros((4, 3072)), [[0]]]


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("data_batch_3", None, "lacks data_batch_3"),
        ("data_batch_3", {"labels": [1, 2]}, "has no 'data'"),
        *(
            (
                "data_batch_3",
                {"data": rows, "labels": [1] * 4},
                r"^cifar10:.*: data_batch_3: data is not a uint8 array of shape \(N, 3072\)$",
            )
            for rows in UNFIT
        ),
        ("data_batch_3", {"data": np.zeros((3, 3072), np.uint8), "labels": [1]}, "3 images but 1 labels"),
        ("batches.meta", {"label_names": ["only one"]}, "among 1 classes"),
        ("batches.meta", [], "expected a dict"),
        ("batches.meta", {"label_names": [b"a", 2]}, "batches.meta: the names of the classes are no list of text"),
    ],
)
def test_cifar_batches_that_do_not_fit(tmp_path, name, change, words):
    files, _ = cifar_files("cifar10")
    del files[name]
    if change is not None:
        files[name] = pickle.dumps(change, 2)
    with pytest.raises(TransferError, match=words):
        open_source(f"cifar10:{write_files(tmp_path, files)}", "train")


@pytest.mark.parametrize("name", ["a.npz", "cifar-10-python.tar.gz", "a.p", "a.zip"])
@pytest.mark.parametrize("content", [b"", b"neither one thing nor the other" * 9])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    split = "train" if name.endswith(".gz") else None
    with pytest.raises(TransferError, match=name):
        open_source(str(tmp_path / name), split)
