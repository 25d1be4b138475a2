"""The engine of trained heads: against Keras and NumPy, its dropout, its resumption, and what it refuses."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import gradient, linear, mlp, sgd
from transfer.heads.gradient import all_layers, dropout_by
from transfer.heads.targets import CRITERIA

WIDTH, OUTPUTS, ROWS = 6, 4, 30
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)
TARGETS = {
    "classes": RANDOM.integers(OUTPUTS, size=ROWS),
    "labels": RANDOM.integers(2, size=(ROWS, OUTPUTS)),
    "values": RANDOM.normal(size=(ROWS, OUTPUTS)).astype(np.float32),
}
WEIGHTS = np.array([2.0, 0.0, 0.5, 1.0], np.float32)


# Of Keras, whose own loss and optimiser: units of hidden layers, weight decay of AdamW, weights of classes.
AS_KERAS = {
    "two hidden layers, decayed": (mlp, {"hidden": (5, 3)}, {"dropout": 0.0, "weight_decay": 0.3}, None),
    "weighted classes": (linear, {}, {}, WEIGHTS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("program", "start", "given", "weights"), AS_KERAS.values(), ids=AS_KERAS.keys())
def test_without_shuffling_every_epoch_is_that_of_keras(program, start, given, weights):
    state = program.init_state(WIDTH, OUTPUTS, jax.random.key(0), **start)
    hidden = [keras.layers.Dense(units, "relu") for units in start.get("hidden", ())]
    model = keras.Sequential([keras.Input((WIDTH,)), *hidden, keras.layers.Dense(OUTPUTS)])
    for layer, ours in zip(model.layers, all_layers(state["params"]), strict=True):
        layer.set_weights([np.asarray(ours["kernel"]), np.asarray(ours["bias"])])
    decay = given.get("weight_decay")
    optimizer = keras.optimizers.AdamW(0.05, decay) if decay else keras.optimizers.Adam(0.05)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = TARGETS["classes"]
    by_class = None if weights is None else dict(enumerate(weights.tolist()))
    history = model.fit(X, y, 8, epochs=3, shuffle=False, class_weight=by_class, verbose=0).history

    epoch = program.make_epoch(X, y, batch_size=8, learning_rate=0.05, shuffle=False, class_weight=weights, **given)
    for index in range(3):
        state, metrics = epoch(state, index)
        np.testing.assert_allclose(metrics["loss"], history["loss"][index], rtol=1e-4)
    for layer, ours in zip(model.layers, all_layers(state["params"]), strict=True):
        for name, theirs in zip(("kernel", "bias"), layer.get_weights(), strict=True):
            np.testing.assert_allclose(ours[name], theirs, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(program.logits(state["params"], X), model.predict(X, verbose=0), rtol=1e-3, atol=1e-4)


def numpy_error(kind, scores, targets):
    """Gradient of each row's loss by its scores."""
    if kind == "values":
        return scores - targets
    if kind == "labels":
        return 1 / (1 + np.exp(-scores)) - targets
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) - np.eye(OUTPUTS)[targets]


