"""Arrays of images in the files of the field: NumPy, HDF5, MATLAB, MNIST, CIFAR's binary version, Keras' cache."""

import gzip
import struct
import zlib

import h5py
import numpy as np
import pytest
from real_formats import cifar_files, pixels, write_files, write_tar
from scipy import io

from transfer.data import BrokenImage, open_source
from transfer.data.loader import load_all
from transfer.data.source import digest
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import sandbox

IMAGES, LABELS = pixels(6, 5, 4), np.array([0, 1, 2, 0, 1, 2])
GREY = np.repeat(IMAGES[..., :1], 3, -1)


def write_h5(path, arrays, **options):
    with h5py.File(path, "w", **options) as file:
        for name, array in arrays.items():
            file[name] = array
    return path


# names of arrays in a file, its images, the split, and the images as they are read
FORMS = {
    "images": ({"images": IMAGES, "labels": LABELS}, None, IMAGES),
    "X": ({"X": IMAGES, "y": LABELS[:, None]}, None, IMAGES),
    "data": ({"data": IMAGES[..., 0], "label": LABELS[None]}, None, GREY),
    "grey": ({"x_train": IMAGES[..., :1], "y_train": LABELS}, "train", GREY),
    "of a course": ({"train_set_x": IMAGES, "train_set_y": LABELS, "list_classes": LABELS}, "train", IMAGES),
    "groups": ({"test/images": IMAGES, "test/labels": LABELS}, "test", IMAGES),
}


@pytest.mark.parametrize("arrays, split, images", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", ["npz", "h5", "mat"])
def test_usual_names(tmp_path, kind, arrays, split, images):
    path = tmp_path / f"a.{kind}"
    if kind == "mat" and any("/" in name for name in arrays):
        return
    {"npz": lambda: np.savez(path, **arrays), "h5": lambda: write_h5(path, arrays)}.get(
        kind, lambda: io.savemat(path, arrays)
    )()
    source = open_source(str(path), split)
    np.testing.assert_array_equal(load_all(source), images)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.class_names == ("0", "1", "2") and source.uniform_shape == (5, 4, 3)


def test_colours_may_come_first(tmp_path):
    write_h5(tmp_path / "a.h5", {"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS})
    np.testing.assert_array_equal(load_all(open_source(f"h5:{tmp_path}/a.h5")), IMAGES)


def test_matlab_of_version_7_3_is_hdf5_with_its_axes_turned(tmp_path):
    path = write_h5(tmp_path / "a.mat", {"X": IMAGES.transpose(0, 3, 2, 1), "y": LABELS[None] + 1}, userblock_size=512)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(126) + b"\x02IM")
    source = open_source(str(path))
    np.testing.assert_array_equal(load_all(source), IMAGES)
    assert source.class_names == ("1", "2", "3") and source.labels.tolist() == LABELS.tolist()


def test_a_file_for_each_split(tmp_path):
    for split, rows in {"train": slice(0, 4), "test": slice(4, 6)}.items():
        write_h5(tmp_path / f"{split}_signs.h5", {"X": IMAGES[rows], "y": LABELS[rows]})
    np.testing.assert_array_equal(load_all(open_source(f"h5:{tmp_path}", "test")), IMAGES[4:])
    with pytest.raises(UsageError, match="no split 'val'; there is test_signs, train_signs"):
        open_source(f"h5:{tmp_path}", "val")


@pytest.mark.parametrize(
    "labels, target, expected",
    [
        (np.eye(3)[LABELS], "classes", LABELS),
        (np.eye(3, dtype=bool)[LABELS], "classes", LABELS),
        ([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]], "labels", None),
    ],
)
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_column_for_each_class(tmp_path, labels, target, expected, names):
    """One-hot labels, and several as MedMNIST's chests have them."""
    more = {} if names is None else {"class_names": np.array(names)}
    np.savez(tmp_path / "a.npz", train_images=IMAGES, train_labels=labels, **more)
    source = open_source(f"npz:{tmp_path}/a.npz", "train")
    assert source.target == target and source.class_names == tuple(names or "012")
    np.testing.assert_array_equal(source.labels, labels if expected is None else expected)
    assert source.labels.dtype == (np.float32 if target == "labels" else np.int64)


def test_rows_of_hdf5_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "a.h5", {"images": IMAGES, "labels": LABELS})
    asked, rows = [], sandbox.SandboxedFile.rows
    monkeypatch.setattr(sandbox.SandboxedFile, "rows", lambda *asking: asked.append(asking[1:]) or rows(*asking))
    source = open_source(str(path))
    assert source.uniform_shape and source.fingerprint and asked == [("labels", 0, 6)]
    source.image(3)
    source.image(5)
    assert asked[1:] == [("images", 0, 6)]
    monkeypatch.setattr("transfer.data.array_files.AT_ONCE", 2 * IMAGES[0].nbytes)
    source = open_source(str(path))
    np.testing.assert_array_equal(load_all(source), IMAGES)
    assert sorted(asked[3:]) == [("images", at, at + 2) for at in (0, 2, 4)]


