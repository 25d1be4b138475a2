"""Heads on the rows of a feature store, one device, read as training goes; and which heads are trained so."""

from functools import partial
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest

from transfer import config as settings
from transfer.errors import TransferError, UsageError
from transfer.heads import linear
from transfer.runtime import devices, distributed
from transfer.store.store import FeatureStore
from transfer.store.writer import StoreWriter
from transfer.training.parallel import placement, step
from transfer.training.parallel.batches import Resident, Streamed
from transfer.training.parallel.epochs import MeshTrainer, prefetched
from transfer.training.parallel.reader import Piece, Reader, Split, pieces

ROWS, WIDTH, CLASSES, CHUNK = 203, 6, 4, 8
SKIPPED = [0, 17, 18, 96, 202]


@pytest.fixture(scope="module")
def mesh():
    return devices.head_mesh()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in bfloat16 that lacks some images, and what it holds."""
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=ROWS)
    features = (random.normal(size=(ROWS, WIDTH)) + labels[:, None]).astype(np.float32)
    path = tmp_path_factory.mktemp("store")
    with StoreWriter(
        path,
        taps={"pre_logits": (WIDTH,)},
        labels=labels,
        ids=[f"image {row}" for row in range(ROWS)],
        class_names="abcd",
        data="made",
        fingerprint={},
        batch_size=CHUNK,
        features_dtype="bfloat16",
    ) as writer:
        for start in range(0, ROWS, CHUNK):
            batch = features[start : start + CHUNK]
            writer.write(start, {"pre_logits": batch}, [row for row in SKIPPED if start <= row < start + len(batch)])
        writer.finish()
    kept = np.delete(np.arange(ROWS), SKIPPED)
    return FeatureStore.open(path), features[kept].astype(ml_dtypes.bfloat16), labels[kept]


def test_streamed_from_a_store_that_lacks_images(store, mesh):
    found, features, labels = store
    given = dict(batch_size=32, learning_rate=0.02, order="chunks", chunk_rows=CHUNK, window_rows=50)
    streamed = Split(found.features, found.label_rows)
    held = Split(features, labels)
    trainers = [MeshTrainer(rows, rows, CLASSES, mesh, stream=rows is streamed, **given) for rows in (streamed, held)]
    assert [type(trainer._train) for trainer in trainers] == [Streamed, Resident]
    states = [trainer.shard_state(linear.init_state(WIDTH, CLASSES, linear.init_key(0))) for trainer in trainers]
    for index in range(2):
        pairs = zip(trainers, states, strict=True)
        (one, metrics), (other, expected) = (trainer.epoch(state, index) for trainer, state in pairs)
        states = [one, other]
        assert metrics == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(one["params"]["kernel"], other["params"]["kernel"], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("compiled_quickly")
def test_an_epoch_on_one_device_is_that_of_the_head_s_own_program(mesh):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(21, 4)).astype(np.float32), random.integers(0, 3, 21)
    xv, yv = x[::-1] * 2, y[::-1].copy()
    given = dict(batch_size=8, learning_rate=0.1, seed=3)
    trainer = MeshTrainer(Split(x, y), Split(xv, yv), 3, mesh, **given)
    start = linear.init_state(4, 3, linear.init_key(0))
    expected, metrics = linear.make_epoch(x, y, xv, yv, **given)(start, 5)
    state, found = trainer.epoch(trainer.shard_state(start), 5)
    assert found == pytest.approx({name: float(value) for name, value in metrics.items()}, rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, expected)


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("size", [1, 4, 10])
def test_rows_are_evaluated_some_at_a_time_and_once(size, mesh, monkeypatch):
    """Nine of ten rows; of equal scores the first class is the answer."""
    monkeypatch.setattr(step, "EVALUATED", size)
    step.evaluate.clear_cache()
    random = np.random.default_rng(0)
    x, y = random.integers(-2, 3, (10, 2)).astype(np.float32), np.arange(10, dtype=np.int32) % 4
    params = {"kernel": np.array([[1, 1, 2, 0], [1, 1, 0, 2]], np.float32), "bias": np.zeros(4, np.float32)}
    sums = step.evaluate(params, x, y, np.array([9], np.int32), mesh=mesh)
    step.evaluate.clear_cache()
    scores = x[:9] @ params["kernel"]
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(9), y[:9]]
    assert (np.sort(scores)[:, -1] == np.sort(scores)[:, -2]).any(), "some are equal"
    np.testing.assert_allclose(sums, [losses.sum(), (scores.argmax(axis=1) == y[:9]).sum()], rtol=1e-5)


def test_a_place_in_another_order_is_refused(mesh):
    x, y = np.zeros((100, 3), np.float32), np.zeros(100, int)

    def epochs(window):
        made = MeshTrainer(Split(x, y), None, 2, mesh, 8, order="chunks", window_rows=window, chunk_rows=4, stream=True)
        return made, made.shard_state(linear.init_state(3, 2, linear.init_key(0)))

    one, state = epochs(20)
    part = next(one(state, [0]))
    position = part.position()
    chunks = {"order": "chunks", "num_rows": 100, "chunk_rows": 4, "window_rows": 20}
    assert position.pop("sums")[0] == pytest.approx(16 * np.log(2), rel=0.05)  # all features are 0
    assert position == {"epoch": 0, "batches": 2, "order": {"batch_size": 8, "shuffle": True, **chunks}}
    by_rows = MeshTrainer(Split(x, y), None, 2, mesh, 8)
    order = next(by_rows(by_rows.shard_state(state), [0])).position()["order"]
    assert order == {"batch_size": 8, "order": "rows", "num_rows": 100, "shuffle": True}
    other, state = epochs(40)
    with pytest.raises(TransferError, match="train on the same features with the same settings"):
        next(other(state, [0], part.position()))


X, Y = np.ones((20, 3), np.float32), np.arange(20) % 4
BAD = {
    "no row": (X[:0], Y[:0], "features are empty"),
    "no column": (X[:, :0], Y, "validation features are 0 a row"),
    "NaN": (np.where(np.arange(60).reshape(20, 3) == 40, np.nan, X), Y, "NaN or infinity in row 13"),
    "float32 overflow": (X.astype(float) * 1e60, Y, "NaN or infinity in row 0"),
    "lengths": (X, Y[:9], "20 rows of features but 9 validation labels"),
    "strings": (X.astype(str), Y, "must be numbers"),
    "one-hot labels": (X, np.eye(4)[Y], "one label a row"),
    "fractions": (X, Y + 0.5, "labels must be whole numbers"),
    "another class": (X, np.where(np.arange(20) == 7, 4, Y), "label of row 7 is 4, but the head has 4 classes"),
    "negative": (X, np.where(np.arange(20) == 7, -1, Y), "label of row 7 is -1"),
    "width": (np.ones((20, 4)), Y, "validation features are 4 a row, training features 3"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("stream", [True, False])
def test_rows_that_no_head_can_use(case, stream, mesh):
    x, y, message = BAD[case]
    with pytest.raises(TransferError, match=message) as caught:
        made = MeshTrainer(Split(X, Y), Split(x, y), 4, mesh, 8, order="chunks", stream=stream)
        made.epoch(made.shard_state(linear.init_state(3, 4, linear.init_key(0))), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "labels", [Y, Y[:, None], Y.astype(float), Y.astype("u1")], ids=["int", "column", "float", "byte"]
)
def test_rows_of_any_kind_of_number(dtype, labels):
    x = np.arange(60).reshape(20, 3, 1, 1).astype(dtype)
    reader = Reader(Split(x, labels), 4)
    features, read = buffers = reader.buffers(20)
    reader.fill([(buffers, pieces(0, 20, 8))])
    assert features.dtype == (dtype if dtype is ml_dtypes.bfloat16 else "float32")
    np.testing.assert_array_equal(features.astype(float), x.reshape(20, 3).astype(float))
    assert read.dtype == np.int32 and read.tolist() == labels.reshape(-1).tolist()


def test_pieces_end_where_chunks_do():
    assert pieces(5, 21, 8) == [(0, 5, 8), (3, 8, 16), (11, 16, 21)]
    assert pieces(8, 16, 8) == [(0, 8, 16)] and pieces(3, 3, 8) == []


def test_prefetching_keeps_the_order_and_hands_errors_on():
    def items():
        yield from range(3)
        raise TransferError("no more")

    found = prefetched(items())
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TransferError, match="no more"):
        next(found)
    assert list(prefetched(iter(()))) == []


def test_reading_holds_nothing_of_what_it_does_not_fill():
    reader = Reader(Split(X.astype(ml_dtypes.bfloat16), Y), 4)
    features, labels = reader.buffers(30)
    assert features.dtype == ml_dtypes.bfloat16 and features.shape == (30, 3)
    reader.fill([((features, labels), [Piece(20, 4, 8), Piece(24, 8, 10)])])
    np.testing.assert_array_equal(labels[20:26], Y[4:10])
    assert not features[:20].any() and not features[26:].any()


SHOTS = {"per_class": 1, "heads": ("ridge",)}
SPREAD = [{"stream": True, "head.order": "chunks"}, {"mesh.data": 1}, {"mesh.model": 2}]


def config_of(changed):
    config = settings.default()
    config.few_shot = changed.get("few_shot")
    config.update_from_flattened_dict({name: value for name, value in changed.items() if name != "few_shot"})
    return config


def choose(size, dtype="float32", within=False, reason=None, **changed):
    sizes = {"train": size - 3, "validation": 3}
    return placement.choose(config_of(changed), sizes, dtype, within, reason)


def test_rows_are_streamed_where_they_do_not_fit(monkeypatch):
    monkeypatch.setattr(devices, "host_memory", lambda: 1000)
    assert choose(250).single_device
    assert not choose(250, "bfloat16").single_device and not choose(250, within=True).single_device
    with pytest.raises(TransferError, match="config.head.order=chunks streams them, config.stream=False holds them"):
        choose(251)
    assert choose(251, **{"stream": False}).single_device
    assert choose(251, **{"head.order": "chunks"}).stream
    held = choose(251, **{"head.order": "chunks", "stream": False})
    assert not held.stream and not held.single_device


def test_memory_of_this_machine():
    assert 1 << 27 < devices.host_memory() < 1 << 50
    assert devices.memory_limit(devices.head_mesh()) == devices.host_memory()


@pytest.mark.parametrize(
    "reason, changed, message",
    [
        (None, {"head.order": "random"}, "config.head.order='random' is not one of rows, chunks"),
        (None, {"stream": True}, "take config.head.order=chunks with it"),
        (None, {"head.window": 9}, "has no use with config.head.order=rows"),
        (None, {"mesh.data": 99}, "config.mesh.data=99, config.mesh.model=1: a head's devices"),
        (None, {"few_shot": SHOTS, "stream": True, "head.order": "chunks"}, "config.few_shot compares features in the"),
        *(("config.sweep", changed, "^config.sweep needs one device that holds all rows") for changed in SPREAD),
    ],
)
def test_settings_that_contradict_each_other(reason, changed, message):
    with pytest.raises(UsageError, match=message):
        placement.check(config_of(changed), reason)


@pytest.mark.parametrize(
    "reason, changed",
    [
        (None, {}),
        (None, {"few_shot": SHOTS}),
        (None, {"few_shot": SHOTS, "stream": False, "head.order": "chunks"}),
        (None, {"stream": True, "head.order": "chunks", "head.window": 9}),
        (None, {"mesh.data": 1, "mesh.model": 1}),
        ("config.sweep", {"stream": False}),
    ],
)
def test_settings_that_go_together(reason, changed):
    placement.check(config_of(changed), reason)


def test_what_one_process_must_hold_is_refused_in_several(monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    placement.check(config_of({}))
    with pytest.raises(UsageError, match="^config.sweep needs one process; in several, train config.head.name=linear"):
        placement.check(config_of({}), "config.sweep")


def test_an_accelerator_gives_half_of_its_memory(monkeypatch):
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]), size=1)
    monkeypatch.setattr(devices, "head_mesh", lambda data, model: mesh)
    monkeypatch.setattr(devices, "memory_limit", lambda mesh: 1000)
    assert choose(500).single_device
    with pytest.raises(TransferError, match="too much to be held in memory"):
        choose(501)
    with pytest.raises(
        TransferError, match="the features take 2.5 GB, .* config.sweep needs them there, and config.str"
    ):
        choose(2_500_000_000, reason="config.sweep")
