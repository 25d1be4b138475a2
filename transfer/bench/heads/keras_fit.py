"""Keras' `fit` on its JAX backend, as the published lab calls it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.bench.heads.case import EPSILON, LEARNING_RATE, HeadCase, accuracy
from transfer.bench.worker import Prepared


def fit(case: HeadCase) -> Prepared:
    """Compiled once: every call starts from the first weights and a new state of Adam."""
    model = _model(case)
    arrays = case.arrays()
    variables = [*model.variables, *model.optimizer.variables]
    first = [variable.numpy() for variable in variables]

    def call() -> Any:
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
        return _fitted(model, case, arrays)

    return Prepared(call, lambda head: _score(head, arrays))


def fit_new(case: HeadCase) -> Prepared:
    """A new model every time, as who trains another head has it: Keras compiles each anew."""
    import_keras()
    arrays = case.arrays()
    return Prepared(lambda: _fitted(_model(case), case, arrays), lambda head: _score(head, arrays))


def import_keras() -> Any:
    """Keras on JAX, whatever the environment says."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    return keras


def _model(case: HeadCase) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(case.seed)
    model = keras.Sequential([keras.Input((case.features,)), keras.layers.Dense(case.classes, activation="softmax")])
    adam = keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    adam.build(model.trainable_variables)
    return model


def _fitted(model: Any, case: HeadCase, arrays: Sequence[np.ndarray]) -> Any:
    x, y, *validation = arrays
    model.fit(x, y, case.batch, case.epochs, verbose=0, validation_data=tuple(validation) if case.validates else None)
    return model


def _score(model: Any, arrays: Sequence[np.ndarray]) -> float:
    return accuracy(model.predict(arrays[2], verbose=0), arrays[3])