def test_class_names_of_hdf5_may_be_numbers(tmp_path):
    arrays = {"images": IMAGES, "labels": LABELS, "class_names": np.array([10, 20, 30])}
    assert open_source(str(write_h5(tmp_path / "a.h5", arrays))).class_names == ("10", "20", "30")


def test_rows_of_hdf5_that_change_are_noticed(tmp_path):
    path = write_h5(tmp_path / "a.h5", {"images": IMAGES, "labels": LABELS})
    source = open_source(str(path))
    before = source.fingerprint
    assert before == digest(source, [zlib.crc32(path.read_bytes()).to_bytes(4, "big")])  # as in earlier stores
    path.write_bytes(path.read_bytes().replace(IMAGES.tobytes(), IMAGES[::-1].tobytes()))
    assert open_source(str(path)).fingerprint != before


def test_what_hdf5_is_not_read_of_an_image_names_it(tmp_path, monkeypatch):
    source = open_source(str(write_h5(tmp_path / "a.h5", {"images": IMAGES, "labels": LABELS})))
    source.images.array.file._process.kill()
    with pytest.raises(BrokenImage, match="^h5:.*a.h5: 000002: a damaged HDF5 file: the library that reads such"):
        source.image(2)


def bomb(file):
    file["labels"] = np.arange(1 << 20) % 2
    file.create_dataset("images", (1 << 20, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))


def elsewhere(file):
    file["labels"] = LABELS
    file["images"] = h5py.ExternalLink("other.h5", "images")


def deep(file):
    file["/".join("a" * 20)] = LABELS


REFUSED = {
    "a bomb": (bomb, "images claims"),
    "another file": (elsewhere, "needs arrays images and labels; it holds labels"),
    "deep groups": (deep, "refused: groups more than 10 deep"),
    "text": (lambda file: file.update({"labels": LABELS, "images": [b"a"] * 6}), "it holds labels"),
    "floats": (lambda file: file.update({"labels": LABELS, "images": IMAGES / 255}), "images of type float64"),
}


@pytest.mark.parametrize("write, words", REFUSED.values(), ids=REFUSED)
def test_hdf5_that_is_refused(tmp_path, write, words):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)
    with pytest.raises(TransferError, match=f"^h5:{tmp_path}/a.h5: .*{words}"):
        open_source(f"h5:{tmp_path}/a.h5").image(0)


def idx(array, start=b"\0\0\x08"):
    return start + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


IDX = {
    "cut off": (idx(GREY[..., 0])[:-1], "train-images-idx3-ubyte: not an idx file, or a damaged one .EOFError"),
    "of floats": (idx(GREY[..., 0], b"\0\0\x0d"), "does not begin as one of unsigned bytes"),
    "empty": (b"", "EOFError"),
    "a claim": (b"\0\0\x08\x03" + b"\xff" * 12, "EOFError: it ends early"),
}


@pytest.mark.parametrize("content, words", IDX.values(), ids=IDX)
def test_a_damaged_idx_file(tmp_path, content, words):
    write_files(tmp_path, {"train-images-idx3-ubyte": content, "train-labels-idx1-ubyte": idx(LABELS.astype("u1"))})
    with pytest.raises(TransferError, match=f"^idx:{tmp_path}: .*{words}"):
        open_source(str(tmp_path), "train")


