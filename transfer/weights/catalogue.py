"""The catalogue: one record a weight set, binding file, hash, preprocessing, licence and published accuracy.

The records are JSON, one file a source in `records/`: `source` (where the figures come from), `defaults` (merged
into every record; `preprocessing` key by key) and `records`, each with `name`, `arch`, `file` (`filename`, `url`
and any of `sha256`, `sha256_prefix`, `md5`; without a URL the file ships in `files/`), optionally `notop` (a second
file without classifier), `fields` of the architecture, and the figures. A new weight set is a new record, nothing
else; where its `sha256` is null the file is not verified.
"""

import dataclasses
import difflib
import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from transfer.errors import UsageError
from transfer.preprocess import Preprocessing


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One file to load; `sha256_prefix` is as much of the SHA-256 as the publisher put in the name."""

    filename: str
    url: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One weight set. Hashable, so that a model can carry it as a static attribute.

    Attributes:
      name: `arch.source`, what the user types.
      arch: a key of `transfer.models.registry.architectures()`.
      fields: (name, value) pairs passed to the architecture.
      name_map: the library whose names the file uses (`transfer.weights.names`).
      file: the weights with the classifier.
      notop: the weights without it, where the publisher has a smaller file for that.
      acc1, acc5: published ImageNet (or `dataset`) top-1 and top-5 accuracy in percent, None where not published.
      num_params: with the classifier.
      gflops: multiply-adds at the record's image size, in 1e9, as published.
      source: where the record's figures come from.
    """

    name: str
    arch: str
    name_map: str
    file: WeightFile
    preprocessing: Preprocessing
    fields: tuple[tuple[str, Any], ...] = ()
    notop: WeightFile | None = None
    num_classes: int = 1000
    dataset: str = "ImageNet-1k"
    acc1: float | None = None
    acc5: float | None = None
    num_params: int | None = None
    gflops: float | None = None
    licence: str | None = None
    source: str = ""
    note: str = ""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _record(entry: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> Record:
    merged = {"source": source, **defaults, **entry}
    merged["preprocessing"] = Preprocessing(**defaults.get("preprocessing", {}) | entry.get("preprocessing", {}))
    fields = defaults.get("fields", {}) | entry.get("fields", {})
    merged["fields"] = tuple((name, _frozen(value)) for name, value in fields.items())
    for key in ("file", "notop"):
        if merged.get(key):
            merged[key] = WeightFile(**merged[key])
    return Record(**merged)


@functools.cache
def records() -> Mapping[str, Record]:
    """Every record by its name."""
    found: dict[str, Record] = {}
    for file in sorted((importlib.resources.files("transfer.weights") / "records").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".json"):
            continue
        content = json.loads(file.read_text("utf-8"))
        for entry in content["records"]:
            record = _record(entry, content.get("defaults", {}), content["source"])
            if record.name in found:
                raise ValueError(f"{file.name}: a second record named {record.name}")
            found[record.name] = record
    return found


def names(pattern: str = "*") -> list[str]:
    """Sorted names that match a shell-style `pattern` (`"resnet*"`)."""
    return sorted(fnmatch.filter(records(), pattern))


def get(name: str) -> Record:
    """The record called `name`; UsageError with the nearest names if there is none."""
    known = records()
    if name in known:
        return known[name]
    same_arch = names(f"{name}.*")
    if same_arch:
        raise UsageError(f"{name} is an architecture without weights of its own; choose {', '.join(same_arch)}")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "see `python -m transfer models`"
    raise UsageError(f"unknown weights {name!r}; {hint}")


def architecture(name: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture and all fields that build the model `name` (a record or an architecture) with `fields`."""
    record = records().get(name)
    return (record.arch, {**dict(record.fields), **fields}) if record else (name, dict(fields))
