"""What a store consists of: checksums of rows, metadata under their own, arrays as they say."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stores import BATCH, ROWS, TEXT, expected, fill, finished, rewrite, rows_of, writer

from transfer.errors import TransferError, UsageError
from transfer.store import format as store_format
from transfer.store.format import read_metadata, row_checks, seal, write_metadata
from transfer.store.store import FeatureStore
from transfer.store.verify import verify


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def small_chunks(monkeypatch):
    """Labels and ids in chunks of five rows."""
    monkeypatch.setattr(store_format, "ROWS_AT_ONCE", 5)


@given(data=st.data())
def test_the_checksum_of_a_row_is_what_its_docstring_says(data):
    count, start = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2**40))
    dtype = data.draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
    kinds = (np.int64, count), (np.float32, (count, data.draw(st.integers(1, 3))))
    labels = data.draw(hnp.arrays(*data.draw(st.sampled_from(kinds))))
    ids = [text.encode() for text in data.draw(st.lists(TEXT, min_size=count, max_size=count))]
    taps = [np.random.default_rng(i).normal(size=(count, i + 1, 2)).astype(dtype) for i in range(2)]
    for i, check in enumerate(row_checks(start, labels, ids, taps)):
        text = struct.pack("<q", start + i) + labels[i].tobytes() + struct.pack("<I", len(ids[i])) + ids[i]
        crc = zlib.crc32(text + taps[0][i].tobytes() + taps[1][i].tobytes())
        assert check == (crc if crc > 1 else crc + 2)


@pytest.mark.parametrize("target", ["labels", "values"])
def test_several_labels_and_values_a_row(target, path):
    labels = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    how = dict(target=target, class_names=("x", "y", "z"))
    with writer(path, labels=labels, **how) as store:
        store.write(4, {"pre_logits": rows_of(4, 8)}, [5])  # and is interrupted
    changed = labels.copy()
    changed[-1, -1] += 1
    with pytest.raises(TransferError, match="labels among the rows 0 to 10 are not the source's"):
        writer(path, labels=changed, **how)
    with writer(path, labels=labels, **how) as store:
        assert store.pending() == [(0, 4), (8, 11)]
        fill(store)
        store.finish()
    store, kept = FeatureStore.open(path), np.delete(labels, 5, axis=0)
    assert store.target == target and store.label_rows.shape == (ROWS - 1, 3)
    np.testing.assert_array_equal(store.labels, kept)
    np.testing.assert_array_equal(store.label_rows[4:6], kept[4:6])
    assert not verify(str(path), read_metadata(str(path)))
    rewrite(path, "labels", changed)
    (line,) = verify(str(path), read_metadata(str(path))).lines
    assert line == "row 10: features, label or id are not those that were written"


def test_a_store_of_classes_is_as_it_always_was(path):
    finished(path)
    assert "target" not in read_metadata(str(path)) and FeatureStore.open(path).target == "classes"


def test_metadata_carry_their_own_checksum(path):
    finished(path)
    text = (path / "zarr.json").read_bytes()
    whole = read_metadata(str(path))
    assert whole["sha256"] == seal(whole)
    for position in range(len(text)):
        (path / "zarr.json").write_bytes(text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :])
        try:
            assert read_metadata(str(path)) == whole
        except TransferError as error:
            assert "damaged" in str(error) or "is not a feature store" in str(error)


def test_arrays_must_be_as_the_metadata_say(path):
    finished(path)
    for name, old, new in [
        ("features/pre_logits", '"shape":[11,3]', '"shape":[12,3]'),
        ("features/pre_logits", '"chunk_shape":[4,3]', '"chunk_shape":[2,3]'),
        ("features/pre_logits", "float32", "float64"),
        ("labels", "int64", "uint64"),
        ("labels", '"name":"default"', '"name":"v2"'),
        ("ids", '{"name":"crc32c"}', '{"name":"gzip"}'),
    ]:
        file = path / name / "zarr.json"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        with pytest.raises(TransferError, match=rf"{name}/zarr.json is damaged .*features verify .* --repair"):
            opened = FeatureStore.open(path)
            _ = opened.features[:], opened.labels, opened.ids
        file.write_text(text)


def test_opening_reads_no_rows_and_a_slice_only_its_chunks(path, small_chunks):
    finished(path)
    kept = ["features/pre_logits/c/1/0", "labels/c/1", "ids/c/1/0"]
    for file in path.rglob("c/**/*"):
        if file.is_file() and str(file.relative_to(path)) not in kept:
            file.unlink()
    store = FeatureStore.open(path)
    assert len(store) == ROWS and store.num_chunks == 3
    np.testing.assert_array_equal(store.features[4:8], rows_of(4, 8))
    np.testing.assert_array_equal(store.label_rows[5:9], [1, 0, 1, 0])
    assert store.id_rows[5:7] == ["train/000005", "train/000006"] and store.id_rows[9] == "train/000009"
    assert store.id_rows[[9, 5]] == ["train/000009", "train/000005"] and len(store.id_rows) == ROWS


@pytest.mark.parametrize("skipped", [[], [0], [5, 6], [4, 5, 6, 7], [3, 4, 10]], ids=str)
def test_chunks_cover_the_rows_in_order(path, skipped):
    with writer(path) as store:
        for start, stop in ((0, 4), (4, 8), (8, 11)):
            inside = [row for row in skipped if start <= row < stop]
            store.write(start, {"pre_logits": rows_of(start, stop)}, inside)
        store.finish()
    opened = FeatureStore.open(path)
    chunks = [opened.chunk(i) for i in range(opened.num_chunks)]
    wanted = np.delete(expected(), skipped, axis=0)
    np.testing.assert_array_equal(np.concatenate([opened.features[chunk] for chunk in chunks]), wanted)
    assert [chunk.stop - chunk.start for chunk in chunks] == [
        sum(row not in skipped for row in range(start, min(start + BATCH, ROWS))) for start in range(0, ROWS, BATCH)
    ]


class Lazy(Sequence[str]):
    """Ids that are made when they are asked for, a few at a time."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, key):
        if isinstance(key, slice):
            assert len(range(*key.indices(ROWS))) <= 5, "all at once"
            return [self[i] for i in range(*key.indices(ROWS))]
        return f"train/{key:06d}" if 0 <= key < ROWS else [][0]


