"""Whatever happens to a file of a store is found, or changes nothing that is read from it; and repair undoes it."""

import errno
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import files_of, rewrite, rows_of, writer

from transfer.errors import TransferError
from transfer.store import format as store_format
from transfer.store.format import ChunkedArray, arrays, encode_ids, read_metadata, write_metadata
from transfer.store.store import FeatureStore
from transfer.store.verify import not_complete, remove_damage, verify

ROWS, BATCH, SKIPPED = 11, 4, [5, 9]
TAPS = {"pre_logits": (3,), "block5": (2, 2)}
IDS = [f"train/{'x' * (i % 3)}{i}" for i in range(ROWS)]


class Source:
    labels, ids = np.arange(ROWS) % 3, IDS


def content_of(rows):
    """Checksums of the files of images."""
    return np.arange(rows.start, rows.stop) * 999_999_937 % (1 << 32)


def our_writer(path, **changed):
    settings = dict(taps=TAPS, ids=IDS, labels=Source.labels, class_names=("a", "b", "c"), content=content_of)
    return writer(path, **{**settings, **changed})


def complete(path):
    with our_writer(path) as store:
        for first, last in store.pending():
            for start in range(first, last, BATCH):
                stop = min(start + BATCH, last)
                batch = {tap: rows_of(start, stop, shape) for tap, shape in TAPS.items()}
                store.write(start, batch, [row for row in SKIPPED if start <= row < stop])
        store.finish()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete store with labels and ids in chunks of five rows."""
    path = tmp_path_factory.mktemp("whole") / "store"
    before, store_format.ROWS_AT_ONCE = store_format.ROWS_AT_ONCE, 5
    try:
        complete(path)
    finally:
        store_format.ROWS_AT_ONCE = before
    return path


@pytest.fixture
def path(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "store")


def content(path):
    """All that can be read from a store."""
    store = FeatureStore.open(path)
    taps = {tap: store.tap(tap)[:].tobytes() for tap in store.taps}
    return taps, store.labels.tobytes(), store.ids, store.class_names, store.metadata


def found(path, source=None):
    """Whether `verify` finds damage, metadata included."""
    try:
        metadata = read_metadata(str(path))
    except TransferError:
        return True
    return metadata is None or bool(verify(str(path), metadata, source))


def test_a_whole_store_has_no_damage(whole):
    damage = verify(str(whole), read_metadata(str(whole)), Source)
    assert not damage and not damage.batches_to_recompute and not damage.missing and damage.rows_to_recompute == 0


def test_a_store_that_is_not_complete_is_not_damaged(tmp_path):
    with our_writer(tmp_path) as store:
        store.write(4, {tap: rows_of(4, 8, shape) for tap, shape in TAPS.items()}, [5])
    damage = verify(str(tmp_path), read_metadata(str(tmp_path)), Source)
    assert not damage and damage.missing == 7
    (tmp_path / "features/block5/c/1/0/0").unlink()
    assert verify(str(tmp_path), read_metadata(str(tmp_path))).batches_to_recompute == [(4, 8)]


def test_a_flipped_byte_anywhere(whole, tmp_path):
    """Some bytes of every file, one after another."""
    chosen, wanted = random.Random(0), content(whole)
    path = shutil.copytree(whole, tmp_path / "store")
    for name, data in files_of(whole).items():
        for position in chosen.sample(range(len(data)), 8):
            flipped = bytes([data[position] ^ chosen.randrange(1, 256)])
            (path / name).write_bytes(data[:position] + flipped + data[position + 1 :])
            assert found(path) or content(path) == wanted, (name, position, flipped)
        (path / name).write_bytes(data)
    assert not found(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_cut_lost_swapped_or_added(whole, tmp_path_factory, data):
    path = shutil.copytree(whole, tmp_path_factory.mktemp("copy") / "store")
    files, wanted = files_of(whole), content(whole)
    name = data.draw(st.sampled_from(sorted(files)))
    what = data.draw(st.sampled_from(["cut", "lost", "swapped", "added", "lengthened"]))
    if what == "cut":
        (path / name).write_bytes(files[name][: data.draw(st.integers(0, len(files[name]) - 1))])
    elif what == "lost":
        (path / name).unlink()
    elif what == "swapped":
        other = data.draw(st.sampled_from(sorted(files)))
        (path / name).write_bytes(files[other])
        (path / other).write_bytes(files[name])
    elif what == "added":
        (path / name).with_name(data.draw(st.sampled_from(["7", "03", "0x", "zarr", "-1"]))).write_bytes(b"x")
    else:
        (path / name).write_bytes(files[name] + b"x")
    assert found(path) or content(path) == wanted
    shutil.rmtree(path)


def read(path, name):
    array = ChunkedArray(str(path), arrays(read_metadata(str(path)))[name])
    return array.read(slice(0, ROWS))


@pytest.mark.parametrize("name", ["labels", "ids", "checks", "features/pre_logits", "features/block5"])
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(ROWS)))
def test_rows_in_another_order_are_found(whole, tmp_path_factory, name, order):
    path = shutil.copytree(whole, tmp_path_factory.mktemp("copy") / "store")
    before, wanted = read(path, name), content(path)
    rewrite(path, name, before[order])
    assert found(path) or content(path) == wanted
    moved = [row for row in range(ROWS) if row not in SKIPPED and (before[order][row] != before[row]).any()]
    damage = verify(str(path), read_metadata(str(path)))
    redone = [row for start, stop in damage.batches_to_recompute for row in range(start, stop)]
    assert set(moved) <= set(redone)
    shutil.rmtree(path)


@pytest.mark.parametrize("a, b", [("c/0/0", "c/1/0"), ("c/1/0", "c/2/0")])
def test_swapped_chunks_name_their_rows(path, a, b):
    """Each has the checksum of its own bytes."""
    folder = path / "features/pre_logits"
    first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
    (folder / a).write_bytes(second)
    (folder / b).write_bytes(first)
    damage = verify(str(path), read_metadata(str(path)))
    assert damage.batches_to_recompute == ([(0, 8)] if a == "c/0/0" else [(4, 11)])
    assert all(
        "features, label or id are not those that were written" in line or "skipped" in line for line in damage.lines
    )


def test_a_batch_of_another_store_is_found(path, tmp_path):
    """Features with checksums that fit them, their labels, ids and places, but of another network."""
    other = tmp_path / "other"
    with our_writer(other) as store:
        for start in (0, 4, 8):
            stop = min(start + BATCH, ROWS)
            store.write(start, {tap: rows_of(99 + start, 99 + stop, shape) for tap, shape in TAPS.items()})
    for name in ("features/pre_logits/c/0/0", "features/block5/c/0/0/0", "checks/c/0"):
        shutil.copy(other / name, path / name)
    damage = verify(str(path), read_metadata(str(path)))
    assert damage.batches_to_recompute == [(0, 11)] and "of another store" in damage.lines[0]


def test_the_source_tells_whether_labels_or_features_moved(path):
    labels = read(path, "labels")
    labels[[0, 1]] = labels[[1, 0]]
    rewrite(path, "labels", labels)
    damage = verify(str(path), read_metadata(str(path)), Source)
    assert damage.lines == ["labels of rows 0 to 1 are not the source's"]
    assert damage.row_metadata == {"labels": [0], "ids": []} and not damage.batches_to_recompute


def test_lines_do_not_grow_with_the_damage(path):
    damage = verify(str(path), read_metadata(str(path)))
    damage.report(*map(str, range(250)))
    assert len(damage.lines) == 100 and damage.more == 150


REPAIRS = {
    "a feature": ["features/block5/c/1/0/0"],
    "checks": ["checks/c/2"],
    "labels": ["labels/c/0", "labels/c/2"],
    "ids": ["ids/c/1/0"],
    "content": ["content/c/1"],
    "array metadata": ["features/pre_logits/zarr.json", "labels/zarr.json", "features/zarr.json", "content/zarr.json"],
    "all at once": ["features/pre_logits/c/0/0", "labels/c/0", "ids/c/2/0", "ids/zarr.json", "checks/c/1"],
}


@pytest.mark.parametrize("how", ["flipped", "lost", "cut"])
@pytest.mark.parametrize("names", REPAIRS.values(), ids=REPAIRS)
def test_repair_gives_back_the_same_bytes(whole, path, names, how):
    for name in names:
        data = (path / name).read_bytes()
        if how == "lost":
            (path / name).unlink()
        else:
            (path / name).write_bytes(data[:9] if how == "cut" else data[:9] + bytes([data[9] ^ 255]) + data[10:])
    metadata = read_metadata(str(path))
    damage = verify(str(path), metadata, Source)
    assert damage
    assert not remove_damage(str(path), metadata, damage, Source)
    complete(path)
    assert files_of(path) == files_of(whole)


@pytest.mark.parametrize("how", ["lost", "emptied", "flipped"])
def test_damaged_metadata_are_never_taken(path, how):
    file = path / "zarr.json"
    data = file.read_bytes()
    file.write_bytes(b"" if how == "emptied" else data[:99] + bytes([data[99] ^ 1]) + data[100:])
    if how == "lost":
        file.unlink()
    with pytest.raises(TransferError, match=rf"zarr.json is .*; delete {path} and extract again"):
        FeatureStore.open(path)


def test_surplus_files_are_removed_where_they_are_ours(whole, path):
    ours = ["checks/c/02", "checks/c/3", "features/block5/c/2/0/1", "features/c", "labels/77", "labels/c/77"]
    for name in ours:
        (path / name).write_bytes(b"x")
    (path / "notes.txt").write_text("mine")
    metadata = read_metadata(str(path))
    damage = verify(str(path), metadata)
    assert damage.surplus == [*ours, "notes.txt"]
    assert damage.lines == [f"{path}/{name} does not belong to the store" for name in damage.surplus]
    assert remove_damage(str(path), metadata, damage) == ["features/c", "notes.txt"]
    for name in ("features/c", "notes.txt"):
        (path / name).unlink()
    assert files_of(path) == files_of(whole)


def test_what_the_disk_cannot_read_is_damage_and_what_it_may_not_is_an_error(path, monkeypatch):
    metadata, read = read_metadata(str(path)), ChunkedArray.read

    def refused(number):
        def fail(array, rows):
            if array.spec.name == "checks" and rows.start == 4:
                raise OSError(number, os.strerror(number), "checks/c/1")
            return read(array, rows)

        monkeypatch.setattr(ChunkedArray, "read", fail)

    refused(errno.EIO)
    damage = verify(str(path), metadata)
    assert damage.lines == ["checks/c/1: Input/output error"] and damage.batches_to_recompute == [(4, 8)]
    refused(errno.EACCES)
    with pytest.raises(PermissionError):
        verify(str(path), metadata)


def test_without_the_source_damaged_labels_are_left_as_they_are(path):
    (path / "labels/c/0").unlink()
    before, metadata = files_of(path), read_metadata(str(path))
    with pytest.raises(TransferError, match=r"pass --workdir=DIR .* or --config=FILE"):
        remove_damage(str(path), metadata, verify(str(path), metadata))
    assert files_of(path) == before


def test_repair_that_is_cut_short_is_found_again(whole, path, monkeypatch):
    (path / "features/block5/c/1/0/0").write_bytes(b"x" * 68)
    metadata = read_metadata(str(path))
    damage = verify(str(path), metadata, Source)
    monkeypatch.setattr("transfer.store.format.write_metadata", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remove_damage(str(path), metadata, damage, Source)
    monkeypatch.undo()
    again = verify(str(path), metadata, Source)
    assert again.batches_to_recompute == [(4, 8)]
    remove_damage(str(path), metadata, again, Source)
    complete(path)
    assert files_of(path) == files_of(whole)


@pytest.mark.parametrize("names", [["checks/c/0"], ["checks/c/2"]])
def test_what_lies_where_a_batch_is_missing_does_not_matter(whole, path, names):
    """A store that is not complete, in whose missing batches there is rubbish."""
    metadata = read_metadata(str(path))
    write_metadata(str(path), not_complete(metadata))
    for name in names:
        (path / name).unlink()
        for tap in TAPS:
            chunk = path / f"features/{tap}/c/{name[-1]}" / "/".join(["0"] * len(TAPS[tap]))
            chunk.write_bytes(b"rubbish")
    damage = verify(str(path), read_metadata(str(path)))
    assert not damage and damage.missing
    complete(path)
    assert files_of(path) == files_of(whole)


def test_ids_of_the_store_are_padded(path):
    np.testing.assert_array_equal(read(path, "ids"), encode_ids(IDS))
