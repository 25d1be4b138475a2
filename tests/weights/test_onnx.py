"""Graphs that exporters wrote, filled with numbers, against ONNX Runtime: through `create_model` and `convert`."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from golden import onnx_graphs, seeded

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import create_model
from transfer.weights.create import convert_file
from transfer.weights.verify import verify

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Of the largest logit. Measured: at most 3e-6.
TOLERANCE = 2e-5
RECORDS = {
    "googlenet": "googlenet.tv",
    "inception_v3": "inception_v3.tv",
    "resnet50": "resnet50.tv1",
    "vgg16": "vgg16.tv",
}
# Channel counts are divided by 8, where that leaves one for each group.
DIVISORS = {"lenet5": 1, "resnext50_32x4d": 4}
FULL_SIZE = ("resnet50.dynamo", "inception_v3.legacy")


def our_name(graph: str) -> str:
    """The catalogue name where exports have the fields of a record, else the architecture."""
    arch, _, exporter = graph.partition(".")
    return f"{arch}.keras" if exporter == "keras" else RECORDS.get(arch, arch)


def divisor(graph: str) -> int:
    return DIVISORS.get(graph.partition(".")[0], 8)


def save(model: Any, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def logits_of_onnx_runtime(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, H, W, C) and what ONNX Runtime makes of them at the graph's last output."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = tuple(session.get_inputs()[0].shape)
    batch, *sides = shape if isinstance(shape[0], int) else (1, *shape[1:])
    channels_first = sides[0] in (1, 3)
    images = seeded.images((batch, *sides[1:], sides[0]) if channels_first else (batch, *sides))
    given = images.transpose(0, 3, 1, 2) if channels_first else images
    return images, session.run(None, {session.get_inputs()[0].name: given})[-1]


@functools.cache
def compiled(arch: str, fields: tuple[tuple[str, Any], ...]) -> Any:
    """One program for all models of one shape, whatever file they are from."""
    graphdef, _ = nnx.split(registry.build(arch, seed=None, **dict(fields)))
    # compiled in a third of the time
    fast = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda state, images: nnx.merge(graphdef, state)(images)[0], compiler_options=fast)


def logits(model: nnx.Module, images: np.ndarray, arch: str, **fields: Any) -> np.ndarray:
    record = getattr(model, "record", None)
    fields = dict(record.fields if record else ()) | fields | {"num_classes": model.num_classes}
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled(arch, tuple(sorted(fields.items())))(nnx.state(model), images))


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest logit."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("graph", onnx_graphs.names())
def test_logits_equal_onnx_runtimes(graph: str, tmp_path: Path) -> None:
    path = save(onnx_graphs.model(graph, divisor(graph)), tmp_path / "model.onnx")
    images, expected = logits_of_onnx_runtime(path)
    fields = {"width": 1 / divisor(graph)}
    ours = logits(create_model(our_name(graph), weights=path, **fields), images, graph.partition(".")[0], **fields)
    assert error(ours, expected) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("graph", FULL_SIZE)
def test_the_convert_verb_at_full_size(graph: str, tmp_path: Path) -> None:
    path = save(onnx_graphs.model(graph), tmp_path / "model.onnx")
    images, expected = logits_of_onnx_runtime(path)
    arch, name = graph.partition(".")[0], our_name(graph)
    assert convert_file(path, name, tmp_path / "ours.safetensors") == len(
        registry.flat_state(create_model(arch, False))
    )
    path.unlink()
    ours = logits(create_model(name, weights=tmp_path / "ours.safetensors"), images, arch)
    assert error(ours, expected) <= TOLERANCE


def test_an_export_can_be_verified(tmp_path: Path) -> None:
    """No hash is published for it; it fails where its classes are not the record's."""
    path = save(onnx_graphs.model("resnet18.unfolded"), tmp_path / "model.onnx")
    lines: list[str] = []
    with pytest.raises(TransferError, match="load: 102 arrays, .* which is not resnet18.tv with its 11,689,512"):
        verify("resnet18.tv", path, report=lines.append)
    assert [line.split()[0] for line in lines] == ["hash", "logits"] and "none is published for this file" in lines[0]
