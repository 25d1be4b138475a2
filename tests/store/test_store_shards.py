"""Stores of many rows, whose files are shards of many chunks: cut evenly, and as safe as a file for each batch is."""

import json
import random
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import files_of, rows_of, writer

from transfer.errors import TransferError
from transfer.store import sizes
from transfer.store import writer as writing
from transfer.store.format import existing_metadata, read_metadata, write_metadata
from transfer.store.store import FeatureStore
from transfer.store.verify import remove_damage, verify

# two shards, the last of which ends within a chunk; six rows are whole batches and whole chunks
ROWS, BATCH, CHUNK, SHARD, SKIPPED = 23, 2, 3, 12, [5, 13]
TAPS = {"pre_logits": (3,), "block5": (2, 2)}
SIZES = {"shard_rows": SHARD, "chunk_rows": CHUNK}
IDS = [f"train/{'x' * (i % 3)}{i}" for i in range(ROWS)]
STARTS = range(0, ROWS, BATCH)


class Source:
    labels, ids = np.arange(ROWS) % 3, IDS


@pytest.fixture(autouse=True, scope="module")
def shards():
    """Stores begin with these shards, and a shard is written only when it is whole, or at an end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "of_shards", lambda *_: SIZES)
        yield


def our_writer(path, **changed):
    given = dict(taps=TAPS, ids=IDS, labels=Source.labels, class_names="abc", content=lambda rows: np.array(rows) * 7)
    return writer(path, ROWS, BATCH, **{**given, **changed})


def put(store, start):
    stop = min(start + BATCH, ROWS)
    batch = {tap: rows_of(start, stop, shape) for tap, shape in TAPS.items()}
    store.write(start, batch, [row for row in SKIPPED if start <= row < stop])


def complete(path, **changed):
    with our_writer(path, **changed) as store:
        for first, last in store.pending():
            for start in range(first, last, BATCH):
                put(store, start)
        store.finish()


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store"
    complete(path)
    return path


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def content(path):
    store = FeatureStore.open(path)
    taps = {tap: store.tap(tap)[:].tobytes() for tap in store.taps}
    return taps, store.labels.tobytes(), store.ids, store.content[:].tolist(), store.metadata


@pytest.mark.parametrize(
    "rows, batch, row_bytes, wanted",
    [
        (4096 * 64, 64, [8192], {}),
        (4096 * 64 + 1, 64, [8192], {"shard_rows": 256, "chunk_rows": 64}),
        (10**7, 64, [256], {"shard_rows": 9728, "chunk_rows": 256}),
        (10**8, 64, [8192], {"shard_rows": 32768, "chunk_rows": 64}),
        (10**8, 1024, [4096], {"shard_rows": 65536, "chunk_rows": 128}),
        (10**8, 64, [256], {"shard_rows": 65536, "chunk_rows": 256}),
        (10**9, 96, [256, 8192], {"shard_rows": 31680, "chunk_rows": 64}),  # two taps lie in memory together
        (10**6, 100, [8192], {"shard_rows": 1600, "chunk_rows": 64}),  # whole chunks of whole batches
        (10**6, 64, [7 * 7 * 2048 * 4], {"shard_rows": 640, "chunk_rows": 1}),
        (10**6, 8, [1 << 30], {"shard_rows": 8, "chunk_rows": 8}),
        (10**8, 4097, [8192], {"shard_rows": 28679, "chunk_rows": 4097}),
        (10**6, 1, [0], {"shard_rows": 768, "chunk_rows": 256}),
        (0, 64, [8192], {}),
    ],
)
def test_sizes(rows, batch, row_bytes, wanted, monkeypatch):
    monkeypatch.undo()
    assert ORIGINAL(rows, batch, row_bytes) == wanted
    if wanted:
        assert wanted["shard_rows"] % batch == wanted["shard_rows"] % wanted["chunk_rows"] == 0


ORIGINAL = sizes.of_shards


def test_a_shard_is_what_zarr_says(whole):
    """Read by the specification: chunks, then where each lies, then a checksum (the codec `sharding_indexed`)."""
    wanted = np.concatenate([rows_of(start, min(start + BATCH, ROWS)) for start in STARTS])
    wanted[SKIPPED] = np.nan
    padded = np.concatenate([wanted, np.full((2 * SHARD - ROWS, 3), np.nan, np.float32)])
    for shard in (0, 1):
        data = (whole / f"features/pre_logits/c/{shard}/0").read_bytes()
        index = np.array(struct.unpack("<8Q", data[-68:-4])).reshape(4, 2)
        for number, (offset, size) in enumerate(index.tolist()):
            start = shard * SHARD + number * CHUNK
            assert data[offset : offset + size - 4] == padded[start : start + CHUNK].tobytes()
    (codec,) = json.loads((whole / "features/pre_logits/zarr.json").read_text())["codecs"]
    assert codec["name"] == "sharding_indexed" and codec["configuration"].get("index_location", "end") == "end"
    assert len(files_of(whole)) == 18
    metadata = read_metadata(str(whole))
    assert metadata["format"] == 3 and metadata.items() >= SIZES.items()


def test_chunks_are_those_of_shards(path):
    store = FeatureStore.open(path)
    assert (store.chunk_rows, store.num_chunks) == (CHUNK, 8)
    kept = np.delete(np.arange(ROWS), SKIPPED)
    rows = [store.content[store.chunk(i)].tolist() for i in range(8)]
    assert rows == [[7 * row for row in kept if row // CHUNK == i] for i in range(8)]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_and_any_end_give_the_same_files(whole, tmp_path_factory, data):
    """Batches in any order, saved at any moment, in several goes: none is asked for again."""
    path = tmp_path_factory.mktemp("store")
    for _ in range(data.draw(st.integers(0, 4))):
        seconds = data.draw(st.sampled_from([0.0, 60.0]))
        with pytest.MonkeyPatch.context() as patch, our_writer(path) as store:
            patch.setattr(writing, "SECONDS_AT_RISK", seconds)
            missing = [start for first, last in store.pending() for start in range(first, last, BATCH)]
            for start in data.draw(st.lists(st.sampled_from(missing), unique=True)) if missing else ():
                put(store, start)
                missing.remove(start)
            store.flush()
            assert missing == [start for first, last in store.pending() for start in range(first, last, BATCH)]
        assert not verify(str(path), read_metadata(str(path)), Source)
    complete(path)
    assert files_of(path) == files_of(whole)


def test_a_shard_that_takes_long_is_saved_as_far_as_it_is(tmp_path, monkeypatch):
    """A kill loses what came since; here the process goes on, and another looks at what it left."""
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr("transfer.store.filling.time.monotonic", lambda: next(clock))
    with our_writer(tmp_path) as store:
        for start in (0, 2, 4):
            put(store, start)
        store._wait(0)
        assert FeatureStore.open(tmp_path, incomplete=True).num_missing == ROWS - 6
        put(store, 6)
        put(store, 8)
        assert FeatureStore.open(tmp_path, incomplete=True).num_missing == ROWS - 6


def test_after_an_error_what_was_computed_is_there(tmp_path):
    with pytest.raises(ZeroDivisionError), our_writer(tmp_path) as store:
        for start in range(0, 14, BATCH):
            put(store, start)
        raise ZeroDivisionError
    assert FeatureStore.open(tmp_path, incomplete=True).num_missing == ROWS - 14


def test_a_flipped_byte_anywhere(whole, tmp_path):
    chosen, wanted = random.Random(0), content(whole)
    path = shutil.copytree(whole, tmp_path / "store")
    for name, data in files_of(whole).items():
        for place in chosen.sample(range(len(data)), min(len(data), 40 if "/c/" in name else 8)):
            flipped = bytes([data[place] ^ chosen.randrange(1, 256)])
            (path / name).write_bytes(data[:place] + flipped + data[place + 1 :])
            try:
                damage = verify(str(path), existing_metadata(str(path)))
            except TransferError:
                continue
            assert damage or content(path) == wanted, (name, place)
        (path / name).write_bytes(data)
    assert not verify(str(path), existing_metadata(str(path)), Source)


FIRST, LAST = "features/block5/c/0/0/0", "features/pre_logits/c/1/0"
# what is damaged, and which rows are computed again
REPAIRS = {
    "a chunk": ([(FIRST, 60)], [(0, 6)]),
    "a chunk of the last shard": ([(LAST, 1)], [(12, 18)]),
    "the last chunk": ([(LAST, 3 * 40 + 2)], [(18, 23)]),
    "an index": ([(FIRST, -9)], [(0, 12)]),
    "the last index": ([(LAST, -9)], [(12, 23)]),
    "checks": ([("checks/c/0", 9)], [(0, 12)]),
    "the last checks": ([("checks/c/1", 9)], [(12, 23)]),
    "content": ([("content/c/1", 9)], [(12, 23)]),
    "labels, ids and what describes them": ([("labels/c/0", 1), ("ids/zarr.json", 5), ("ids/c/0/0", 1)], []),
    "much": ([(FIRST, 60), (LAST, 122), ("checks/c/0", 9)], [(0, 12), (18, 23)]),
}


@pytest.mark.parametrize("how", ["flipped", "lost", "cut"])
@pytest.mark.parametrize("places, rows", REPAIRS.values(), ids=REPAIRS)
def test_repair_computes_what_is_damaged_and_gives_back_the_same_bytes(whole, path, places, rows, how):
    for name, place in places:
        data = (path / name).read_bytes()
        place %= len(data)
        if how == "lost":
            (path / name).unlink()
        else:
            changed = data[:place] if how == "cut" else data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            (path / name).write_bytes(changed)
    metadata = read_metadata(str(path))
    damage = verify(str(path), metadata, Source)
    assert damage
    if how == "flipped":
        joined = [row for start, stop in damage.batches_to_recompute for row in range(start, stop)]
        assert joined == [row for start, stop in rows for row in range(start, stop)]
    assert not remove_damage(str(path), metadata, damage, Source)
    again = verify(str(path), read_metadata(str(path)), Source)
    assert not again and again.missing == damage.rows_to_recompute
    complete(path)
    assert files_of(path) == files_of(whole)


def test_damage_of_a_store_that_is_not_complete_is_not_taken_over(whole, tmp_path):
    """What a shard has is read again as it is gone on with: of the batches 0 to 5 the one in the midst is missing."""
    with our_writer(tmp_path) as store:
        for start in (0, 2, 6, 8, 10):
            put(store, start)
    shard, data = tmp_path / FIRST, (tmp_path / FIRST).read_bytes()
    # of the chunk of the rows 3 to 5, and of where chunks lie
    for place, rows in ((60, [(2, 4)]), (len(data) - 9, [(0, 2), (6, 12)])):
        shard.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(TransferError, match=r"is damaged .*verify .* --repair"), our_writer(tmp_path) as store:
            put(store, 4)
        metadata = read_metadata(str(tmp_path))
        damage = verify(str(tmp_path), metadata, Source)
        assert damage.batches_to_recompute == rows
        remove_damage(str(tmp_path), metadata, damage, Source)
    complete(tmp_path)
    assert files_of(tmp_path) == files_of(whole)


BAD_SIZES = [
    {},
    {"shard_rows": 12},
    {"chunk_rows": 3},
    *({**SIZES, name: size} for name in SIZES for size in (0, -6, 1 << 40, "6", 2.0, None)),
    {"shard_rows": 9, "chunk_rows": 3},  # no whole batches
    {"shard_rows": 14, "chunk_rows": 3},  # no whole chunks
]


@pytest.mark.parametrize("form, changed", [*((3, sizes) for sizes in BAD_SIZES), (2, SIZES), (2, {"shard_rows": 12})])
def test_metadata_say_how_large_shards_are(path, form, changed):
    metadata = {key: value for key, value in read_metadata(str(path)).items() if key not in SIZES}
    write_metadata(str(path), {**metadata, "format": form, **changed})
    with pytest.raises(TransferError, match=r"zarr.json is damaged \(it describes no features\)"):
        read_metadata(str(path))


def test_a_store_begun_without_shards_goes_on_without(tmp_path, monkeypatch):
    """As versions before have begun it."""
    with monkeypatch.context() as patch:
        patch.setattr(sizes, "of_shards", lambda *_: {})
        with our_writer(tmp_path / "begun") as store:
            put(store, 4)
        complete(tmp_path / "wanted")
    complete(tmp_path / "begun")
    assert files_of(tmp_path / "begun") == files_of(tmp_path / "wanted")
    assert read_metadata(str(tmp_path / "begun"))["format"] == 2
