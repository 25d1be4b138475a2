"""What a peer's process is given, and the networks of ONNX Runtime, OpenVINO and Keras made of it.

What only one of them needs is imported by it; PyTorch's networks are in `transfer.bench.peer_torch`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from transfer.bench.worker import Prepared, Skipped, usable_cores

# Files of a case's folder.
WEIGHTS, IMAGES, ONNX = "weights.safetensors", "images.npy", "model.onnx"
# Of the batch: the images whose features are compared with ours.
COMPARED = [0, -1]
OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# Our architecture -> Keras' class; the record `ARCH.keras` says with which settings ours is that network.
APPLICATIONS = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "resnet50v2": "ResNet50V2",
    "resnet101v2": "ResNet101V2",
    "resnet152v2": "ResNet152V2",
    "inception_v3": "InceptionV3",
}
# Settings that only a classifier has a use for.
OF_CLASSIFIER = ("adaptive_pool", "num_classes")


@dataclasses.dataclass(frozen=True)
class PeerCase:
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


def onnx_runtime(case: PeerCase) -> Prepared:
    """ONNX Runtime with every graph optimisation on (its default), images from NumPy, as its users give them.

    Its threads may spin (its default): without, it is 5 % slower.
    """
    import onnxruntime

    if case.dtype != "float32":
        raise Skipped(f"ONNX Runtime computes convolutions in float32 only on a CPU, not in {case.dtype}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = usable_cores(), 1
    session = onnxruntime.InferenceSession(case.folder / ONNX, options, providers=["CPUExecutionProvider"])
    images = {"images": case.channels_first()}
    return case.prepared(lambda: session.run(None, images)[0])


def openvino(case: PeerCase) -> Prepared:
    """OpenVINO with one stream of all threads (hint LATENCY); neither the images nor the features are copied.

    The settings that were measured as its fastest for one batch at a time: on 2 cores, VGG16, ResNet-50 and Inception
    v3 at 32 to 299 px, a stream a core, the batch split between them, is 0 to 3 % faster; the hint THROUGHPUT, which
    leaves cores idle at one request at a time, half as fast.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[case.dtype],
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(case.folder / ONNX), "CPU", settings).create_infer_request()
    images = {0: case.channels_first()}
    return case.prepared(
        lambda: request.infer(images, share_inputs=True, share_outputs=True), lambda features: features[0]
    )


def keras_application(case: PeerCase) -> Prepared:
    """The network of `keras.applications` on Keras' JAX backend, images from NumPy, one jitted program."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    from transfer.weights import catalogue
    from transfer.weights.names import name_map

    if case.arch not in APPLICATIONS:
        raise Skipped(f"keras.applications has no {case.arch} of this layout")
    ours, theirs = (
        {name: value for name, value in dict(fields).items() if name not in OF_CLASSIFIER}
        for fields in (case.fields, catalogue.get(f"{case.arch}.keras").fields)
    )
    if ours != theirs:
        raise Skipped(f"keras.applications' {APPLICATIONS[case.arch]} is another network; it is {case.arch}.keras")
    keras.config.set_dtype_policy(case.dtype)
    images, arrays = case.images(), case.weights()
    model = getattr(keras.applications, APPLICATIONS[case.arch])(
        weights=None, include_top=False, pooling="avg", input_shape=images.shape[1:]
    )
    names = name_map(case.arch, "keras", {path: array.shape for path, array in arrays.items()})
    tensors = {source.name: arrays[path] for path, source in names.sources.items()}
    variables: Any = names.row.rename({variable.path: variable for variable in model.variables})
    for name, variable in variables.items():
        if name not in tensors:
            raise Skipped(f"keras.applications' network has {name}, ours has not")
        variable.assign(tensors[name])
    return case.prepared(lambda: model.predict_on_batch(images))
