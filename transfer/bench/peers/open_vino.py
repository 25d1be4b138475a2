"""OpenVINO on a CPU, at the settings that were measured as its fastest for one batch at a time."""

from typing import Any

from transfer.bench.peers.case import Case, Prepared

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def request(case: Case) -> Prepared:
    """One stream with all threads (hint LATENCY); neither the images nor the features are copied.

    On 2 cores, VGG16, ResNet-50 and Inception v3 at 32 to 299 px: a stream a core, the batch split between them, is
    0 to 3 % faster; the hint THROUGHPUT, which leaves cores idle at one request at a time, half as fast.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(case.onnx())
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": case.threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[case.dtype],
    }
    ready = core.compile_model(model, "CPU", settings).create_infer_request()
    images = {0: case.channels_first()}

    def call() -> Any:
        return ready.infer(images, share_inputs=True, share_outputs=True)

    return case.prepared(call, lambda features: features[0])
