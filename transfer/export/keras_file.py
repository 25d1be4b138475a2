"""A head as a Keras model in a `.keras` file: rows of features (N, D) in, probabilities (N, C) out."""

import os
import tempfile
from pathlib import Path
from typing import Any

from transfer.errors import UsageError
from transfer.export.layers import Layers


def content(layers: Layers) -> bytes:
    """The bytes of the file; UsageError where Keras is not installed. Any of its backends reads it."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is here; Keras takes another where one is set
    try:
        import keras
    except ImportError as error:
        raise UsageError("--format=keras needs Keras: pip install keras") from error
    inputs: Any = keras.Input((layers.width,), dtype="float32", name="features")
    value = keras.layers.UnitNormalization(axis=-1, name="unit")(inputs) if layers.unit else inputs
    dense = []
    for number, kernel in enumerate(layers.kernels, 1):
        activation = layers.activation if number == len(layers.kernels) else "relu"
        dense.append(keras.layers.Dense(kernel.shape[1], activation=activation, name=f"dense{number}"))
        value = dense[-1](value)
    model = keras.Model(inputs, value, name="head")
    for layer, kernel, bias in zip(dense, layers.kernels, layers.biases, strict=True):
        layer.set_weights([kernel, bias])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "head.keras")
        model.save(path)
        return path.read_bytes()
