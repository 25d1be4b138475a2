"""The epoch program: against NumPy, its shuffle, its resumption, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import TransferError, UsageError
from transfer.heads import gradient, linear


def rows(num_rows, width=6, classes=4, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(num_rows, width)).astype(np.float32), random.integers(classes, size=num_rows)


def numpy_epoch(kernel, bias, x, y, order, batch_size, learning_rate):
    """One epoch from fresh moments in float64, written from the recipe's formulas alone."""
    params = [kernel.astype(np.float64), bias.astype(np.float64)]
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    total_loss, right = 0.0, 0
    for t, start in enumerate(range(0, len(x), batch_size), 1):
        taken = order[start : start + batch_size]
        scores = x[taken] @ params[0] + params[1]
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        total_loss -= np.log(p[np.arange(len(taken)), y[taken]]).sum()
        right += (scores.argmax(axis=1) == y[taken]).sum()
        error = (p - np.eye(len(bias))[y[taken]]) / len(taken)
        for i, slope in enumerate((x[taken].T @ error, error.sum(axis=0))):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * slope**2
            rate = learning_rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            params[i] = params[i] - rate * first[i] / (np.sqrt(second[i]) + 1e-7)
    return params, total_loss / len(x), right / len(x)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 48), seed=st.integers(0, 9), index=st.integers(0, 99))
def test_one_epoch_is_that_of_numpy(num_rows, batch_size, seed, index):
    x, y = rows(num_rows, seed=seed)
    state = linear.init_state(6, 4, linear.init_key(seed))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(seed), index), num_rows))
    kernel, bias = (np.asarray(state["params"][name]) for name in ("kernel", "bias"))
    expected, loss, accuracy = numpy_epoch(kernel, bias, x, y, order, batch_size, 0.01)

    state, metrics = linear.make_epoch(x, y, batch_size=batch_size, learning_rate=0.01, seed=seed)(state, index)
    np.testing.assert_allclose(state["params"]["kernel"], expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state["params"]["bias"], expected[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)


def test_first_weights_are_those_of_glorot_and_bias_is_zero():
    params = linear.init_state(200, 40, linear.init_key(0))["params"]
    limit = np.sqrt(6 / (200 + 40))
    assert 0.99 * limit < np.abs(params["kernel"]).max() <= limit
    np.testing.assert_allclose(np.std(params["kernel"]), limit / np.sqrt(3), rtol=0.02)
    assert not np.any(params["bias"])


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(num_rows=st.integers(1, 50), batch_size=st.integers(1, 60), shuffled=st.booleans())
def test_every_row_is_in_one_batch_and_only_the_last_is_partial(num_rows, batch_size, shuffled):
    with jax.disable_jit():
        taken, real = gradient._batches(num_rows, batch_size, jax.random.key(1) if shuffled else None)
    taken, real = np.asarray(taken), np.asarray(real)
    assert sorted(taken[real == 1]) == list(range(num_rows))
    assert (real[:-1] == 1).all()
    assert real[-1].sum() == num_rows - (len(real) - 1) * min(batch_size, num_rows) > 0


def test_the_shuffle_is_fresh_each_epoch_and_decided_by_seed_and_epoch():
    x, y = rows(64)
    start = linear.init_state(6, 4, jax.random.key(0))

    def kernel(seed, index):
        state, _ = linear.make_epoch(x, y, batch_size=8, seed=seed)(start, index)
        return np.asarray(state["params"]["kernel"]).tobytes()

    assert kernel(0, 0) == kernel(0, 0)
    assert len({kernel(seed, index) for seed in (0, 1) for index in (0, 1)}) == 4


def test_a_run_resumed_from_its_checkpoint_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    import orbax.checkpoint as ocp

    (x, y), (xv, yv) = rows(100), rows(30, seed=1)

    def run(state, start, stop):
        epoch, lines = linear.make_epoch(x, y, xv, yv, batch_size=32, learning_rate=0.05, seed=3), []
        for index in range(start, stop):
            state, metrics = epoch(state, index)
            lines.append({name: float(value) for name, value in metrics.items()})
        return state, lines

    start = linear.init_state(6, 4, jax.random.key(7))
    whole, expected = run(start, 0, 6)
    for stop in (1, 4):
        state, first = run(start, 0, stop)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(stop), state)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / str(stop), jax.tree.map(jnp.zeros_like, state))
        assert int(restored["epoch"]) == stop
        resumed, rest = run(restored, stop, 6)
        assert first + rest == expected
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_rows_are_arguments_of_the_program_not_constants_in_it():
    state = linear.init_state(6, 4, jax.random.key(0))
    losses, programs = [], set()
    for seed in range(3):
        given = dict(batch_size=8, learning_rate=1e-3 * (seed + 1), seed=seed)
        _, metrics = linear.make_epoch(*rows(33, seed=seed), **given)(state, seed)
        losses.append(float(metrics["loss"]))
        programs.add(gradient.jitted_epoch._cache_size())
    assert len(set(losses)) == 3
    assert len(programs) == 1, "other rows of the same shape compiled again"


