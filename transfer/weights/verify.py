"""`python -m transfer weights verify`: proof that a weight file is what its record says, check by check.

Three checks: the file's hash, a strict load, and the network's first outputs for one synthetic image against the
values in the record, where somebody has computed them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.errors import TransferError
from transfer.models import registry
from transfer.preprocess import recipe
from transfer.runtime.files import paths
from transfer.weights import cache, catalogue, hub, readers
from transfer.weights.catalogue import Record
from transfer.weights.create import create_model
from transfer.weights.fill import CLASSIFIER_BIAS
from transfer.weights.readers import onnx_file, safetensors_file

# Height and width of the synthetic image: odd and not square, so that resizing and cropping count.
IMAGE_SIZE = (211, 277)
# Of the largest output. Float32 sums in another order, on another device, differ by a few 1e-6.
TOLERANCE = 1e-4
SHOWN = 5


def synthetic_image() -> np.ndarray:
    """The image that every record's `logits` are of: uint8 (211, 277, 3), integer arithmetic, the same everywhere."""
    y, x, c = np.ogrid[: IMAGE_SIZE[0], : IMAGE_SIZE[1], :3]
    return ((x * y // 16 + 2 * x * (c + 1) + 3 * y * (3 - c)) % 256).astype(np.uint8)


def first_outputs(model: nnx.Module, record: Record) -> np.ndarray:
    """The model's answer to `synthetic_image` after the record's own preprocessing, at precision "highest".

    Returns float32 (classes,), or (features,) for a model without classifier.
    """

    def answer(model: nnx.Module, images: jax.Array) -> jax.Array:
        output, _ = model(recipe.apply(record.preprocessing, images))  # type: ignore[operator]
        return output

    with jax.default_matmul_precision("highest"):
        return np.asarray(nnx.jit(answer)(model, jnp.asarray(synthetic_image()[None])))[0]


def verify(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    prefix: str | None = None,
    ema: bool = False,
    head: str | None = None,
    report: Callable[[str], object] = print,
) -> nnx.Module:
    """Checks a weight file against the record `name`; all checks are made, and the model that was loaded is returned.

    Args:
      weights: the file; None: the shipped, cached or downloaded one.
      key, prefix, ema, head: as in `create_model`.
      report: takes a line for each check that passes, as soon as it is known.

    Raises:
      TransferError: a check failed; the message says which ones, and how.
      UsageError: unknown name.
    """
    record = catalogue.get(name)
    if weights is None:
        known = map(cache.local_path, filter(None, (record.file, record.notop)))
        path = next(filter(Path.is_file, known), None) or cache.fetch(record)[0]
    else:
        place = hub.find(weights)
        path = place.file if place else Path(paths.expand(weights))
    if not path.is_file():
        raise TransferError(f"{path}: no such weight file")
    failures: list[str] = []

    def check(title: str, line: Callable[[], str]) -> None:
        try:
            report(f"{title:8s}{line()}")
        except TransferError as error:
            failures.append(f"{title}: {error}")

    check("hash", lambda: _check_hash(record, path))
    try:
        model: Any = create_model(record.name, weights=path, key=key, prefix=prefix, ema=ema, head=head)
        if model.in_channels != record.preprocessing.input_shape[-1]:
            raise TransferError(f"its images have {model.in_channels} channels, so {path} is none of {record.name}")
    except TransferError as error:
        raise TransferError("; ".join([*failures, f"load: {error}"])) from error
    check("load", lambda: _check_load(record, model))
    check("logits", lambda: _check_outputs(record, model, path))
    if failures:
        raise TransferError("; ".join(failures))
    report(f"verified {record.name}: {path}")
    return model


def _check_hash(record: Record, path: Path) -> str:
    digests = cache.digests(path)
    with path.open("rb") as stream:
        head = stream.read(readers.HEAD_BYTES)
    # the published hash is of another format where it is an ONNX export, or as the record's on Hugging Face
    elsewhere = record.hf_file is not None and Path(record.hf_file).suffix != Path(record.file.filename).suffix
    if not record.files or onnx_file.recognises(head) or (elsewhere and safetensors_file.recognises(head)):
        return f"none is published for this file; its SHA-256 is {digests['sha256']}"
    for file in record.files:
        if cache.mismatch(file, digests) is None:
            return f"{file.digest} as published for {file.filename}"
    kind = record.files[0].digest.split()[0]
    own = f"{kind} {digests['md5' if kind == 'MD5' else 'sha256']}"
    others = " or ".join(f"{file.digest} of {file.filename}" for file in record.files)
    raise TransferError(f"{path} is not a file of {record.name}: {own}, not {others}")


def _check_load(record: Record, model: nnx.Module) -> str:
    arrays = registry.flat_state(model)
    trained = sum(variable.size for variable in jax.tree.leaves(nnx.state(model, nnx.Param)))
    total = sum(array.size for array in arrays.values())
    counts = f"{len(arrays)} arrays, {trained:,} parameters and {total - trained:,} running statistics"
    if record.num_classes and CLASSIFIER_BIAS not in arrays:
        return f"{counts}; the file has no classifier"
    counted = total if record.name_map == "keras" else trained
    if record.num_params is not None and counted != record.num_params:
        raise TransferError(f"{counts}, which is not {record.name} with its {record.num_params:,} parameters")
    return f"{counts}, as published"


def _check_outputs(record: Record, model: nnx.Module, path: Path) -> str:
    outputs = first_outputs(model, record)
    first = " ".join(f"{value:.5g}" for value in outputs[:SHOWN])
    if not np.isfinite(outputs).all():
        raise TransferError(f"{path} answers NaN or infinity to the synthetic image")
    is_whole = CLASSIFIER_BIAS in registry.flat_state(model) or not record.num_classes
    if record.logits is None or not is_whole:
        return f"none in the record to compare with; the first are {first}"
    expected = np.asarray(record.logits, np.float32)
    if len(outputs) < len(expected):
        raise TransferError(f"{path} gives {len(outputs)} outputs, {record.name} at least {len(expected)}")
    error = float(np.abs(outputs[: len(expected)] - expected).max() / np.abs(expected).max())
    compared = f"{error:.1e} of the largest, tolerance {TOLERANCE:.0e}"
    if error > TOLERANCE:
        raise TransferError(f"{path} is not {record.name}: outputs differ by {compared} (the first: {first})")
    return f"{len(expected)} outputs for a synthetic image differ by at most {compared}"
