"""Other libraries that run our networks on the very same weights, to be timed side by side with ours.

Each peer lives in a process of its own, which sleeps on a pipe while others run. The thread pools of several
libraries in one process might spin against each other; they do not. ResNet-50 at 32 px, batch 64, 2 cores: every
ratio to OpenVINO was within 2 % of the same ratio taken in one process, whether ours ran beside them or in the
parent. What decides is that Keras needs other settings of JAX than we do, that a library may end its process, and
that nobody imports what only a peer needs.
"""

import dataclasses
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.bench.peers import case as cases
from transfer.bench.peers.case import Case, Skipped
from transfer.bench.peers.worker import Worker
from transfer.errors import UsageError

if TYPE_CHECKING:
    from flax import nnx

# Largest difference from our features, relative to the largest of them, at which a peer is the same network.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}


@dataclasses.dataclass(frozen=True)
class Peer:
    """How a peer is built: `build` is `module:function` (see `Worker`), `needs` are packages, `platforms` JAX's."""

    build: str
    needs: tuple[str, ...]
    platforms: tuple[str, ...] = ("cpu",)


# A new peer is one file and one line.
PEERS = {
    "torch eager": Peer(f"{__name__}.torch_cpu:eager", ("torch", "torchvision")),
    "torch.compile": Peer(f"{__name__}.torch_cpu:compiled", ("torch", "torchvision")),
    "ONNX Runtime": Peer(f"{__name__}.onnx_runtime:session", ("onnx", "onnxruntime")),
    "OpenVINO": Peer(f"{__name__}.open_vino:request", ("onnx", "openvino")),
    "torch.compile max-autotune": Peer(f"{__name__}.torch_gpu:compiled", ("torch", "torchvision"), ("gpu",)),
    "Keras (JAX)": Peer(f"{__name__}.keras_jax:application", ("keras",), ("cpu", "gpu")),
}


class Peers:
    """The peers that run, ready and compared with ours; use it in a `with`, which ends their processes.

    Attributes:
      run: name -> worker; calling it computes the batch once and returns when that is done, `timed(seconds)` gives the
        seconds a call.
      skipped: name -> reason, one line.
      errors: name -> largest difference from our features, relative to the largest of them.
      weights: a native file with the weights that all of them hold; `create_model(name, weights=…, num_classes=0)`.
      images: (B, H, W, 3) float32, preprocessed: the batch.
    """

    def __init__(self, folder: "tempfile.TemporaryDirectory[str]", case: Case) -> None:
        self.weights, self.images = case.folder / cases.WEIGHTS, case.images()
        self.run: dict[str, Worker] = {}
        self.skipped: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self._folder = folder

    def __enter__(self) -> "Peers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and removes the files."""
        for worker in self.run.values():
            worker.close()
        self._folder.cleanup()


def contenders(
    model_name: str,
    image_size: int | tuple[int, int],
    batch: int,
    dtype: str = "float32",
    seed: int = 0,
    *,
    only: Sequence[str] | None = None,
    platform: str | None = None,
    model: "nnx.Module | None" = None,
    **fields: Any,
) -> Peers:
    """Starts every peer on `model_name` up to its `pre_logits`, with random weights and images from `seed`.

    Args:
      model_name: a catalogue name (its settings count, not its weights) or an architecture.
      image_size: pixels, square or (height, width).
      batch: images a call.
      dtype: "float32" or "bfloat16".
      only: names of `PEERS`; None: all.
      platform: "cpu" or "gpu"; None: JAX's own.
      model: what `model_name` builds, with or without classifier, whose weights are taken instead of random ones.
      fields: of the architecture, over the record's.

    Raises:
      UsageError: an unknown model, field, dtype or peer, or images too small for the model.
    """
    if dtype not in TOLERANCES:
        raise UsageError(f"dtype={dtype!r} is not one of {', '.join(TOLERANCES)}")
    unknown = set(only or ()) - PEERS.keys()
    if unknown:
        raise UsageError(f"unknown peer {', '.join(sorted(unknown))}; known are {', '.join(PEERS)}")
    # late: a peer's process imports this file, too, and has no use for JAX
    import jax

    from transfer.bench.peers.network import make_case

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    folder = tempfile.TemporaryDirectory(prefix="transfer_peers_")
    peers = None
    try:
        shape = (batch, height, width, 3)
        case, expected = make_case(model_name, shape, dtype, seed, Path(folder.name), fields, model)
        peers = Peers(folder, case)
        for name in PEERS if only is None else only:
            _start(peers, name, case, expected, platform or jax.default_backend())
    except BaseException:
        (folder.cleanup if peers is None else peers.close)()
        raise
    return peers


def _start(peers: Peers, name: str, case: Case, expected: np.ndarray, platform: str) -> None:
    """Puts the peer into `peers.run`, or the reason why not into `peers.skipped`."""
    try:
        _require(PEERS[name], platform)
        worker = Worker(name, PEERS[name].build, case)
        error = relative_error(worker.report, expected)
        if not error <= TOLERANCES[case.dtype]:
            worker.close()
            raise Skipped(f"another network: its features differ from ours by {error:.1e} of the largest")
    except Skipped as reason:
        peers.skipped[name] = str(reason)
    else:
        peers.run[name], peers.errors[name] = worker, error


def _require(peer: Peer, platform: str) -> None:
    if platform not in peer.platforms:
        raise Skipped(f"runs on a {' or a '.join(peer.platforms).upper()} only")
    missing = [package for package in peer.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}; the extra [peers] has all of them")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest of `expected`; infinite for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())
