"""Writes what a run is exported as, and beside it MODEL.json, which says what the numbers in and out of it mean."""

import dataclasses
import hashlib
import importlib
import json
from typing import Any

import jax
import PIL
from etils import epath

from transfer.errors import UsageError
from transfer.experiment import evaluate_head
from transfer.export import program
from transfer.export.finished_run import NETWORK, Bound
from transfer.export.layers import Layers, layers_of
from transfer.runtime import distribution
from transfer.runtime.files import atomic, outputs
from transfer.runtime.progress import waiting

# Of what is in MODEL.json; a reader that finds a larger one knows less than it says.
VERSION = 1
# Of the numbers that come out, by kind.
OUTPUTS = {
    "classes": "probabilities of the classes, a column each; a row's sum is 1",
    "labels": "the probability of each label, a column each, whatever the others are",
    "values": "the values themselves",
}


def write_program(
    bound: Bound, path: epath.Path, platforms: tuple[str, ...], input_size: tuple[int, int] | None
) -> tuple[epath.Path, ...]:
    """Writes the run as one `jax.export` artefact and its description; returns both paths.

    Raises:
        UsageError: a head that cannot be exported; a file in the way that is no earlier export.
    """
    _check(path, "stablehlo")
    with waiting(f"exporting {bound.config.model.name}"):
        artefact = program.exported(bound, platforms, input_size)
        content = bytes(artefact.serialize())
    sides = list(input_size or ("any", "any"))
    described = {
        "format": "stablehlo",
        "input": {"dtype": "uint8", "shape": ["any", *sides, 3], "channels": "RGB, 0 to 255, upright"},
        "preprocessing_inside": dataclasses.asdict(bound.preprocessing),
        "platforms": list(platforms),
        "calling_convention_version": artefact.calling_convention_version,
        "pillow_version": PIL.__version__,
    }
    return _written(bound, path, content, described)


def write_head(bound: Bound, path: epath.Path, form: str) -> tuple[epath.Path, ...]:
    """Writes the head alone, rows of features in, probabilities out; returns the paths of it and its description.

    Args:
        form: "safetensors", "onnx" or "keras".

    Raises:
        UsageError: a head that is no chain of dense layers, or a package that is not installed; a file in the way
            that is no earlier export.
    """
    _check(path, form)
    layers = layers_of(bound)
    module: Any = importlib.import_module(f"transfer.export.{form}_file")
    described = {
        "format": form,
        "input": {"dtype": "float32", "shape": ["any", layers.width], "features": f"tap {bound.tap}, flattened"},
        "layers": _shapes(layers),
    }
    return _written(bound, path, module.content(layers), described)


def _shapes(layers: Layers) -> dict[str, Any]:
    return {
        "unit_norm_first": layers.unit,
        "kernels": [list(kernel.shape) for kernel in layers.kernels],
        "between": "relu",
        "activation": layers.activation,
    }


def _written(bound: Bound, path: epath.Path, content: bytes, described: dict[str, Any]) -> tuple[epath.Path, ...]:
    beside = path.with_suffix(".json")
    text = json.dumps(_facts(bound) | described | {"sha256": hashlib.sha256(content).hexdigest()}, indent=2)
    with atomic.writing(path) as stream:  # both or neither
        stream.write(content)
        atomic.write_text(beside, text + "\n")
    return path, beside


def _check(path: epath.Path, form: str) -> None:
    """Raises UsageError where `path` or the description beside it would replace what is no earlier export to `path`.

    An export is known by its description, which has the other's hash; a description tells its format, and so of which
    of the files beside it it is.
    """
    beside, hashed = path.with_suffix(".json"), None
    outputs.check_output(path)
    outputs.check_output(beside)
    if beside.exists():
        try:
            found = json.loads(beside.read_bytes())
            hashed = found["sha256"] if found["format"] == form and "class_names" in found else None
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        if hashed is None:
            raise UsageError(
                f"--output={path} would replace {beside}, which is no description of it; choose another name"
            )
    if path.exists() and hashed != _sha256(path):
        raise UsageError(
            f"--output={path} is there already and is not what an export has left; choose another name, or move it away"
        )


def _facts(bound: Bound) -> dict[str, Any]:
    kept = evaluate_head.HEAD if bound.head is not None else NETWORK
    columns = list(bound.class_names)
    return {
        "version": VERSION,
        "kind": bound.kind,
        "class_names": columns,
        "output": {"dtype": "float32", "shape": ["any", len(columns) or "any"], "meaning": OUTPUTS[bound.kind]},
        "model": str(bound.config.model.name),
        "tap": bound.tap,
        "head": bound.result.get("head"),
        "precision": str(bound.config.precision),
        "weights_sha256": bound.result.get("weights_sha256"),
        f"{'head' if bound.head is not None else 'network'}_sha256": _sha256(bound.workdir / kept),
        "jax_version": jax.__version__,
        "transfer_version": distribution.VERSION,
    }


def _sha256(path: epath.Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error
