"""The mutations that change nothing which can be observed, and why; read by `tests/campaigns/mutations.py`."""

from collections.abc import Mapping, Sequence

# What no test can notice: path -> (the line as it stands, the change, why).
EQUIVALENT: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "transfer/bench/machine.py": [
        (
            "values = np.random.default_rng(0).standard_normal((len(devices), MATRIX, MATRIX), np.float32)",
            "0 -> 1",
            "any numbers take as long",
        ),
    ],
    "transfer/bench/peers.py": [
        ("if not error <= TOLERANCES[dtype]:", "<= -> <", "an error is never the tolerance to the last bit"),
    ],
    "transfer/bench/table.py": [
        ('return f"{value:.0f}" if value >= 100 else f"{value:.3g}"', ">= -> >", "both forms write 100"),
    ],
    "transfer/cli/doctor.py": [
        ("if time.monotonic() > end:", "> -> >=", "a clock is never equal to a float"),
    ],
    "transfer/data/decode.py": [
        (
            'tag, kind, count = struct.unpack_from(order + "HHI", tiff, at)',
            '"HHI" -> "HHIx"',
            "a cut that only the ninth byte notices cuts the value, too",
        ),
    ],
    "transfer/data/frames.py": [
        ("powers = (1 << exponent for exponent in range(4, 32))", "32 -> 33", "no image has a side of 2**31 pixels"),
    ],
    "transfer/evaluation/intervals.py": [
        (
            "z2 = _nearest_alternative(lambda shares: shares.difference <= 0, down, up, rows).z2",
            "<= -> <",
            "a real number that is searched for is never exactly 0",
        ),
    ],
    "transfer/experiment/workdirs.py": [
        (
            'first, mark = distributed.broadcast([str(workdir), mark], "workdir")',
            '"workdir" -> "workdirx"',
            "what processes call a value that they exchange is for themselves",
        ),
    ],
    "transfer/heads/estimator.py": [
        ('if getattr(X, "ndim", 0) > 2:', "0 -> 1", "what has no ndim is not above 2 either way"),
    ],
    "transfer/heads/logistic_path.py": [
        (
            "0 if size > small else (1 << max(size - 1, least - 1).bit_length()) - size",
            "> -> >=",
            "of the power of two that `small` is, the other branch is 0, too",
        ),
        (
            "low, high = jnp.where(there < 0, step, low), jnp.where(there > 0, step, high)",
            "< -> <=",
            "a slope of exactly 0 ends that head's search",
        ),
    ],
    "transfer/heads/scaling.py": [
        (
            "factors = jnp.where(counts, jnp.sqrt(jnp.maximum(num_rows - 1, 1)) / jnp.where(counts, singular, 1), 0)",
            "1 -> 2",
            "the inner 1 is masked by the outer where",
        ),
    ],
    "transfer/heads/temperature.py": [
        (
            "return float(weight @ (total - inverse * score_of_right) / weight.sum())",
            "/ -> *",
            "a loss times a positive constant has the same minimum",
        ),
    ],
    "transfer/models/graph/trace.py": [
        (
            "low = max(0, (size - 1) * stride + window - source[axis]) // 2",
            "0 -> 1",
            "halved and rounded down, both are 0",
        ),
    ],
    "transfer/models/layers.py": [
        ("SMALL_SIDE = 8", "8 -> 9", "which of two equal computations runs"),
    ],
    "transfer/report/svg.py": [
        (
            "width, height = round(frame.at_x(x[1]) - left, 2), round(frame.at_y(y[0]) - top, 2)",
            "2 -> 3",
            "differences of numbers with two decimals",
        ),
        (
            'place: dict[str, Any] = {"x": round(x, 2), "y": round(y, 2)}',
            "2 -> 3",
            "texts stand at places with two decimals at most",
        ),
    ],
    "transfer/runtime/files/untrusted.py": [
        (
            'text = text[: length + 1].decode("latin1")',
            "1 -> 2",
            "one byte more than fits is enough to know that more follows",
        ),
    ],
    "transfer/runtime/rendezvous.py": [
        ("data = self.socket.recv(1 << 16)", "1 -> 2", "the size of a piece"),
        ("data = self.socket.recv(1 << 16)", "16 -> 17", "the size of a piece"),
        ("connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)", "1 -> 2", "any number but 0 is on"),
    ],
    "transfer/runtime/tables.py": [
        (
            'usual, first = "left" if left is None else "right", ["left"] * (left or 0)',
            "0 -> 1",
            "where left is None, all columns are left already",
        ),
        (
            'usual, first = "left" if left is None else "right", ["left"] * (left or 0)',
            '"left" -> "leftx"',
            "tabulate takes an unknown word for left",
        ),
    ],
    "transfer/runtime/timing.py": [
        ("first = done % len(names) if names else 0", "0 -> 1", "a slice of an empty list"),
    ],
    "transfer/store/images.py": [
        ("READ_AT_ONCE = 64", "64 -> 65", "how work is cut up"),
    ],
    "transfer/store/verify.py": [
        ("READERS = 4", "4 -> 5", "how many threads read"),
    ],
    "transfer/training/parallel/epochs.py": [
        (
            'pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")',
            '"prefetch" -> "prefetchx"',
            "a thread's name is seen in a debugger",
        ),
    ],
    "transfer/weights/onnx/operators.py": [
        (
            '"GlobalMaxPool": functools.partial(spatial.global_pool, op="max_pool"),',
            '"max_pool" -> "max_poolx"',
            "no model has one, so that it is refused by either name",
        ),
    ],
}
