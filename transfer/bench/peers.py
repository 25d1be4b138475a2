"""Other libraries on the network of a row and its very weights, to be timed side by side with ours.

Each peer lives in a process of its own, which sleeps on a pipe while others run. The thread pools of several
libraries in one process might spin against each other; they do not. ResNet-50 at 32 px, batch 64, 2 cores: every
ratio to OpenVINO was within 2 % of the same ratio taken in one process, whether ours ran beside them or in the
parent. What decides is that Keras needs other settings of JAX than we do, that a library may end its process, and
that nobody imports what only a peer needs.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from transfer.bench.cases import Network
from transfer.bench.peer_libraries import COMPARED, IMAGES, ONNX, WEIGHTS, PeerCase
from transfer.bench.worker import Skipped, Worker, require
from transfer.models import registry
from transfer.weights import native

TAP = "pre_logits"
# Largest difference from our features, relative to the largest of them, at which a peer is the same network.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}


class Peer(NamedTuple):
    """The way to build a peer: `module:function` as `Worker` takes it, the packages and JAX platforms that it needs.

    `reads_onnx`: whether it runs the network from an ONNX file, which PyTorch exports.
    """

    builder: str
    packages: tuple[str, ...]
    platforms: tuple[str, ...] = ("cpu",)
    reads_onnx: bool = False


TORCH, LIBRARIES = "transfer.bench.peer_torch", "transfer.bench.peer_libraries"
TORCH_PACKAGES = ("torch", "torchvision")
EXPORTED = (*TORCH_PACKAGES, "onnxscript")
# A new peer is one function and one line.
PEERS = {
    "torch eager": Peer(f"{TORCH}:eager", TORCH_PACKAGES),
    "torch.compile": Peer(f"{TORCH}:compiled", TORCH_PACKAGES),
    "ONNX Runtime": Peer(f"{LIBRARIES}:onnx_runtime", (*EXPORTED, "onnxruntime"), reads_onnx=True),
    "OpenVINO": Peer(f"{LIBRARIES}:openvino", (*EXPORTED, "openvino"), reads_onnx=True),
    "torch.compile max-autotune": Peer(f"{TORCH}:compiled_on_gpu", TORCH_PACKAGES, ("gpu",)),
    "Keras (JAX)": Peer(f"{LIBRARIES}:keras_application", ("keras",), ("cpu", "gpu")),
}


@dataclasses.dataclass(frozen=True)
class Peers:
    """The peers that run, ready and compared with ours.

    Attributes:
      case: what all of them were given.
      workers: name -> worker; calling it computes the batch once and returns when that is done.
      errors: name -> largest difference from our features, relative to the largest of them.
      skipped: name -> why it does not run, one line.
    """

    case: PeerCase
    workers: dict[str, Worker] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def start_peers(
    network: Network,
    batch: int,
    dtype: str,
    seed: int,
    names: Sequence[str] = tuple(PEERS),
    platform: str | None = None,
) -> Iterator[Peers]:
    """Starts peers on the network and random images from `seed`; their processes end with the context.

    Args:
      network: without a classifier.
      batch: images a call.
      dtype: "float32" or "bfloat16".
      names: of `PEERS`.
      platform: "cpu" or "gpu"; None: JAX's own.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transfer_peers_")))
        peers = Peers(PeerCase(network.arch, network.fields, folder, dtype))
        images = np.random.default_rng(seed).standard_normal((batch, *network.preprocessing.image_size, 3), np.float32)
        np.save(folder / IMAGES, images)
        description = native.describe(network.arch, network.fields)
        native.write(folder / WEIGHTS, registry.flat_state(network.model), description)
        network.model.eval()
        with jax.default_matmul_precision("highest"):
            compute = nnx.jit(lambda model, images: model(images)[1][TAP])
            expected = np.asarray(compute(network.model, images[COMPARED]))
        for name in names:
            try:
                worker = _start(PEERS[name], peers.case, platform or jax.default_backend())
                stack.callback(worker.close)
                error = relative_error(worker.report, expected)
                if not error <= TOLERANCES[dtype]:
                    worker.close()
                    raise Skipped(f"another network: its features differ from ours by {error:.1e} of the largest")
            except Skipped as reason:
                peers.skipped[name] = str(reason)
            else:
                peers.workers[name], peers.errors[name] = worker, error
        yield peers


def _start(peer: Peer, case: PeerCase, platform: str) -> Worker:
    if platform not in peer.platforms:
        raise Skipped(f"runs on a {' or a '.join(peer.platforms).upper()} only")
    require(peer.packages)
    if peer.reads_onnx and not (case.folder / ONNX).exists():
        # in a process of its own, which leaves no threads of PyTorch's beside the runtime's
        Worker(f"{TORCH}:export", case).close()
    return Worker(peer.builder, case)


def relative_error(features: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest of `expected`; infinite for another shape."""
    if features.shape != expected.shape:
        return float("inf")
    return float(np.abs(features - expected).max() / np.abs(expected).max())
