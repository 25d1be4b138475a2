"""The published pickles of every protocol, `.npz` and `.safetensors` come back as written; bad files are named."""

import io
import os
import pickle
import pickletools
import resource
import signal
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import MAX_CLASSES
from transfer.store import feature_files

EXTENSIONS = [".p", ".pickle", ".npz", ".safetensors"]
FEATURES = np.arange(24, dtype=np.float32).reshape(4, 1, 1, 6) / 7
LABELS = np.array([0, 3, 1, 3])


def labelled(shape):
    return st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
        hnp.arrays(np.int64, shape[0], elements=st.integers(-(1 << 63), MAX_CLASSES - 1)),
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=hnp.array_shapes(min_dims=2, max_dims=4, max_side=5).flatmap(labelled))
def test_round_trip(tmp_path, extension, arrays):
    features, labels = arrays
    path = tmp_path / f"features{extension}"
    feature_files.write(path, features, labels)
    features_back, labels_back = feature_files.read(path)
    shape = features.shape if features.ndim > 2 else (len(features), 1, 1, features.shape[1])
    assert features_back.shape == shape and features_back.tobytes() == features.tobytes()
    assert features_back.dtype == np.float32 and labels_back.dtype == np.int64
    np.testing.assert_array_equal(labels_back, labels)
    assert os.listdir(tmp_path) == [path.name]


def test_the_export_is_the_published_format(tmp_path):
    feature_files.write(tmp_path / "a.p", FEATURES[:, 0, 0], LABELS.astype(np.uint8))
    with open(tmp_path / "a.p", "rb") as stream:
        assert next(pickletools.genops(stream))[1] == 4
        stream.seek(0)
        content = pickle.load(stream)
    assert list(content) == ["features", "labels"]
    assert content["features"].shape == (4, 1, 1, 6) and content["features"].dtype == np.float32
    assert content["labels"].shape == (4,) and content["labels"].dtype == np.int64


# Every global that a pickle of plain arrays needs, by the names that NumPy has had since Python 2: NumPy 1 knows no
# other, NumPy 2 knows them too.
OLD_NAMES = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class Naming(pickle.Unpickler):
    """An unpickler that notes which globals it is asked for."""

    def __init__(self, stream):
        super().__init__(stream)
        self.named = set()

    def find_class(self, module, name):
        self.named.add((module, name))
        return super().find_class(module, name)


