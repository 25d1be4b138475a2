"""Makes the case that peers are given: a network with random weights, images, and what our own model makes of them."""

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.bench.peers import case as cases
from transfer.bench.peers import onnx_graph
from transfer.bench.peers.case import Case, Skipped
from transfer.models import registry
from transfer.weights import catalogue, native

TAP = "pre_logits"
# Batch norm and biases are uniform between these: no layer may be left out, and the deepest networks stay finite.
RANGES = {"scale": (0.3, 0.8), "bias": (-0.2, 0.2), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}


def make_case(
    model_name: str,
    images_shape: tuple[int, int, int, int],
    dtype: str,
    seed: int,
    folder: Path,
    fields: Mapping[str, Any],
    model: nnx.Module | None = None,
) -> tuple[Case, np.ndarray]:
    """Fills `folder`; returns the case and our features (2, D) of its first and last image, in full precision.

    The weights are those of `model`, or random. Raises UsageError: an unknown model or field, or images too small.
    """
    arch, fields = catalogue.architecture(model_name, {**fields, "num_classes": 0})
    model = random_model(arch, fields, seed) if model is None else _without_classifier(model, arch, fields)
    images = np.random.default_rng(seed).standard_normal(images_shape, np.float32)
    case = Case(arch, fields, folder, dtype, cases.usable_cores(), rows=(0, len(images) - 1))
    expected = _features(model, images[list(case.rows)])
    arrays = registry.flat_state(model)
    native.write(folder / cases.WEIGHTS, arrays, native.describe(arch, fields))
    np.save(folder / cases.IMAGES, images)
    if importlib.util.find_spec("onnx") is not None:
        _write_onnx(model, images_shape, folder)
    return case, expected


def random_model(arch: str, fields: Mapping[str, Any], seed: int) -> nnx.Module:
    """A model with He-uniform kernels (arXiv:1502.01852), and batch norm and biases far from ones and zeros."""
    model = registry.build(arch, seed=None, **fields)
    generator = np.random.default_rng(seed)

    def drawn(path: str, shape: tuple[int, ...]) -> jax.Array:
        he = math.sqrt(6 / math.prod(shape[:-1]))
        low, high = RANGES.get(path.rpartition(".")[2], (-he, he))
        return jnp.asarray(generator.random(shape, np.float32) * np.float32(high - low) + np.float32(low))

    shapes = {path: array.shape for path, array in registry.flat_state(model).items()}
    registry.load_flat_state(model, {path: drawn(path, shape) for path, shape in shapes.items()})
    return model


def _without_classifier(model: nnx.Module, arch: str, fields: Mapping[str, Any]) -> nnx.Module:
    headless = registry.build(arch, seed=None, **fields)
    arrays = registry.flat_state(model)
    registry.load_flat_state(headless, {path: arrays[path] for path in registry.flat_state(headless)})
    return headless


def _features(model: nnx.Module, images: np.ndarray) -> np.ndarray:
    @nnx.jit
    def run(model: nnx.Module, images: jax.Array) -> jax.Array:
        forward: Callable[[jax.Array], Any] = model  # type: ignore[assignment]
        return forward(images)[1][TAP]

    model.eval()
    with jax.default_matmul_precision("highest"):
        return np.asarray(run(model, jnp.asarray(images)))


def _write_onnx(model: nnx.Module, images_shape: tuple[int, int, int, int], folder: Path) -> None:
    path = folder / cases.ONNX
    try:
        onnx_graph.write(model, images_shape, path, TAP)
    except Skipped as reason:
        path.with_suffix(".reason").write_text(str(reason))
