"""Writes the exported file of a run, and beside it MODEL.json, which says what its inputs and outputs mean."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import PIL
from etils import epath

from transfer.errors import UsageError
from transfer.experiment import evaluate_head
from transfer.export import program
from transfer.export.finished_run import NETWORK, FinishedRun
from transfer.export.head_files import WRITERS, layers_of
from transfer.runtime import distribution
from transfer.runtime.files import atomic
from transfer.runtime.progress import waiting

# The version of MODEL.json; a reader that finds a larger one knows less than it says.
VERSION = 1
# What the outputs mean, by kind.
OUTPUTS = {
    "classes": "probabilities of the classes, a column each; a row's sum is 1",
    "labels": "the probability of each label, a column each, whatever the others are",
    "values": "the values themselves",
}


def write_program(
    run: FinishedRun, path: epath.Path, platforms: tuple[str, ...], input_size: tuple[int, int] | None
) -> tuple[epath.Path, ...]:
    """Writes the run as one `jax.export` artefact and its description; returns both paths.

    Raises:
        UsageError: a head that cannot be exported; a file in the way that is no earlier export.
    """
    _check(path, "stablehlo")
    with waiting(f"exporting {run.config.model.name}"):
        artefact = program.exported(run, platforms, input_size)
        content = bytes(artefact.serialize())
    sides = list(input_size or ("any", "any"))
    described = {
        "format": "stablehlo",
        "input": {"dtype": "uint8", "shape": ["any", *sides, 3], "channels": "RGB, 0 to 255, upright"},
        "preprocessing_inside": dataclasses.asdict(run.preprocessing),
        "platforms": list(platforms),
        "calling_convention_version": artefact.calling_convention_version,
        "pillow_version": PIL.__version__,
    }
    return _written(run, path, content, described)


def write_head(run: FinishedRun, path: epath.Path, form: str) -> tuple[epath.Path, ...]:
    """Writes the head alone, rows of features in, probabilities out; returns the paths of it and its description.

    Args:
        form: a key of `transfer.export.head_files.WRITERS`.

    Raises:
        UsageError: a head that is no chain of dense layers, or a package that is not installed; a file in the way
            that is no earlier export.
    """
    _check(path, form)
    layers = layers_of(run)
    described = {
        "format": form,
        "input": {"dtype": "float32", "shape": ["any", layers.width], "features": f"tap {run.tap}, flattened"},
        "layers": {
            "unit_norm_first": layers.unit,
            "kernels": [list(kernel.shape) for kernel in layers.kernels],
            "between": "relu",
            "activation": layers.activation,
        },
    }
    return _written(run, path, WRITERS[form](layers), described)


def _written(run: FinishedRun, path: epath.Path, content: bytes, described: dict[str, Any]) -> tuple[epath.Path, ...]:
    """Writes the file and its description, both or neither; returns their paths."""
    part, kept = ("head", evaluate_head.HEAD) if run.head is not None else ("network", NETWORK)
    columns = list(run.class_names)
    facts = {
        "version": VERSION,
        "kind": run.kind,
        "class_names": columns,
        "output": {"dtype": "float32", "shape": ["any", len(columns) or "any"], "meaning": OUTPUTS[run.kind]},
        "model": str(run.config.model.name),
        "tap": run.tap,
        "head": run.result.get("head"),
        "precision": str(run.config.precision),
        "weights_sha256": None,
        **{fact: value for fact, value in run.result.items() if fact.startswith("weights_")},
        f"{part}_sha256": _sha256(run.workdir / kept),
        "jax_version": jax.__version__,
        "transfer_version": distribution.VERSION,
        **described,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    description = path.with_suffix(".json")
    with atomic.writing(path) as stream:
        stream.write(content)
        atomic.write_text(description, json.dumps(facts, indent=2) + "\n")
    return path, description


def _check(path: epath.Path, form: str) -> None:
    """Raises UsageError where `path` or its description would replace anything but an earlier export to `path`.

    An earlier export is known by its description, which holds its format and its hash.
    """
    description, hashed = path.with_suffix(".json"), None
    atomic.check_output(path)
    atomic.check_output(description)
    if description.exists():
        try:
            earlier = json.loads(description.read_bytes())
            hashed = earlier["sha256"] if earlier["format"] == form and "class_names" in earlier else None
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        if hashed is None:
            raise UsageError(
                f"--output={path} would replace {description}, which is no description of it; choose another name"
            )
    if path.exists() and hashed != _sha256(path):
        raise UsageError(
            f"--output={path} is there already and is not what an export has left; choose another name, or move it away"
        )


def _sha256(path: epath.Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error
