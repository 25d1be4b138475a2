"""The store gives back what was written, goes on after any interruption, and says so when it is not what was asked."""

import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import BATCH, ROWS, TEXT, WIDTH, expected, files_of, fill, finished, rows_of, writer

from transfer.errors import TransferError
from transfer.runtime.files.paths import kvstore_spec
from transfer.store.format import decode_ids, encode_ids, scan_checks
from transfer.store.store import FeatureStore
from transfer.store.writer import WRITES_IN_FLIGHT, StoreWriter, differences


@pytest.fixture
def path(tmp_path):
    return tmp_path / "workdir" / "features" / "train"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    rows, batch_size = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    shapes = data.draw(
        st.dictionaries(
            st.sampled_from(["pre_logits", "block5:avg", "stage4"]),
            st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
            min_size=1,
        )
    )
    elements = st.floats(width=32, allow_nan=False)
    taps = {tap: data.draw(hnp.arrays(np.float32, (rows, *shape), elements=elements)) for tap, shape in shapes.items()}
    ids = data.draw(st.lists(TEXT, min_size=rows, max_size=rows))
    labels = data.draw(hnp.arrays(np.int64, rows))
    skipped = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows - 1))
    path = tmp_path_factory.mktemp("store")
    with writer(path, rows, batch_size, shapes, ids=ids, labels=labels) as store:
        for start in data.draw(st.permutations(range(0, rows, batch_size))):
            stop = min(start + batch_size, rows)
            batch = {tap: values[start:stop] for tap, values in taps.items()}
            store.write(start, batch, [row for row in skipped if start <= row < stop])
        store.finish()
    opened = FeatureStore.open(str(path))
    kept = np.array([row for row in range(rows) if row not in skipped])
    assert opened.taps == tuple(shapes)
    for tap, values in taps.items():
        assert opened.tap(tap)[:].tobytes() == values[kept].tobytes()
    np.testing.assert_array_equal(opened.labels, labels[kept])
    assert opened.ids == [ids[row] for row in kept]
    assert opened.metadata["skipped"] == [ids[row] for row in sorted(skipped)]
    assert len(opened) == len(opened.features) == len(kept)


@given(st.lists(TEXT, min_size=1))
def test_ids_round_trip(ids):
    assert decode_ids(encode_ids(ids)) == ids


def test_ids_keep_the_bytes_of_names_that_are_not_utf8():
    names = [b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "café.jpg"]
    assert decode_ids(encode_ids(names)) == names


KEYS = [
    3,
    -1,
    np.int64(2),
    slice(2, 7),
    slice(None, None, -1),
    slice(8, 3, -2),
    slice(5, 5),
    [4, 1, 1],
    np.array([], int),
    (slice(1, 6), 2),
    (slice(None), slice(0, 2)),
    (4, 1),
]


@pytest.mark.parametrize("key", KEYS, ids=map(str, KEYS))
@pytest.mark.parametrize("skipped", [[], [5, 9, 10]])
def test_slices_are_those_of_numpy(path, key, skipped):
    with writer(path) as store:
        for start, rows in ((0, 4), (4, 4), (8, 3)):
            inside = [row for row in skipped if start <= row < start + rows]
            store.write(start, {"pre_logits": rows_of(start, start + rows)}, inside)
        store.finish()
    wanted = np.delete(expected(), skipped, axis=0)
    rows = FeatureStore.open(path).features
    np.testing.assert_array_equal(rows[key], wanted[key])
    mask = np.arange(len(wanted)) % 3 == 0
    np.testing.assert_array_equal(rows[mask], wanted[mask])
    np.testing.assert_array_equal(np.asarray(rows), wanted)
    count = len(wanted)
    np.testing.assert_array_equal(rows[[-count, count - 1]], wanted[[-count, count - 1]])
    for outside in (count, -count - 1):
        with pytest.raises(IndexError, match=f"row {outside} of {count}"):
            rows[[0, outside]]