def test_ids_are_taken_slice_by_slice(path, tmp_path, small_chunks):
    with writer(path, ids=Lazy()) as store:
        fill(store)
        store.finish()
    assert FeatureStore.open(path).ids == finished(tmp_path / "other").ids


@settings(max_examples=20, deadline=None)
@given(values=hnp.arrays(np.float32, (5, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bfloat16_is_float32_rounded(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("store")
    with writer(path, rows=5, features_dtype="bfloat16") as store:
        store.write(0, {"pre_logits": values[:4]})
        store.write(4, {"pre_logits": values[4:]})
        store.finish()
    opened = FeatureStore.open(path)
    assert opened.features.dtype == ml_dtypes.bfloat16 == opened.features[:].dtype
    np.testing.assert_array_equal(opened.features[:], values.astype(ml_dtypes.bfloat16))
    assert json.loads((path / "features/pre_logits/zarr.json").read_text())["data_type"] == "bfloat16"
    assert not verify(str(path), opened.metadata)
    with pytest.raises(TransferError, match="features_dtype was 'bfloat16', now 'float32'"):
        writer(path, rows=5)


def test_an_unknown_type(path):
    with pytest.raises(UsageError, match="features_dtype='float16' is not one of float32, bfloat16"):
        writer(path, features_dtype="float16")
    assert not path.exists()


@pytest.mark.parametrize("changed", [dict(labels=np.zeros(ROWS, int)), dict(ids=[f"x/{i:06d}" for i in range(ROWS)])])
def test_other_labels_or_ids_are_not_gone_on_with(path, changed):
    """A source whose fingerprint is the same says the same: the store must have been damaged since."""
    with writer(path) as store:
        store.write(0, {"pre_logits": rows_of(0, 4)})
    with pytest.raises(TransferError, match="among the rows 0 to 10 are not the source's"):
        writer(path, **changed)


@pytest.mark.parametrize(
    "open_it", [lambda path: FeatureStore.open(path), lambda path: writer(path)], ids=["read", "write"]
)
def test_a_store_of_format_1_is_to_be_deleted(path, open_it):
    metadata = {"kind": "transfer.features", "format": 1, "complete": True, "taps": {"pre_logits": [3]}}
    path.mkdir()
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": metadata}))
    with pytest.raises(TransferError) as caught:
        open_it(path)
    assert str(caught.value) == (
        f"the feature store {path} has format 1, and this version reads the formats 2 and 3 only; delete {path} and "
        "extract again"
    )


def test_metadata_read_back_as_they_were_written(path):
    finished(path)
    changed = {**read_metadata(str(path)), "taps": {"b": (1, 2), "a": [3]}}
    written = write_metadata(str(path), changed)
    assert read_metadata(str(path)) == written and list(written["taps"]) == ["b", "a"]


LEAST_AND_MOST = [
    *({"taps": {"x" * 200: [0, (1 << 40) - 1]}}, {"skipped_rows": [0, ROWS - 1]}, {"class_names": []}),
    *({name: 1} for name in ("num_images", "batch_size", "row_chunk", "id_width")),
    *({"num_images": (1 << 40) - 1}, {"num_images": 0}),
]
BEYOND = [
    *({"taps": taps} for taps in ({"x" * 201: [3]}, {}, {"..": [3]}, {"a": [-1]}, {"a": [True]}, {"a": [1 << 40]})),
    *({"taps": taps} for taps in ({"a": 3}, ["a"], None)),
    *({"skipped_rows": rows} for rows in ([ROWS], [-1], [1.0], {}, None)),
    *({name: size} for name in ("batch_size", "row_chunk", "id_width") for size in (0, -1, 1 << 40, "1", None)),
    *({"num_images": size} for size in (-1, 1 << 40, 1.0, None)),
    *({"class_names": names} for names in (["a", 1], "ab", None)),
    *({"complete": 1}, {"features_dtype": "float16"}, {"features_dtype": ["float32"]}),
]


@pytest.mark.parametrize(("changed", "taken"), [*((c, True) for c in LEAST_AND_MOST), *((c, False) for c in BEYOND)])
def test_metadata_are_taken_up_to_their_limits(path, changed, taken):
    with writer(path) as store:
        whole = {**store.metadata, "complete": True, "skipped_rows": []}
    write_metadata(str(path), {**whole, **changed})
    if taken:
        assert read_metadata(str(path)).items() >= changed.items()
    else:
        with pytest.raises(TransferError, match=r"zarr.json is damaged \(it describes no features\)"):
            read_metadata(str(path))


# Writes two versions of a large chunk over each other for as long as it lives.
OVERWRITE = """
import sys
import numpy as np
from stores import writer
with writer(sys.argv[1], rows=2, batch_size=2, taps={"pre_logits": (200_000,)}) as store:
    for i in range(10**9):
        store.write(0, {"pre_logits": np.full((2, 200_000), i % 2, np.float32)})
        store.flush()
        if i == 1:
            print("begun", flush=True)
"""


@pytest.mark.slow
def test_readers_never_see_a_half_written_chunk(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    seen = set()
    for _ in range(2):
        command = [sys.executable, "-c", OVERWRITE, str(path)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "begun\n"
            store = FeatureStore.open(path, incomplete=True)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                values = store.features[:]
                assert (values == values[0, 0]).all()
                seen.add(values[0, 0])
            process.send_signal(signal.SIGKILL)
        values = FeatureStore.open(path, incomplete=True).features[:]
        assert (values == values[0, 0]).all()
    assert seen == {0, 1}
    shutil.rmtree(path)
