"""What every peer is given: one network with its weights, and one batch of images."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from transfer.bench.worker import Prepared

# Files of a case's folder.
WEIGHTS, IMAGES, ONNX = "weights.safetensors", "images.npy", "model.onnx"
# Of the batch: the images whose features are compared with ours.
COMPARED = [0, -1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A network without classifier, up to `pre_logits`, and a batch for it, as files that any process can read.

    Attributes:
      arch: a key of `transfer.models.registry.architectures()`, built with `fields`.
      folder: holds the weights by our paths, the images (B, H, W, 3) float32, and the network as ONNX once that is
        exported.
      dtype: "float32" or "bfloat16", of parameters and activations.
    """

    arch: str
    fields: Mapping[str, Any]
    folder: Path
    dtype: str

    def images(self) -> np.ndarray:
        """The preprocessed batch, (B, H, W, 3) float32."""
        return np.load(self.folder / IMAGES)

    def channels_first(self) -> np.ndarray:
        """The preprocessed batch, (B, 3, H, W) float32."""
        return np.ascontiguousarray(self.images().transpose(0, 3, 1, 2))

    def weights(self) -> dict[str, np.ndarray]:
        """The network's arrays by our dotted paths, float32, in our layout."""
        return load_file(self.folder / WEIGHTS)

    def prepared(self, call: Callable[[], Any], numpy: Callable[[Any], np.ndarray] = np.asarray) -> Prepared:
        """A peer whose `call()` gives features, which `numpy` makes an array (B, D)."""
        return Prepared(call, lambda features: np.asarray(numpy(features), np.float32)[COMPARED])
