"""What every peer is given: one network with its weights, one batch of images, and how much of the machine to use."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from transfer.errors import TransferError

# Files of a case's folder.
WEIGHTS, IMAGES, ONNX = "weights.safetensors", "images.npy", "model.onnx"


class Skipped(TransferError):
    """A contender cannot run this case; the message is the reason, in one line."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network without classifier, up to `pre_logits`, and a batch for it, as files that any process can read.

    Attributes:
      arch: a key of `transfer.models.registry.architectures()`, built with `fields`.
      folder: holds the weights by our paths, the images (B, H, W, 3) float32, and the ONNX file or why there is none.
      dtype: "float32" or "bfloat16", of parameters and activations.
      threads: what a peer on a CPU may use.
      rows: of the batch, whose features are compared with ours.
    """

    arch: str
    fields: Mapping[str, Any]
    folder: Path
    dtype: str
    threads: int
    rows: tuple[int, ...]

    def images(self) -> np.ndarray:
        """(B, H, W, 3) float32, preprocessed."""
        return np.load(self.folder / IMAGES)

    def channels_first(self) -> np.ndarray:
        """(B, 3, H, W) float32."""
        return np.ascontiguousarray(self.images().transpose(0, 3, 1, 2))

    def weights(self) -> dict[str, np.ndarray]:
        """Our dotted path -> float32, in our layout."""
        return load_file(self.folder / WEIGHTS)

    def prepared(self, call: Callable[[], Any], numpy: Callable[[Any], np.ndarray] = np.asarray) -> "Prepared":
        """A peer whose `call()` gives features, which `numpy` makes an array (B, D)."""
        return Prepared(call, lambda features: np.asarray(numpy(features), np.float32)[list(self.rows)])

    def onnx(self) -> str:
        """Path of the network as ONNX, images (B, 3, H, W) in; Skipped where there is none."""
        path = self.folder / ONNX
        if path.is_file():
            return str(path)
        reason = path.with_suffix(".reason")
        raise Skipped(reason.read_text() if reason.is_file() else "there is no ONNX file of the network")


class Prepared(NamedTuple):
    """A contender that is ready.

    `call()` does the work once and returns when it is done; `report` of what it returns goes to the parent, once.
    """

    call: Callable[[], Any]
    report: Callable[[Any], Any]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