def test_other_names_of_idx_files(tmp_path):
    files = {"emnist-letters-train-images-idx3-ubyte.gz": gzip.compress(idx(GREY[..., 0]))}
    files |= {"emnist-letters-train-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS.astype("u1")))}
    files |= {"t10k-images.idx3-ubyte": idx(GREY[..., 0]), "t10k-labels.idx1-ubyte": idx(LABELS.astype("u1"))}
    write_files(tmp_path, files)
    for split in ("emnist-letters-train", "test"):
        np.testing.assert_array_equal(load_all(open_source(f"idx:{tmp_path}", split)), GREY)
    bare = open_source(f"idx:{tmp_path}/t10k-images.idx3-ubyte", "test")
    assert len(bare) == 6


def damaged_mat(tmp_path, compressed, cut=0):
    io.savemat(tmp_path / "a.mat", {"X": IMAGES.transpose(1, 2, 3, 0), "y": LABELS}, do_compression=compressed)
    data = (tmp_path / "a.mat").read_bytes()
    return data[: len(data) - cut]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_matlab_file(tmp_path, compressed):
    for content in (damaged_mat(tmp_path, compressed, 9), b"\x89PNG" * 50, b""):
        (tmp_path / "b.mat").write_bytes(content)
        with pytest.raises(TransferError, match=f"^mat:{tmp_path}/b.mat: a damaged or truncated MATLAB file"):
            open_source(f"mat:{tmp_path}/b.mat")


def test_a_matlab_file_that_unpacks_to_more_than_it_may(tmp_path, monkeypatch):
    damaged_mat(tmp_path, True)
    assert len(open_source(f"mat:{tmp_path}/a.mat")) == 6
    monkeypatch.setattr("transfer.runtime.files.sandbox.decompression_limit", lambda size: 300)
    with pytest.raises(TransferError, match="refused: X claims more bytes than there can be"):
        open_source(f"mat:{tmp_path}/a.mat")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
def test_numbers_of_matlab_keep_their_type(tmp_path, dtype):
    """Whatever they are stored as: of 64 bits, small ones take one byte."""
    arrays = {"a": np.arange(24).reshape(2, 3, 4).astype(dtype), "b": np.array([[3]], dtype)}
    others = {"text": "words", "yes": np.array([[True, False]]), "struct": {"x": 1}, "complex": [1j]}
    io.savemat(tmp_path / "a.mat", arrays | others)
    file = sandbox.SandboxedFile(str(tmp_path / "a.mat"), sandbox.MATLAB, "MATLAB")
    assert list(file.arrays) == ["a", "b", "yes", "complex"]
    for name, expected in arrays.items():
        np.testing.assert_array_equal(file.arrays[name][:].T, expected)
        assert file.arrays[name].dtype == expected.dtype
    np.testing.assert_array_equal(file.arrays["yes"][:].T, [[1, 0]])
    with pytest.raises(TransferError, match="complex holds complex128, not numbers"):
        file.arrays["complex"][:]


def binary_cifar10():
    _, splits = cifar_files("cifar10")
    files = {"batches.meta.txt": b"".join(b"class %d\n" % i for i in range(10)).replace(b" ", b"_") + b"\n"}
    for split, (images, labels) in splits.items():
        rows = [bytes([y]) + x.transpose(2, 0, 1).tobytes() for x, y in zip(images, labels, strict=True)]
        batches = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}[split]
        files |= {name: b"".join(rows[6 * i : 6 * i + 6]) for i, name in enumerate(batches)}
    return files, splits


@pytest.mark.parametrize("packed", [False, True])
def test_the_binary_version_of_cifar10(tmp_path, packed):
    files, splits = binary_cifar10()
    if packed:
        write_tar(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    else:
        write_files(tmp_path / "cifar-10-batches-bin", files)
    path = tmp_path / "cifar-10-binary.tar.gz" if packed else tmp_path
    for split, (images, labels) in splits.items():
        source = open_source(f"cifar10:{path}", split)
        np.testing.assert_array_equal(load_all(source), images)
        np.testing.assert_array_equal(source.labels, labels)
        assert source.class_names[9] == "class_9"


def test_a_binary_batch_that_is_cut_off(tmp_path):
    files, _ = binary_cifar10()
    write_files(tmp_path, files | {"test_batch.bin": files["test_batch.bin"][:-1]})
    with pytest.raises(TransferError, match="^cifar10:.*: test_batch.bin: 18437 bytes are not images of 3073$"):
        open_source(f"cifar10:{tmp_path}", "test")


@pytest.mark.parametrize("kind, name", [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_the_cache_of_keras_3(tmp_path, kind, name):
    files, splits = cifar_files(kind)
    write_files(tmp_path / f"{name}_extracted" / name, files)
    (tmp_path / f"{name}_archive").write_bytes(b"as it was downloaded")
    for path in (tmp_path, tmp_path / f"{name}_extracted"):
        np.testing.assert_array_equal(load_all(open_source(f"{kind}:{path}", "train")), splits["train"][0])
