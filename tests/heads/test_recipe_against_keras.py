"""The published recipe against Keras' own `fit`, on the same features: step by step, and as a distribution."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
import optax
import pytest

from transfer.heads import linear
from transfer.heads.gradient import keras_adam
from transfer.heads.linear_probe import LinearProbe

pytestmark = pytest.mark.usefixtures("compiled_quickly")

OURS = ("loss", "accuracy", "validation_loss", "validation_accuracy")
KERAS = ("loss", "accuracy", "val_loss", "val_accuracy")
WIDTH, CLASSES = 256, 10


def rows(num_rows, seed, scale=1.0):
    """Features as a backbone pools them, (N, 1, 1, D) and never negative, of classes that overlap."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=num_rows)
    features = np.maximum(centres[labels] + 4 * random.normal(size=(num_rows, WIDTH)), 0)
    return (scale * features[:, None, None]).astype(np.float32), labels


def keras_model(from_logits=False):
    dense = keras.layers.Dense(CLASSES, activation=None if from_logits else "softmax")
    model = keras.Sequential([keras.Input((1, 1, WIDTH)), keras.layers.Flatten(), dense])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits), metrics=["accuracy"])
    return model


# From probabilities Keras clips them at 1e-7, and a row below has no gradient; ours is the loss from logits, which
# does not. So the two agree exactly where no probability is so small: features of modest size.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rows", "batch_size", "scale", "from_logits"),
    [(1000, 256, 0.1, False), (512, 256, 1.0, True), (7, 3, 0.1, False)],
    ids=["partial last batch", "whole batches, from logits", "last batch of one row"],
)
def test_without_shuffling_every_epoch_is_that_of_keras(num_rows, batch_size, scale, from_logits):
    (x, y), (xv, yv) = rows(num_rows, 1, scale), rows(300, 2, scale)
    model = keras_model(from_logits)
    state = linear.init_state(WIDTH, CLASSES, jax.random.key(3))
    model.layers[-1].set_weights([np.asarray(state["params"][name]) for name in ("kernel", "bias")])
    history = model.fit(x, y, batch_size, epochs=8, validation_data=(xv, yv), shuffle=False, verbose=0).history

    epoch = linear.make_epoch(x, y, xv, yv, batch_size=batch_size, shuffle=False)
    for index in range(8):
        state, metrics = epoch(state, index)
        for ours, theirs in zip(OURS, KERAS, strict=True):
            np.testing.assert_allclose(metrics[ours], history[theirs][index], rtol=1e-5, err_msg=f"{ours}, {index}")
    for name, theirs in zip(("kernel", "bias"), model.layers[-1].get_weights(), strict=True):
        np.testing.assert_allclose(state["params"][name], theirs, rtol=1e-4, atol=1e-6)


def test_adam_has_its_epsilon_where_keras_has_it():
    """Gradients as small as epsilon itself, where the two places differ by far."""
    gradients = np.random.default_rng(0).normal(size=(30, 8)) * 10.0 ** np.arange(-9, -1)
    gradients = gradients.astype(np.float32)
    variable, theirs = keras.Variable(np.zeros(8, np.float32)), keras.optimizers.Adam(1e-3)
    theirs.build([variable])

    def run(optimiser):
        params, state, path = np.zeros(8, np.float32), optimiser.init(np.zeros(8, np.float32)), []
        for gradient in gradients:
            updates, state = optimiser.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            path.append(params)
        return np.stack(path)

    expected = []
    for gradient in gradients:
        theirs.apply([gradient])
        expected.append(keras.ops.convert_to_numpy(variable))
    np.testing.assert_allclose(run(keras_adam(1e-3)), expected, rtol=2e-4, atol=1e-9)
    assert np.abs(run(optax.adam(1e-3, eps=1e-7)) / expected - 1).max() > 1, "the test cannot tell the two apart"


@pytest.fixture(scope="module")
def final_metrics_of_keras():
    """Final metrics of five seeds of Keras' own fit; one model, compiled once, put back to a fresh start each time."""
    (x, y), validation = rows(1000, 1), rows(500, 2)
    model, finals = keras_model(), []
    model.optimizer.build(model.trainable_variables)
    fresh = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    for seed in range(5):
        keras.utils.set_random_seed(seed)
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        kernel = keras.initializers.GlorotUniform()((WIDTH, CLASSES))
        model.layers[-1].set_weights([np.asarray(kernel), np.zeros(CLASSES)])
        history = model.fit(x, y, 256, epochs=50, validation_data=validation, verbose=0).history
        finals.append([history[theirs][-1] for theirs in KERAS])
    return np.array(finals)


@pytest.mark.slow
def test_the_recipe_ends_within_the_spread_of_keras(final_metrics_of_keras):
    """The mean of our five seeds lies within the five of Keras, widened by their own standard deviation.

    Of two samples from one normal distribution 2.6 % would fail that. The seeds are fixed, so this pair of samples
    is always the same; tried, it fails for a learning rate 15 % off and for batches of 200.
    """
    (x, y), validation = rows(1000, 1), rows(500, 2)
    probes = [LinearProbe(epochs=50, seed=seed).fit(x, y, validation) for seed in range(5)]
    ours = np.mean([[probe.history_[name][-1] for name in OURS] for probe in probes], axis=0)
    deviation = final_metrics_of_keras.std(axis=0, ddof=1)
    low, high = final_metrics_of_keras.min(axis=0) - deviation, final_metrics_of_keras.max(axis=0) + deviation
    outside = {name: v for name, v, a, b in zip(OURS, ours, low, high, strict=True) if not a <= v <= b}
    assert not outside, f"ours {outside}, Keras\n{final_metrics_of_keras}"