@pytest.mark.parametrize(
    "path, url",
    [
        ("gs://some-bucket/runs/a/", "gs://some-bucket/runs/a/labels/"),
        ("gs://some-bucket", "gs://some-bucket/labels/"),
        ("/data/runs/a", "file:///data/runs/a/labels/"),
    ],
)
def test_where_a_store_lies(path, url):
    assert tensorstore.KvStore.Spec(kvstore_spec(path, "labels/")).url == url


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "chunk", "fill_value", "axes"),
    [
        ("features/pre_logits", [11, 3], "float32", [4, 3], "NaN", ["row", "axis1"]),
        ("features/map", [11, 2, 0, 3], "float32", [4, 2, 1, 3], "NaN", ["row", "axis1", "axis2", "axis3"]),
        ("labels", [11], "int64", [11], 0, ["row"]),
        ("ids", [11, 12], "uint8", [11, 12], 0, ["row", "axis1"]),
        ("checks", [11], "uint32", [4], 0, ["row"]),
        ("content", [11], "int64", [4], -1, ["row"]),
    ],
)
def test_any_zarr_reader_could_open_it(path, name, shape, dtype, chunk, fill_value, axes):
    with writer(path, taps={"pre_logits": (WIDTH,), "map": (2, 0, 3)}, content=lambda rows: np.zeros(len(rows))):
        pass
    group = json.loads((path / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    bytes_codec = {"name": "bytes"} if dtype == "uint8" else {"name": "bytes", "configuration": {"endian": "little"}}
    assert json.loads((path / name / "zarr.json").read_text()) == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": fill_value,
        "codecs": [bytes_codec, {"name": "crc32c"}],
        "dimension_names": axes,
    }


def test_as_many_batches_as_threads_are_on_their_way(path, monkeypatch):
    """So many writes do not wait for the disk; the next one does."""
    disk = threading.Event()
    monkeypatch.setattr(StoreWriter, "_commit", lambda *_: disk.wait(5))
    with writer(path, rows=6 * BATCH) as store:
        batch = {"pre_logits": rows_of(0, BATCH)}
        for start in range(0, WRITES_IN_FLIGHT * BATCH, BATCH):
            store.write(start, batch)
        assert len(store._writing) == 4 and not any(write.done() for write in store._writing)
        threading.Timer(0.05, disk.set).start()
        store.write(4 * BATCH, batch)
        assert disk.is_set() and len(store._writing) == 4


def test_an_incomplete_store_opens_only_when_asked(path):
    with writer(path) as store:
        store.write(4, {"pre_logits": rows_of(4, 8)}, [5])
    with pytest.raises(TransferError, match=r"incomplete \(7 of 11 images missing\)"):
        FeatureStore.open(path)
    opened = FeatureStore.open(path, incomplete=True)
    np.testing.assert_array_equal(opened.features[:], rows_of(4, 8)[[0, 2, 3]])
    assert not opened.complete and opened.num_missing == 7
    assert opened.ids == ["train/000004", "train/000006", "train/000007"]


def test_a_resumed_store_equals_an_uninterrupted_one(path, tmp_path):
    with writer(path) as store:
        store.write(4, {"pre_logits": rows_of(4, 8)})
    with writer(path) as store:
        assert store.pending() == [(0, 4), (8, 11)]
        fill(store)
        store.finish()
    finished(tmp_path / "other")
    assert files_of(path) == files_of(tmp_path / "other")


# What a kill leaves behind, at the points where the order of writes matters.
REMAINS = {
    "before the metadata": ["zarr.json"],
    "before the metadata, with a stale chunk": ["zarr.json", "labels/c/0", "checks/zarr.json"],
    "features without checks": ["checks/c/1"],
    "nothing but metadata": ["checks/c/0", "checks/c/1", "checks/c/2", "features/pre_logits/c/0/0"],
    "checks without features": ["features/pre_logits/c/2/0"],
}


@pytest.mark.parametrize("lost", REMAINS.values(), ids=REMAINS)
def test_what_a_kill_leaves_is_completed(path, tmp_path, lost):
    finished(tmp_path / "other")
    with writer(path) as store:
        fill(store)  # without finish(): not marked complete
    for name in lost:
        (path / name).unlink()
    (path / "checks/c/1.__lock").write_bytes(b"half")  # as a killed writer leaves it
    with writer(path) as store:
        assert store.pending()
        fill(store)
        store.finish()
    remains = {name: data for name, data in files_of(path).items() if not name.endswith(".__lock")}
    assert remains == files_of(tmp_path / "other")


def test_finish_counts_the_rows(path):
    with writer(path) as store:
        store.write(0, {"pre_logits": rows_of(0, 4)})
        with pytest.raises(TransferError, match="lacks rows 4 to 10"):
            store.finish()
    assert not FeatureStore.open(path, incomplete=True).complete
    with writer(path.with_name("other"), rows=8 * BATCH) as store:
        for start in range(0, 8 * BATCH, 2 * BATCH):
            store.write(start, {"pre_logits": rows_of(0, BATCH)})
        with pytest.raises(TransferError) as caught:
            store.finish()
    assert str(caught.value) == f"{store.path} still lacks rows 4 to 7, 12 to 15, 20 to 23; run the same command again"


def test_a_store_without_a_single_image_is_an_error(path):
    with writer(path, rows=2, ids=["a", "b"]) as store:
        store.write(0, {"pre_logits": np.zeros((2, WIDTH))}, [0, 1])
        with pytest.raises(TransferError, match="none of the 2 images could be read"):
            store.finish()


OTHER_SETTINGS = {
    "model": (dict(fingerprint={"model": "resnet50.tv1"}), ["model was 'vgg16.keras', now 'resnet50.tv1'"]),
    "resize": (
        dict(fingerprint={"model": "vgg16.keras", "preprocessing": {"image_size": [32, 32], "resize": "float"}}),
        [
            "preprocessing.image_size was [224, 224], now [32, 32]",
            "preprocessing.resize was 'pil', now 'float'",
        ],
    ),
    "tap": (dict(taps={"block5": (2, 2, 8)}), ["taps.pre_logits was [3], now absent", "taps.block5 was absent"]),
    "images": (
        dict(data="folder:others", fingerprint={"model": "vgg16.keras", "images": "abc"}),
        ["data was 'folder:images', now 'folder:others'", "images was absent, now 'abc'"],
    ),
    "classes": (dict(class_names=("cat", "ship")), ["class_names"]),
    "count": (dict(rows=10), ["num_images was 11, now 10"]),
}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("changed, phrases", OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_other_settings_are_named(path, changed, phrases, complete):
    with writer(path) as store:
        fill(store)
        if complete:
            store.finish()
    before = files_of(path)
    with pytest.raises(TransferError) as caught:
        writer(path, **changed)
    message = str(caught.value)
    assert all(phrase in message for phrase in phrases)
    assert message.startswith(f"the feature store {path} was {'made' if complete else 'begun'} with other settings: ")
    assert message.endswith(". Choose another --workdir, or delete the store") and "\n" not in message
    assert files_of(path) == before


@pytest.mark.parametrize(("letters", "shown"), [(58, f"'{'x' * 58}'"), (59, f"'{'x' * 39}…")])
def test_long_settings_are_cut(letters, shown):
    changed = differences({"a": {"b": "x" * letters}, "same": [1]}, {"a": {"b": 1}, "same": (1,), "c": {}})
    assert changed == [f"a.b was {shown}, now 1"]


def test_images_without_names(path):
    store = finished(path, ids=[""] * ROWS)
    assert store.metadata["id_width"] == 1 and store.ids == [""] * ROWS


def test_data_that_moved_are_the_same_data(path):
    finished(path)
    assert writer(path, data="folder:elsewhere").complete


def test_a_finished_store_may_have_more_taps_than_are_wanted(path):
    both = {"pre_logits": (WIDTH,), "block5": (2,)}
    with writer(path, taps=both) as store:
        store.write(0, {tap: rows_of(0, BATCH, shape) for tap, shape in both.items()})
    with pytest.raises(TransferError, match="begun with other settings: taps.block5 was"):
        writer(path)
    with writer(path, taps=both) as store:
        for start, stop in [(4, 8), (8, 11)]:
            store.write(start, {tap: rows_of(start, stop, shape) for tap, shape in both.items()})
        store.finish()
    assert writer(path).complete and writer(path, taps={"block5": (2,)}).complete
    assert FeatureStore.open(path).taps == ("pre_logits", "block5")


def test_the_batch_size_binds_an_unfinished_store_only(path):
    with writer(path) as store:
        store.write(0, {"pre_logits": rows_of(0, 4)})
    with pytest.raises(TransferError, match="begun with other settings: batch_size was 4, now 5"):
        writer(path, batch_size=5)
    with writer(path) as store:
        fill(store)
        store.finish()
    with writer(path, batch_size=5) as store:
        assert store.complete and not store.pending()


@pytest.mark.parametrize("name", ["features/pre_logits/c/1/0", "labels/c/0", "ids/c/0/0", "checks/c/1"])
@pytest.mark.parametrize("where", [0, -1, None])
def test_a_damaged_chunk_is_detected(path, name, where):
    finished(path)
    chunk = path / name
    data = bytearray(chunk.read_bytes())
    if where is None:
        del data[len(data) // 2 :]
    else:
        data[where] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(TransferError, match="damaged") as caught:
        opened = FeatureStore.open(path)
        _ = opened.features[:], opened.ids, opened.labels, list(scan_checks(opened.path, opened.metadata))
    assert str(chunk) in str(caught.value)


def test_a_missing_chunk_is_never_read_as_values(path):
    opened = finished(path)
    (path / "features/pre_logits/c/1/0").unlink()
    np.testing.assert_array_equal(opened.features[:4], rows_of(0, 4))
    with pytest.raises(TransferError, match="missing"):
        _ = opened.features[:]


NO_STORES = {
    "nothing": (None, "no feature store at"),
    "not JSON": ("{", "not JSON"),
    "a foreign group": ('{"zarr_format": 3, "node_type": "group", "attributes": {}}', "is not a feature store"),
    "a list": ("[]", "is not a feature store"),
    "a newer format": ('{"attributes": {"kind": "transfer.features", "format": 99}}', "has format 99"),
}


@pytest.mark.parametrize("text, message", NO_STORES.values(), ids=NO_STORES)
def test_what_is_no_store(path, text, message):
    path.mkdir(parents=True)
    if text is not None:
        (path / "zarr.json").write_text(text)
    with pytest.raises(TransferError, match=message):
        FeatureStore.open(path)
    if text is not None:
        with pytest.raises(TransferError, match=message):
            writer(path)


def test_an_unknown_tap_names_the_known_ones(path):
    with pytest.raises(TransferError, match="no tap 'fc1'; it has pre_logits"):
        finished(path).tap("fc1")


FULL_DISK = """
import errno, resource, sys
import numpy as np
from stores import BATCH, WIDTH, rows_of, writer
with writer({path!r}) as store:
    store.write(0, {{"pre_logits": rows_of(0, 4)}})
try:
    with writer({path!r}) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        store.write(4, {{"pre_logits": rows_of(4, 8)}})
        store.write(8, {{"pre_logits": rows_of(8, 11)}})
        store.finish()
except OSError as error:
    assert error.errno == errno.EFBIG, error
    assert {path!r} in error.filename
    sys.exit(7)
"""


# A chunk of features has 52 bytes with its checksum, one of checks 20, the metadata more than 400.
@pytest.mark.slow
@pytest.mark.parametrize("limit, rows", [(10, 4), (60, 11)], ids=["at a chunk", "at the metadata"])
def test_a_full_disk_is_an_os_error_and_leaves_nothing_half_written(path, tmp_path, limit, rows):
    """A limit on the size of files stands for the full disk: both fail a write half-way through."""
    script = FULL_DISK.format(path=str(path), limit=limit)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert not [name for name in files_of(path) if name.endswith(".__lock")]
    opened = FeatureStore.open(path, incomplete=True)
    assert len(opened) == rows
    np.testing.assert_array_equal(opened.features[:], expected()[: len(opened)])
    with writer(path) as store:
        fill(store)
        store.finish()
    finished(tmp_path / "other")
    assert files_of(path) == files_of(tmp_path / "other")


def test_errors_of_the_operating_system_keep_their_number(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        writer(tmp_path / "file" / "store")
    assert caught.value.errno == errno.ENOTDIR and caught.value.filename