@pytest.mark.parametrize("extension", [".p", ".pkl", ".pickle"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_export_names_what_every_numpy_has(tmp_path, extension, order):
    path = tmp_path / f"a{extension}"
    feature_files.write(path, np.asarray(FEATURES, order=order), LABELS)
    reader = Naming(io.BytesIO(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as NumPy 2 gives them for most names in numpy.core
        content = reader.load()
    assert reader.named == OLD_NAMES
    np.testing.assert_array_equal(content["features"], FEATURES)
    np.testing.assert_array_equal(content["labels"], LABELS)
    content["features"][:] = 0  # writable, as what NumPy's own pickles hold
    assert_is_the_example(feature_files.read(path))


# Labels as the published files hold them: uint8 (N, 1) from Keras' CIFAR-10, or (N,).
STORED_LABELS = {
    "(N,) int64": LABELS,
    "(N, 1) uint8": LABELS.astype(np.uint8)[:, None],
    "float64": LABELS.astype(np.float64),
    "a list": LABELS.tolist(),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("stored", STORED_LABELS.values(), ids=STORED_LABELS)
def test_every_pickle_protocol(tmp_path, protocol, stored):
    (tmp_path / "a.p").write_bytes(pickle.dumps({"features": FEATURES, "labels": stored}, protocol=protocol))
    assert_is_the_example(feature_files.read(tmp_path / "a.p"))


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_number_formats(tmp_path, dtype, order):
    features = np.asarray(FEATURES.astype(dtype), order=order)
    (tmp_path / "a.p").write_bytes(pickle.dumps({"features": features, "labels": LABELS}, protocol=2))
    features_back, _ = feature_files.read(tmp_path / "a.p")
    assert features_back.dtype == np.float32 and features_back.dtype.isnative
    np.testing.assert_array_equal(features_back, features.astype(np.float32))


def python2_pickle(arrays, protocol):
    """What Python 2 and NumPy 1 wrote: keys and array data are byte strings (STRING and BINSTRING opcodes)."""

    def string(raw):
        if protocol == 0:
            quoted = repr(raw)[1:].encode("ascii")  # Python 2's repr of a str: no b
            return b"S" + quoted + b"\n"
        if len(raw) < 256:
            return b"U" + bytes([len(raw)]) + raw
        return b"T" + len(raw).to_bytes(4, "little") + raw

    def integer(value):
        return b"I%d\n" % value

    def array(values):
        code = values.dtype.str[1:].encode()
        shape = b"(" + b"".join(map(integer, values.shape)) + b"t"
        new = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t" + string(b"b") + b"tR"
        dtype = b"cnumpy\ndtype\n(" + string(code) + integer(0) + integer(1) + b"tR"
        dtype_state = b"(" + integer(3) + string(b"<") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
        state = b"(" + integer(1) + shape + dtype + dtype_state + b"I00\n" + string(values.tobytes()) + b"tb"
        return new + state

    items = b"".join(string(key.encode()) + array(values) + b"s" for key, values in arrays.items())
    return (b"\x80\x02" if protocol == 2 else b"") + b"(d" + items + b"."


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python_2_pickles(tmp_path, protocol):
    content = {"features": FEATURES.astype("<f4"), "labels": LABELS.astype("<i8")}
    data = python2_pickle(content, protocol)
    plain = pickle.loads(data, encoding="latin1")  # the bytes built here are what Python itself reads
    np.testing.assert_array_equal(plain["features"], FEATURES)
    (tmp_path / "a.p").write_bytes(data)
    assert_is_the_example(feature_files.read(tmp_path / "a.p"))


def assert_is_the_example(arrays):
    features, labels = arrays
    assert features.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_numpy_1_16_0(tmp_path, protocol):
    """Which said where its functions were defined, and not where they could be imported from."""
    data = pickle.dumps({"features": FEATURES, "labels": LABELS, "more": np.float32(1)}, protocol)
    for now in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        there = b"numpy.core._multiarray_umath"
        data = data.replace(b"\x8c" + bytes([len(now)]) + now, b"\x8c" + bytes([len(there)]) + there).replace(
            now, there
        )
    assert b"_multiarray_umath" in data
    (tmp_path / "a.p").write_bytes(data[:2] + data[11:] if protocol == 4 else data)  # without the length of its frame
    assert_is_the_example(feature_files.read(tmp_path / "a.p"))


@pytest.mark.parametrize("labels", [LABELS, np.array([b"0", b"10"])[LABELS % 2]])
def test_keys_and_labels_of_bytes(tmp_path, labels):
    (tmp_path / "a.p").write_bytes(pickle.dumps({b"features": FEATURES, b"labels": labels}))
    features, read = feature_files.read(tmp_path / "a.p")
    np.testing.assert_array_equal(features, FEATURES)
    assert read.tolist() == [each.decode() if isinstance(each, bytes) else each for each in labels.tolist()]


BESIDE = {
    "bottleneck_features_train.npy": "bottleneck_labels_train.npy",
    "train_features.npy": "train_labels.npy",
    "X_train.npy": "y_train.npy",
    "x.npy": "y.npy",
}


@pytest.mark.parametrize("name", BESIDE)
def test_an_array_of_features_beside_one_of_labels(tmp_path, name):
    np.save(tmp_path / name, FEATURES)
    with pytest.raises(
        TransferError, match=f"{name}: holds one array, and labels are another: there is no {BESIDE[name]}"
    ):
        feature_files.read(tmp_path / name)
    np.save(tmp_path / BESIDE[name], LABELS)
    assert_is_the_example(feature_files.read(tmp_path / name))


def test_hdf5(tmp_path):
    (tmp_path / "a.h5").write_bytes(h5(features=FEATURES, labels=LABELS, more=LABELS))
    assert_is_the_example(feature_files.read(tmp_path / "a.h5"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.h5", "a.h5")
    with pytest.raises(TransferError, match="a.h5: HDF5 is read from a file on this machine"):
        feature_files.read(tmp_path / "a.zip" / "a.h5")


def test_folders_are_named_for_what_they_are(tmp_path):
    with pytest.raises(TransferError, match=f"^{tmp_path} is a folder; a feature file is .p, "):
        feature_files.read(tmp_path)
    (tmp_path / "zarr.json").touch()
    with pytest.raises(TransferError, match=f"^{tmp_path} is a store of features, which --config.features names; a fe"):
        feature_files.read(tmp_path)


@pytest.mark.parametrize("member", ["vgg_cifar10_100_bottleneck_features_train.p", "folder/a.npz"])
def test_a_member_of_a_zip(tmp_path, member):
    inner = tmp_path / f"inner{os.path.splitext(member)[1]}"
    feature_files.write(inner, FEATURES, LABELS)
    with zipfile.ZipFile(tmp_path / "vgg-100.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, member)
    assert_is_the_example(feature_files.read(f"{tmp_path}/vgg-100.zip/{member}"))
    with pytest.raises(TransferError, match=f"has no member b.p; it has {member}"):
        feature_files.read(tmp_path / "vgg-100.zip" / "b.p")
    with pytest.raises(TransferError, match=rf"is a zip; name one of its files as .*: it has {member}"):
        feature_files.read(tmp_path / "vgg-100.zip")


def test_a_folder_may_be_named_like_a_zip(tmp_path):
    (tmp_path / "vgg-100.zip").mkdir()
    feature_files.write(tmp_path / "vgg-100.zip" / "a.npz", FEATURES, LABELS)
    assert_is_the_example(feature_files.read(tmp_path / "vgg-100.zip" / "a.npz"))
    with pytest.raises(NotADirectoryError):
        feature_files.read(tmp_path / "vgg-100.zip" / "a.npz" / "features.npy")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_content_tells_the_format(tmp_path, extension):
    feature_files.write(tmp_path / f"a{extension}", FEATURES, LABELS)
    (tmp_path / f"a{extension}").rename(tmp_path / "renamed.data")
    assert_is_the_example(feature_files.read(tmp_path / "renamed.data"))


NAN = np.where(np.arange(24).reshape(4, 1, 1, 6) == 13, np.nan, 1.0)
# (features, labels, what the message says); for reading and for writing
BAD_ARRAYS = {
    "lengths": (FEATURES, LABELS[:3], "has 4 rows of features but 3 labels"),
    "NaN": (NAN, LABELS, "NaN or infinity in 1 rows, the first is row 2"),
    "infinity": (FEATURES + np.inf, LABELS, "NaN or infinity in 4 rows, the first is row 0"),
    "too large for float32": (np.full((4, 2), 1e300), LABELS, "NaN or infinity in 4 rows"),
    "empty": (np.zeros((0, 1, 1, 6)), np.zeros(0, int), "has no features"),
    "one dimension": (np.zeros(4), LABELS, r"features have shape \(4,\)"),
    "one-hot labels": (FEATURES, np.eye(4), r"labels \(4, 4\)"),
    "fractional labels": (FEATURES, LABELS + 0.5, "not all whole numbers"),
    "NaN labels": (FEATURES, LABELS * np.nan, "not all whole numbers"),
    "a label out of all proportion": (FEATURES, [0, 1, 2, 1 << 20], "a label is 1048576; there may be 1048576 classes"),
    "ragged": ([[1.0], [1.0, 2.0]], LABELS[:2], "features hold objects"),
}


@pytest.mark.parametrize("features, labels, message", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(tmp_path, features, labels, message):
    path = tmp_path / "a.p"
    path.write_bytes(pickle.dumps({"features": features, "labels": labels}))
    with pytest.raises(TransferError, match=message) as caught:
        feature_files.read(path)
    assert str(path) in str(caught.value)
    target = tmp_path / "b.p"
    with pytest.raises(TransferError, match=message) as caught:
        feature_files.write(target, features, labels)
    assert str(target) in str(caught.value) and os.listdir(tmp_path) == ["a.p"]


def pickled(value):
    return pickle.dumps(value)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def h5(**arrays):
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.update(arrays)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


GOOD = pickled({"features": FEATURES, "labels": LABELS})
BAD_FILES = {
    "empty": (b"", "not a pickle"),
    "text": (b"features,labels\n", "is text, such as a CSV; a feature file is .p, .npz, .npy, .h5 or .safetensors$"),
    "numbers": (b"0.12;-1e-05;3\n", "is text, such as a CSV"),
    "other text": (b"some words\n", "not a pickle"),
    "npy": (npy(FEATURES), "a.p: holds one array, and labels are another: call them NAME_features.npy and NAME_l"),
    "npy of objects": (npy(np.array([{}], object)), "Object arrays are not read"),
    "npy, truncated": (npy(FEATURES)[:-1], "bytes are there"),
    "hdf5, truncated": (h5(features=FEATURES)[:-9], "a damaged or truncated HDF5 file"),
    "hdf5, other keys": (h5(images=FEATURES), "it holds 'images'"),
    "truncated": (GOOD[: len(GOOD) // 2], "not a pickle, or a damaged or truncated one"),
    "other keys": (pickled({"x": FEATURES, "y": LABELS}), "does not hold 'features' and 'labels'; it holds 'x', 'y'"),
    "a list": (pickled([FEATURES, LABELS]), "it holds a list"),
    "code": (pickled({"features": os.system, "labels": LABELS}), "refused: it asks for posix.system"),
    "objects": (pickled({"features": np.array([{}], object), "labels": LABELS}), "object"),
    "npz truncated": (npz(features=FEATURES, labels=LABELS)[:-40], "damaged or truncated"),
    "npz of objects": (npz(features=np.array([{}], object), labels=LABELS), "Object arrays"),
    "npz, other keys": (npz(images=FEATURES), "it holds 'images'"),
    "zip, damaged": (b"PK\x03\x04" + b"x" * 60, "damaged or truncated"),
    "safetensors, truncated": ((64).to_bytes(8, "little") + b'{"features":', "cannot be read"),
}


@pytest.mark.parametrize("data, message", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(tmp_path, data, message):
    (tmp_path / "a.p").write_bytes(data)
    with pytest.raises(TransferError, match=message) as caught:
        feature_files.read(tmp_path / "a.p")
    assert str(tmp_path / "a.p") in str(caught.value)


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_harmless(tmp_path, extension, data):
    """A flipped byte gives a TransferError or other numbers, never another exception."""
    path = tmp_path / f"a{extension}"
    feature_files.write(path, FEATURES, LABELS)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([None, position]))])
    try:
        features, labels = feature_files.read(path)
    except TransferError as error:
        assert "a" + extension in str(error)
    else:
        assert len(features) == len(labels) and np.isfinite(features).all()


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "a.p", tmp_path / "a.zip" / "a.p"):
        with pytest.raises(FileNotFoundError):
            feature_files.read(path)
    save_file({"features": FEATURES}, tmp_path / "a.safetensors")
    with pytest.raises(TransferError, match="it holds 'features'"):
        feature_files.read(tmp_path / "a.safetensors")


def test_an_unknown_extension(tmp_path):
    with pytest.raises(UsageError, match=r"written as \.p, .*\.safetensors, not as '\.csv'"):
        feature_files.write(tmp_path / "a.csv", FEATURES, LABELS)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_full_disk_leaves_the_old_file(tmp_path, extension):
    """A limit on the size of files stands for the full disk: both fail a write half-way through."""
    path = tmp_path / f"a{extension}"
    feature_files.write(path, FEATURES, LABELS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            feature_files.write(path, np.ones((100, 50)), np.zeros(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == [path.name]
    assert_is_the_example(feature_files.read(path))


TEXT = np.array(["dog", "cat", "dog", "a very long name"])
BITS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
# (labels, what they are read as, as what they come back)
TARGETS = {
    "text": (TEXT, "classes", TEXT),
    "text in one column": (TEXT[:, None], "classes", TEXT),
    "text in a list": (TEXT.tolist(), "classes", TEXT),
    "apart": (np.array([-7, 1000, -7, 3]), "classes", np.array([-7, 1000, -7, 3])),
    "the largest": (np.array([0, 1, 2, (1 << 20) - 1]), "classes", np.array([0, 1, 2, (1 << 20) - 1])),
    "two bits": (BITS[:, :2], "labels", BITS[:, :2].astype(np.float32)),
    "bits": (BITS, "labels", BITS.astype(np.float32)),
    "truths": (BITS.astype(bool), "labels", BITS.astype(np.float32)),
    "values": (LABELS / 7, "values", (LABELS / 7).astype(np.float32)[:, None]),
    "several values": (BITS - 0.5, "values", (BITS - 0.5).astype(np.float32)),
}


@pytest.mark.parametrize("labels, target, expected", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("extension", [".p", ".npz"])
def test_what_labels_may_be(tmp_path, extension, labels, target, expected):
    content = {"features": FEATURES, "labels": labels}
    (tmp_path / "a").write_bytes(pickle.dumps(content) if extension == ".p" else npz(**content))
    features, back = feature_files.read(tmp_path / "a", target)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(back, expected)
    assert back.dtype == expected.dtype


def test_as_many_texts_as_there_may_be_classes(tmp_path, monkeypatch):
    (tmp_path / "a.p").write_bytes(pickle.dumps({"features": FEATURES, "labels": TEXT}))
    monkeypatch.setattr(feature_files, "MAX_CLASSES", 3)
    feature_files.read(tmp_path / "a.p")
    monkeypatch.setattr(feature_files, "MAX_CLASSES", 2)
    with pytest.raises(TransferError, match="a.p has more than 2 different labels"):
        feature_files.read(tmp_path / "a.p")


@pytest.mark.parametrize(("count", "said"), [(0, "it is empty"), (8, "it has 0, .*, 7$"), (9, "it has 0, .*, 7 …$")])
def test_the_first_members_of_a_zip_are_named(tmp_path, count, said):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("folder")
        for name in range(count):
            archive.writestr(str(name), b"")
    with pytest.raises(TransferError, match=rf"a.zip: it has no member b; {said}"):
        feature_files.read(tmp_path / "a.zip" / "b")


@pytest.mark.parametrize(
    "labels, target, message",
    [
        (BITS * 2, "labels", "labels should be 0 or 1"),
        (LABELS > 1, "labels", "in two columns or more"),
        (BITS + np.inf, "values", "labels hold NaN or infinity in 4 rows, the first is row 0"),
        (TEXT, "values", "labels hold values of type <U16, not numbers"),
        (np.zeros((4, 2, 2)), "values", r"labels have shape \(4, 2, 2\)"),
        (["a", None, "b", "c"], "classes", "labels hold objects"),
    ],
)
def test_labels_that_are_not_what_they_should_be(tmp_path, labels, target, message):
    (tmp_path / "a.p").write_bytes(pickle.dumps({"features": FEATURES, "labels": labels}))
    with pytest.raises(TransferError, match=message):
        feature_files.read(tmp_path / "a.p", target)
