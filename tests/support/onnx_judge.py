"""What is made of an ONNX file of `golden.onnx_around`, judged by ONNX Runtime: the same outputs, or one line."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing, normalise
from transfer.weights import create_model

# Of the largest logit.
SAME, SAME_OF_HALVES = 1e-4, 3e-2
ACCEPTED, REFUSED, WRONG = "accepted", "refused", "wrong"
LAST_STEPS = ("Softmax", "LogSoftmax")
# Where the file leaves the size open, networks are tried at another one too.
MORE_PIXELS = 33


class Verdict(NamedTuple):
    """`outcome`, and why: the message of a refusal, or how far outputs are apart, or what else went wrong."""

    outcome: str
    why: str


class NoJudge(Exception):
    """ONNX Runtime itself takes the file for no network."""


def judge(path: Path, case: Mapping[str, Any]) -> Verdict:
    """The verdict on a file; `case` says what it was made of (`onnx_around.Plan.case`)."""
    session = session_of(path)
    sides = [case["side"]] + ([case["side"] + MORE_PIXELS] if case["is_open"] == "size" else [])
    batch = 1 if not case["is_open"] else 2
    given = [pixels(batch, side) for side in sides]
    expected = []
    for images in given:
        try:
            expected.append(run(session, as_given(images, case), case))
        except NoJudge:
            if not expected:
                raise
    try:
        model: Any = create_model(case["name"], path, **case["fields"])
    except (TransferError, UsageError) as error:
        is_line = str(error) and "\n" not in str(error)
        return Verdict(REFUSED if is_line else WRONG, str(error))
    except Exception as error:
        return Verdict(WRONG, f"{type(error).__name__}: {error}")
    recipe = model.preprocessing if case["most"] or case["name"] == case["arch"] else None
    tolerance = SAME_OF_HALVES if case["is_half"] else SAME
    worst = 0.0
    for images, theirs in zip(given, expected, strict=False):
        try:
            ours = outputs(model, case, images, recipe)
        except UsageError:
            if worst or theirs is expected[0]:
                raise
            continue  # a size that this architecture does not take
        if ours.shape != theirs.shape:
            return Verdict(WRONG, f"shapes {ours.shape} and {theirs.shape}")
        worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)))
        if not worst <= tolerance:  # not a number, too
            return Verdict(WRONG, f"an error of {worst:.2g} of the largest output at {images.shape[1]} pixels")
    return Verdict(ACCEPTED, f"{worst:.1e}")


@functools.cache
def pixels(batch: int, side: int) -> np.ndarray:
    """(B, H, W, 3) uint8 images: areas that a global pool tells apart, and noise."""
    numbers = np.random.default_rng(side)
    areas = numbers.integers(0, 170, (batch, 4, 4, 3)).repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)
    return (areas[:, :side, :side] + numbers.integers(0, 86, (batch, side, side, 3))).astype(np.uint8)


def as_given(images: np.ndarray, case: Mapping[str, Any]) -> np.ndarray:
    """The images as the network of the file takes them, channels last: pixels, or numbers from 0 to 1."""
    return images.astype(np.float32) / (1 if case["most"] == 255 else 255)


def session_of(path: Path) -> Any:
    """ONNX Runtime with a file; what goes into a last softmax is its last output."""
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    last = {output: node for node in model.graph.node for output in node.output}.get(model.graph.output[0].name)
    while last is not None and last.op_type == "Cast":
        last = {output: node for node in model.graph.node for output in node.output}.get(last.input[0])
    if last is not None and last.op_type in LAST_STEPS:
        model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NoJudge(str(error)) from error


def run(session: Any, images: np.ndarray, case: Mapping[str, Any]) -> np.ndarray:
    """What ONNX Runtime makes of images with the channels last."""
    given = images if case["channels_last"] else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    source = session.get_inputs()[0]
    try:
        made = session.run(None, {source.name: given.astype(np.float16 if "16" in source.type else np.float32)})
    except Exception as error:
        raise NoJudge(str(error)) from error
    return np.asarray(made[-1], np.float32)


def outputs(model: Any, case: Mapping[str, Any], images: np.ndarray, recipe: Preprocessing | None) -> np.ndarray:
    """What a model of ours makes of pixels, by its preprocessing where that is the file's."""
    made = normalise(recipe, images) if recipe else as_given(images, case)
    fields = tuple(sorted({**case["fields"], "num_classes": model.num_classes}.items()))
    run_model = compiled(case["arch"], fields, images.shape)
    ours = np.asarray(run_model(nnx.state(model), np.asarray(made)))
    return ours if model.num_classes else ours.reshape(len(ours), -1)


@functools.cache
def compiled(arch: str, fields: tuple[tuple[str, Any], ...], shape: tuple[int, ...]) -> Any:
    """One program for all models of one shape, whatever file they are from."""
    graphdef, _ = nnx.split(registry.build(arch, seed=None, **dict(fields)))
    fast = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda state, images: nnx.merge(graphdef, state)(images)[0], compiler_options=fast)
