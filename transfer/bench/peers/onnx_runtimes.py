"""ONNX Runtime and OpenVINO on a CPU, on the ONNX file that PyTorch exported."""

from typing import Any

from transfer.bench.peers.case import ONNX, Case
from transfer.bench.worker import Prepared, Skipped, usable_cores

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def onnx_runtime(case: Case) -> Prepared:
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


def openvino(case: Case) -> Prepared:
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
        "INFERENCE_PRECISION_HINT": PRECISIONS[case.dtype],
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(case.folder / ONNX), "CPU", settings).create_infer_request()
    images = {0: case.channels_first()}

    def call() -> Any:
        return request.infer(images, share_inputs=True, share_outputs=True)

    return case.prepared(call, lambda features: features[0])
