"""Run by `test_eight_devices.py` under pytest, with eight CPU devices: heads over a mesh equal those on one device."""

import functools

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding

from transfer.errors import UsageError
from transfer.heads import gradient, linear
from transfer.runtime import preemption
from transfer.runtime.devices import head_mesh
from transfer.training.loop import run_epochs
from transfer.training.parallel import batches, shuffle, step
from transfer.training.parallel.epochs import MeshTrainer
from transfer.training.parallel.reader import Split

# Relative to the largest value: sums of a few hundred float32 products, added in another order.
TOLERANCE = 1e-5


def mesh_of(data, model):
    assert jax.device_count() == 8
    return Mesh(np.array(jax.devices()[: data * model]).reshape(data, model), ("data", "model"))


@functools.cache
def rows(num_rows, classes, width=6):
    random = np.random.default_rng(num_rows)
    labels = random.integers(classes, size=num_rows)
    features = random.normal(size=(num_rows, width)) + labels[:, None] / 2
    return features.astype(np.float32), labels


def on_mesh(mesh, x, y):
    """Row blocks, as owned by the devices; R, and how many rows each has."""
    devices = mesh.shape["data"]
    block = -(-len(x) // devices)
    features = np.zeros((devices * block, *x.shape[1:]), x.dtype)
    labels = np.zeros(devices * block, np.int32)
    features[: len(x)], labels[: len(x)] = x, y
    real = np.clip(len(x) - np.arange(devices) * block, 0, block).astype(np.int32)
    put = functools.partial(jax.device_put, device=NamedSharding(mesh, step.ROWS))
    return (put(features), put(labels)), block, put(real)


def close(found, expected):
    scale = max(float(np.abs(expected).max()), 1e-30)
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(expected) / scale, atol=TOLERANCE, rtol=0)


CASES = {
    # (rows, classes, batch size), (devices along data, along model), whether the number of steps is compiled in
    "one row, classes without a device": ((1, 2, 4), (2, 4), True),
    "fewer rows than devices": ((7, 3, 16), (8, 1), False),
    "rows that do not divide": ((333, 4, 64), (8, 1), True),
    "classes that do not divide": ((333, 5, 64), (4, 2), False),
    "classes that divide": ((1003, 12, 256), (2, 4), True),
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_is_that_of_one_device(case):
    (num_rows, classes, batch_size), (data, model), known = CASES[case]
    (x, y), mesh = rows(num_rows, classes), mesh_of(data, model)
    state = linear.init_state(6, classes, linear.init_key(0))
    expected, metrics = linear.make_epoch(x, y, x, y, batch_size=batch_size, learning_rate=0.02, seed=3)(state, 5)

    arrays, block, real = on_mesh(mesh, x, y)
    permuted = shuffle.permutation(num_rows, 3, 5)
    width = batches.usual_width(batch_size, data, block)
    indices, sizes = batches.assign_rows_to_devices(permuted // block, permuted % block, batch_size, data, width)
    indices = jax.device_put(indices.reshape(len(indices), -1), NamedSharding(mesh, step.BATCHES))
    start = jax.device_put(state, step.state_sharding(state, mesh))
    num_steps = len(sizes) if known else None
    found, sums = step.train(start, step.Batches(*arrays, indices, sizes), 0.02, mesh=mesh, num_steps=num_steps)

    jax.tree.map(close, (found["params"], found["opt_state"]), (expected["params"], expected["opt_state"]))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, found, start))
    close(sums / num_rows, np.array([metrics["loss"], metrics["accuracy"]]))
    sums = step.evaluate(found["params"], *arrays, real, mesh=mesh)
    close(sums / num_rows, np.array([metrics["validation_loss"], metrics["validation_accuracy"]]))


def test_rows_are_evaluated_some_at_a_time(monkeypatch):
    monkeypatch.setattr(step, "EVALUATED", 100)
    (x, y), mesh = rows(1003, 13), mesh_of(2, 4)
    params = linear.init_state(6, 13, linear.init_key(1))["params"]
    arrays, _, real = on_mesh(mesh, x, y)
    sums = step.evaluate(params, *arrays, real, mesh=mesh)
    close(sums / 1003, np.array(gradient.evaluate(params, gradient.Examples(x, y))))


def test_equal_scores_are_right_for_the_first_class_only():
    mesh = mesh_of(2, 4)
    params = {"kernel": np.zeros((6, 8), np.float32), "bias": np.zeros(8, np.float32)}
    x, y = np.ones((16, 6), np.float32), np.arange(16) % 8
    arrays, _, real = on_mesh(mesh, x, y)
    assert float(step.evaluate(params, *arrays, real, mesh=mesh)[1]) == 2


@pytest.mark.parametrize("data, model, steps, reductions", [(8, 1, None, 1), (4, 2, 5, 3)])
def test_one_reduction_a_step(data, model, steps, reductions):
    """And two more over `model`, none over `data`."""
    mesh = mesh_of(data, model)
    arguments = step.abstract_arguments(mesh, 100, 16, 32, 10, steps or 7, "bfloat16")
    text = step.train.lower(*arguments, mesh=mesh, num_steps=steps).compile().as_text()
    assert text.count(" all-reduce(") == reductions and "all-gather" not in text and "all-to-all" not in text
    state, (*rows, _, _), _ = step.abstract_arguments(mesh, 100, 16, 32, 10, 1)
    num_rows = jax.ShapeDtypeStruct((data,), np.int32, sharding=rows[1].sharding)
    text = step.evaluate.lower(state["params"], *rows, num_rows, mesh=mesh).compile().as_text()
    assert text.count(" all-reduce(") == reductions and "all-gather" not in text


