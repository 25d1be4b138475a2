"""A head as a `.safetensors` file: `W1` (D, U), `b1` (U,), `W2`, …, the rest in the metadata, class names as JSON."""

import json

import numpy as np

from transfer.export.layers import Layers
from transfer.runtime.files import digest


def content(layers: Layers) -> bytes:
    """The bytes of the file; float32."""
    tensors: dict[str, np.ndarray] = {}
    for number, (kernel, bias) in enumerate(zip(layers.kernels, layers.biases, strict=True), 1):
        tensors |= {f"W{number}": kernel.copy(order="C"), f"b{number}": bias}
    metadata = {"unit_norm_first": str(layers.unit).lower(), "between": "relu", "activation": layers.activation}
    metadata["class_names"] = json.dumps(layers.class_names, ensure_ascii=False)
    return b"".join(bytes(piece) for piece in digest.safetensors(tensors, metadata))
