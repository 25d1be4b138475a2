"""ONNX Runtime on a CPU, every graph optimisation on (its default)."""

from transfer.bench.peers.case import Case, Prepared, Skipped


def session(case: Case) -> Prepared:
    """Images from NumPy, as its users give them. Its threads may spin (its default): without, it is 5 % slower."""
    import onnxruntime

    if case.dtype != "float32":
        raise Skipped(f"ONNX Runtime computes convolutions in float32 only on a CPU, not in {case.dtype}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    ready = onnxruntime.InferenceSession(case.onnx(), options, providers=["CPUExecutionProvider"])
    images = {ready.get_inputs()[0].name: case.channels_first()}
    return case.prepared(lambda: ready.run(None, images)[0])