def test_weights_are_sharded_as_are_their_moments():
    state = linear.init_state(6, 8, linear.init_key(0))
    wide = step.state_sharding(state, mesh_of(2, 4))
    kernels = [s.spec for s, leaf in zip(jax.tree.leaves(wide), jax.tree.leaves(state), strict=True) if leaf.ndim == 2]
    assert len(kernels) == 3 and set(kernels) == {jax.sharding.PartitionSpec(None, "model")}
    odd = step.state_sharding(linear.init_state(6, 7, linear.init_key(0)), mesh_of(2, 4))
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(odd))


def epochs_on(mesh, num_rows, classes, batch_size, dtype=np.float32, **settings):
    """Epochs, and their first state."""
    x, y = rows(num_rows, classes)
    xv, yv = rows(num_rows // 2 + 1, classes)
    splits = Split(x.astype(dtype), y), Split(xv.astype(dtype), yv)
    found = MeshTrainer(*splits, classes, mesh, batch_size, 0.02, seed=3, **settings)
    return found, found.shard_state(linear.init_state(6, classes, linear.init_key(0)))


# Windows that end within a batch; batches longer than a window; chunks that are fewer than the devices.
STREAMED = {
    "windows": ((333, 4, 32), dict(chunk_rows=8, window_rows=100)),
    "batches longer than a window": ((200, 4, 96), dict(chunk_rows=4, window_rows=20)),
    "fewer chunks than devices": ((50, 3, 16), dict(chunk_rows=16, window_rows=1000)),
}


@pytest.mark.parametrize("case", STREAMED)
def test_streamed_is_in_memory_in_the_same_order(case):
    size, chunks = STREAMED[case]
    dtype = ml_dtypes.bfloat16 if case == "windows" else np.float32
    mesh = mesh_of(4, 2)
    held, state = epochs_on(mesh_of(1, 1), *size, dtype, order="chunks", **chunks)
    expected, metrics = held.epoch(state, 1)
    streamed, state = epochs_on(mesh, *size, dtype, order="chunks", stream=True, **chunks)
    parts = list(streamed(state, [1]))
    jax.tree.map(close, parts[-1].state, expected)
    assert parts[-1].metrics() == pytest.approx(metrics, rel=TOLERANCE)
    # from every place within the epoch the rest is the same, bit for bit
    for part in parts[:-1:2]:
        *_, last = streamed(part.state, [1], part.position())
        jax.tree.map(np.testing.assert_array_equal, last.state, parts[-1].state)
        assert last.metrics() == parts[-1].metrics()


def test_features_in_bfloat16_are_computed_with_in_float32():
    rounded, state = epochs_on(mesh_of(4, 2), 200, 4, 32, ml_dtypes.bfloat16)
    found, metrics = rounded.epoch(state, 0)
    x, y = rows(200, 4)
    x = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    start = linear.init_state(6, 4, linear.init_key(0))
    expected, on_one = linear.make_epoch(x, y, batch_size=32, learning_rate=0.02, seed=3)(start, 0)
    jax.tree.map(close, found["params"], expected["params"])
    assert metrics["loss"] == pytest.approx(float(on_one["loss"]), rel=TOLERANCE)


def test_a_long_epoch_is_several_calls(monkeypatch):
    whole, state = epochs_on(mesh_of(8, 1), 333, 4, 16)
    expected, metrics = whole.epoch(state, 0)
    monkeypatch.setattr(batches, "MOST_BATCHES", 8)
    parts = list(whole(state, [0]))
    assert [part.position()["batches"] for part in parts[:3]] == [7, 14, 21]
    jax.tree.map(close, parts[-1].state, expected)
    *_, last = whole(parts[1].state, [0], parts[1].position())
    jax.tree.map(np.testing.assert_array_equal, last.state, parts[-1].state)
    assert last.metrics() == parts[-1].metrics() == pytest.approx(metrics, rel=TOLERANCE)


def test_a_run_goes_on_on_another_mesh(tmp_path):
    """Within an epoch on eight devices, then on two by four, then on one, by the program for one."""
    chunks = dict(order="chunks", chunk_rows=8, window_rows=100)
    held, state = epochs_on(mesh_of(1, 1), 333, 4, 32, **chunks)
    whole = run_epochs(held, state, 3, epath.Path(tmp_path / "whole"))

    def stopping(*arguments):
        """Asks for the end within the second epoch."""
        for count, part in enumerate(streamed(*arguments)):
            if count == 8:
                preemption.request()
            yield part

    workdir = epath.Path(tmp_path / "run")
    streamed, state = epochs_on(mesh_of(8, 1), 333, 4, 32, stream=True, **chunks)
    try:
        with pytest.raises(preemption.Preempted):
            run_epochs(stopping, state, 3, workdir)
    finally:
        preemption._requested.clear()
    assert (workdir / "checkpoints_within_epoch").exists() and not (workdir / "checkpoints").exists()
    wide, state = epochs_on(mesh_of(2, 4), 333, 4, 32, stream=True, **chunks)
    run = run_epochs(wide, state, 2, workdir)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, run.state, state))
    alone, state = epochs_on(mesh_of(1, 1), 333, 4, 32, **chunks)
    run = run_epochs(alone, state, 3, workdir)
    jax.tree.map(close, run.state, whole.state)
    jax.tree.map(close, run.best, whole.best)
    assert [row["loss"] for row in run.history] == pytest.approx([row["loss"] for row in whole.history], rel=TOLERANCE)


def test_meshes_of_heads():
    assert head_mesh().shape == {"data": 1, "model": 1}
    assert head_mesh(4, 2).shape == {"data": 4, "model": 2}
    for asked in ((5, 2), (None, 2)):
        with pytest.raises(UsageError, match="a head's devices"):
            head_mesh(*asked)