def numpy_sgd(kind, kernel, bias, *, epochs, batch_size, rate, momentum, decay, weights):
    """Linear SGD as PyTorch steps (buffer = momentum buffer + gradient; w -= rate buffer), its rate annealed."""
    y, steps = TARGETS[kind], -(-ROWS // batch_size)
    params, buffers = [kernel.astype(np.float64), bias.astype(np.float64)], [0.0, 0.0]
    for t in range(epochs * steps):
        taken = slice(t % steps * batch_size, (t % steps + 1) * batch_size)
        error = numpy_error(kind, X[taken] @ params[0] + params[1], y[taken])
        error = error * (weights[y[taken]][:, None] if weights is not None else 1) / len(error)
        slopes = [X[taken].T @ error + decay * params[0], error.sum(axis=0)]
        buffers = [momentum * buffer + slope for buffer, slope in zip(buffers, slopes, strict=True)]
        now = rate * (1 + np.cos(np.pi * t / (epochs * steps))) / 2
        params = [param - now * buffer for param, buffer in zip(params, buffers, strict=True)]
    return params


@pytest.mark.parametrize(
    ("kind", "decay", "weights"),
    [
        ("classes", 0.2, WEIGHTS),
        pytest.param("labels", 0.0, None, marks=pytest.mark.slow),
        pytest.param("values", 0.2, None, marks=pytest.mark.slow),
    ],
)
def test_sgd_is_that_of_numpy(kind, decay, weights):
    state = sgd.init_state(WIDTH, OUTPUTS, sgd.init_key(0))
    assert 0.003 < np.std(state["params"]["kernel"]) < 0.02 and not np.any(state["params"]["bias"])
    start = (np.asarray(state["params"][name]) for name in ("kernel", "bias"))
    expected = numpy_sgd(kind, *start, epochs=3, batch_size=8, rate=0.1, momentum=0.8, decay=decay, weights=weights)
    given = {"epochs": 3, "momentum": 0.8, "shuffle": False, "weight_decay": decay, "class_weight": weights}
    epoch = sgd.make_epoch(X, TARGETS[kind], X, TARGETS[kind], batch_size=8, kind=kind, **given)
    for index in range(3):
        state, metrics = epoch(state, index)
    for name, ours in zip(("kernel", "bias"), expected, strict=True):
        np.testing.assert_allclose(state["params"][name], ours, rtol=1e-4, atol=1e-5)
    scores = X @ expected[0] + expected[1]
    losses = CRITERIA[kind].losses(scores.T.astype(np.float32), jnp.asarray(TARGETS[kind]))
    np.testing.assert_allclose(metrics["validation_loss"], np.mean(losses), rtol=1e-4)  # of rows without weights
    score = f"validation_{CRITERIA[kind].score}"
    np.testing.assert_allclose(metrics[score], score_of(kind, scores), rtol=1e-4, atol=1e-5)
    after, _ = epoch(state, 3)
    jax.tree.map(np.testing.assert_array_equal, after["params"], state["params"])  # the schedule has ended


def score_of(kind, scores):
    y = TARGETS[kind]
    if kind == "classes":
        return np.mean(scores.argmax(axis=1) == y)
    if kind == "labels":
        return np.mean((scores > 0) == y)
    return 1 - np.mean(((scores - y) ** 2).mean(axis=0) / y.var(axis=0))


def test_dropout_leaves_out_its_share_of_units_and_makes_up_for_it():
    units = jnp.ones((200, 300))
    one, other = (dropout_by(0.3, jax.random.key(seed))(0, units) for seed in (0, 1))
    np.testing.assert_allclose(np.unique(one), [0, 1 / 0.7], rtol=1e-6)
    assert abs(np.mean(one == 0) - 0.3) < 0.01 and abs(np.mean((one == 0) & (other == 0)) - 0.09) < 0.01
    assert np.any(one != dropout_by(0.3, jax.random.key(0))(1, units)), "layers share their bits"


@pytest.mark.slow
def test_dropout_is_of_training_alone_and_decided_by_seed_and_epoch():
    start = mlp.init_state(WIDTH, OUTPUTS, mlp.init_key(0), hidden=(16,))

    def trained(seed, index, dropout):
        epoch = mlp.make_epoch(X, TARGETS["classes"], batch_size=8, seed=seed, dropout=dropout, shuffle=False)
        return np.asarray(epoch(start, index)[0]["params"]["kernel"]).tobytes()

    assert trained(0, 0, 0.5) == trained(0, 0, 0.5)
    assert len({trained(seed, index, 0.5) for seed in (0, 1) for index in (0, 1)}) == 4
    assert len({trained(seed, index, 0.0) for seed in (0, 1) for index in (0, 1)}) == 1
    scores = mlp.logits(start["params"], X)
    np.testing.assert_array_equal(scores, mlp.logits(start["params"], X))


@pytest.mark.slow
@pytest.mark.parametrize("program", [sgd, mlp], ids=["sgd", "mlp"])
def test_a_run_resumed_from_its_checkpoint_is_the_uninterrupted_one_bit_for_bit(program, tmp_path):
    import orbax.checkpoint as ocp

    y = TARGETS["classes"]
    epoch = program.make_epoch(X, y, X, y, batch_size=8, learning_rate=0.05, seed=3, weight_decay=0.1, epochs=4)

    def run(state, start, stop):
        lines = []
        for index in range(start, stop):
            state, metrics = epoch(state, index)
            lines.append({name: float(value) for name, value in metrics.items()})
        return state, lines

    start = program.init_state(WIDTH, OUTPUTS, program.init_key(7))
    whole, expected = run(start, 0, 4)
    state, first = run(start, 0, 2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    resumed, rest = run(restored, 2, 4)
    assert first + rest == expected
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_heads_that_differ_in_rates_share_a_compilation():
    state, programs = mlp.init_state(WIDTH, OUTPUTS, mlp.init_key(0)), set()
    for rate, dropout, decay in ((0.1, 0.5, 0.1), (0.2, 0.3, 0.2)):
        given = dict(batch_size=8, learning_rate=rate, dropout=dropout, weight_decay=decay)
        mlp.make_epoch(X, TARGETS["classes"], **given)(state, 0)
        programs.add(gradient.jitted_epoch._cache_size())
    assert len(programs) == 1


Y = TARGETS["classes"]
BAD = {
    "learning rate": (UsageError, "learning_rate must be a number above 0, not 0", lambda: epoch_of(linear, rate=0)),
    "weight decay": (UsageError, "weight_decay must be a number 0 or more", lambda: epoch_of(sgd, weight_decay=-1)),
    "dropout": (UsageError, "dropout must be a number from 0 to below 1", lambda: epoch_of(mlp, dropout=1.0)),
    "batch size": (UsageError, "batch_size must be at least 1, not 0", lambda: epoch_of(sgd, batch_size=0)),
    "kind": (UsageError, "kind='rows' is not one of classes, labels, values", lambda: epoch_of(sgd, kind="rows")),
    "no layer": (
        UsageError,
        r"hidden=\(\) must be the units",
        lambda: mlp.init_state(2, 2, jax.random.key(0), hidden=()),
    ),
    "no unit": (UsageError, "each at least 1", lambda: mlp.init_state(2, 2, jax.random.key(0), hidden=(4, 0))),
    "few weights": (
        UsageError,
        "class_weight must be 4 weights or more",
        lambda: epoch_of(sgd, class_weight=WEIGHTS[:2]),
    ),
    "negative weights": (UsageError, "none below 0", lambda: epoch_of(sgd, class_weight=-WEIGHTS)),
    "weights of labels": (UsageError, "for one class a row", lambda: epoch_of(sgd, "labels", class_weight=WEIGHTS)),
    "labels": (RowsError, "labels must be 0 or 1", lambda: sgd.make_epoch(X, Y, kind="labels")),
    "other outputs": (
        TransferError,
        "head has 9 outputs, but rows have 4 values",
        lambda: epoch_of(sgd, "values", outputs=9),
    ),
    "other width": (TransferError, "takes 5 features a row, but rows have 6", lambda: epoch_of(mlp, width=5)),
}


def epoch_of(program, kind="classes", *, width=WIDTH, outputs=OUTPUTS, batch_size=8, rate=0.1, **settings):
    given = dict(batch_size=batch_size, learning_rate=rate, kind=kind, **settings)
    epoch = program.make_epoch(X, TARGETS.get(kind, Y), **given)
    return epoch(program.init_state(width, outputs, program.init_key(0)), 0)


@pytest.mark.parametrize(("error", "message", "wrong"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_one_clear_line(error, message, wrong):
    with pytest.raises(error, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)