def test_features_of_any_shape_and_labels_in_a_column_are_flattened():
    x, y = rows(20)
    flat = linear.make_epoch(x, y, x, y, batch_size=8)(linear.init_state(6, 4, jax.random.key(0)), 0)
    column, bytes_ = y[:, None], y[:, None].astype(np.uint8)
    shaped = linear.make_epoch(x.reshape(20, 1, 2, 3), column, x.reshape(20, 3, 1, 2), bytes_, batch_size=8)
    jax.tree.map(np.testing.assert_array_equal, flat, shaped(linear.init_state(6, 4, jax.random.key(0)), 0))


X, Y = rows(10)
WITH_NAN = np.where(np.arange(60).reshape(10, 6) == 21, np.nan, X)
BAD_ROWS = {
    "no row": ((X[:0], Y[:0], None, None), "features are empty"),
    "no column": ((X[:, :0], Y, None, None), "features are empty: a row has no value"),
    "NaN": ((WITH_NAN, Y, None, None), "NaN or infinity in 1 of 10 rows, first in row 3"),
    "infinity": ((X, Y, np.full_like(X, np.inf), Y), "validation features have NaN or infinity in 10 of 10"),
    "float32 overflow": ((X.astype(np.float64) * 1e60, Y, None, None), "NaN or infinity"),
    "lengths": ((X, Y[:9], None, None), "10 rows of features but 9 labels"),
    "validation lengths": ((X, Y, X, Y[:4]), "10 rows of features but 4 validation labels"),
    "no validation labels": ((X, Y, X, None), "10 rows of features but no validation labels"),
    "one-hot labels": ((X, np.eye(4)[Y], None, None), "one label a row"),
    "strings": ((X.astype(str), Y, None, None), "features must be numbers"),
    "objects": ((X, np.array([None] * 10), None, None), "labels must be whole numbers"),
    "fractions": ((X, Y + 0.5, None, None), "labels must be whole numbers"),
    "NaN label": ((X, np.where(Y == 0, np.nan, Y), None, None), "labels must be whole numbers"),
    "negative": ((X, Y - 1, None, None), "labels run from -1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_rows_that_no_head_can_use_are_one_clear_line(arguments, message):
    with pytest.raises(TransferError, match=message) as caught:
        linear.make_epoch(*arguments)
    assert "\n" not in str(caught.value)


def test_a_head_of_another_size_is_refused_before_any_work():
    epoch = linear.make_epoch(X, Y)
    with pytest.raises(TransferError, match="takes 5 features a row, but rows have 6"):
        epoch(linear.init_state(5, 4, jax.random.key(0)), 0)
    with pytest.raises(TransferError, match="labels reach 3, but the head has 3 classes"):
        epoch(linear.init_state(6, 3, jax.random.key(0)), 0)
    with pytest.raises(UsageError, match="batch_size must be at least 1, not 0"):
        linear.make_epoch(X, Y, batch_size=0)
    with pytest.raises(UsageError, match="the head takes no momentum; it takes epochs, batch_size"):
        linear.make_epoch(X, Y, momentum=0.5)
