"""The catalogue: one record a weight set, binding file, hash, preprocessing, licence and published accuracy.

The records are JSON, one file a source in `records/`: `source` (where the figures come from), `defaults` (merged
into every record; `preprocessing` key by key) and `records`, each with the attributes of `Record`; a `file` without a
URL ships in `files/`, one without any hash is not verified. A new weight set is a new record, nothing else.
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transfer.errors import UsageError, did_you_mean, similar
from transfer.preprocess.recipe import Preprocessing

# Beside the record files: errors measured against each record's source.
PARITY = "parity.json"
_FOLDER = importlib.resources.files("transfer.weights") / "records"
# Names that a message about a wrong one offers.
MOST_MEANT = 5


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A file to load; `sha256_prefix` is as much of the SHA-256 as the publisher put in the name."""

    filename: str
    url: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None

    @property
    def verified_by(self) -> str:
        """The digest that a download is compared with; only a whole SHA-256 tells it from a forged file."""
        if self.sha256:
            return "SHA-256"
        if self.sha256_prefix:
            return f"{len(self.sha256_prefix)} digits of SHA-256"
        return "MD5" if self.md5 else "nothing"

    @property
    def digest(self) -> str:
        """The digest that is published of the file, such as "SHA-256 6e1a…"; "none published"."""
        sha256 = self.sha256 or (f"{self.sha256_prefix}…" if self.sha256_prefix else None)
        return f"SHA-256 {sha256}" if sha256 else f"MD5 {self.md5}" if self.md5 else "none published"


@dataclasses.dataclass(frozen=True)
class Record:
    """A weight set. Hashable, so that a model can carry it as a static attribute.

    Attributes:
      name: `arch.source`, what the user types.
      arch: a key of `transfer.models.registry.architectures()`.
      fields: (name, value) pairs passed to the architecture.
      name_map: the library whose names the file uses (`transfer.weights.names`); torchvision's and timm's are one
        layout under two sets of names, so a record of either takes both.
      file: the weights with the classifier.
      aliases: other names that `get` takes.
      notop: the weights without it, where the publisher has a smaller file for that.
      hf_repo, hf_file: the same weights on Hugging Face, a repository and a file in it; `weights=` reads that file too.
      prefix: of the names of its tensors, where other networks lie in the file too.
      num_classes: 0 where the file's classifier is not usable, so that the model is built without one.
      acc1, acc5: published ImageNet (or `dataset`) top-1 and top-5 accuracy in percent, None where not published; of a
        linear classifier on its features where `num_classes` is 0.
      num_params: with the classifier, as the source counts: Keras counts the moving statistics of batch norm too.
      num_features: width of the end point `pre_logits`.
      gflops: multiply-adds at the record's image size, in 1e9: published, else counted (`transfer.models.graph`).
      logits: the first outputs for the image of `transfer.weights.verify`, None where nobody has computed them.
      source: where the record's figures come from.
    """

    name: str
    arch: str
    name_map: str
    file: WeightFile
    preprocessing: Preprocessing
    aliases: tuple[str, ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()
    notop: WeightFile | None = None
    hf_repo: str | None = None
    hf_file: str | None = None
    prefix: str | None = None
    num_classes: int = 1000
    dataset: str = "ImageNet-1k"
    acc1: float | None = None
    acc5: float | None = None
    num_params: int | None = None
    num_features: int | None = None
    gflops: float | None = None
    logits: tuple[float, ...] | None = None
    licence: str | None = None
    source: str = ""
    note: str = ""

    @property
    def files(self) -> list["WeightFile"]:
        """Its files of which a digest is published."""
        return [file for file in (self.file, self.notop) if file and file.verified_by != "nothing"]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _record(entry: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> Record:
    merged = {key: _frozen(value) for key, value in {"source": source, **defaults, **entry}.items()}
    merged["preprocessing"] = Preprocessing(**defaults.get("preprocessing", {}) | entry.get("preprocessing", {}))
    fields = defaults.get("fields", {}) | entry.get("fields", {})
    merged["fields"] = tuple((name, _frozen(value)) for name, value in fields.items())
    merged |= {key: WeightFile(**merged[key]) for key in ("file", "notop") if merged.get(key)}
    return Record(**merged)


@functools.cache
def records() -> Mapping[str, Record]:
    """All records by name."""
    by_name: dict[str, Record] = {}
    for file in sorted(_FOLDER.iterdir(), key=lambda file: file.name):
        if file.name == PARITY or not file.name.endswith(".json"):
            continue
        content = json.loads(file.read_text("utf-8"))
        for entry in content["records"]:
            record = _record(entry, content.get("defaults", {}), content["source"])
            if record.name in by_name:
                raise ValueError(f"{file.name}: a second record named {record.name}")
            by_name[record.name] = record
    return by_name


@functools.cache
def _aliases() -> Mapping[str, Record]:
    return {alias: record for record in records().values() for alias in record.aliases}


def parity() -> Mapping[str, Mapping[str, Any]]:
    """Record name -> what was measured against its source: `error` (relative, the largest of all taps), `against`."""
    file = _FOLDER / PARITY
    return json.loads(file.read_text("utf-8"))["errors"] if file.is_file() else {}


def names(pattern: str = "*") -> list[str]:
    """Sorted names of the records that match a shell-style `pattern` (`"resnet*"`), an alias counting as its record."""
    matching = fnmatch.filter([*records(), *_aliases()], pattern)
    return sorted({_aliases()[name].name if name in _aliases() else name for name in matching})


def find(name: str) -> Record | None:
    """The record of that name or alias; None if there is none."""
    return records().get(name) or _aliases().get(name)


def get(name: str) -> Record:
    """The record called `name`; UsageError with the nearest names if there is none."""
    record = find(name)
    if record:
        return record
    same_arch = names(f"{name}.*")
    if same_arch:
        raise UsageError(f"{name} is an architecture without weights of its own; choose {listed(same_arch)}")
    raise UsageError(f"unknown weights {name!r}{meant(name)}")


def listed(names: Sequence[str]) -> str:
    """Names of records for a message: those that classify, and how many others there are."""
    headless = [name for name in names if not get(name).num_classes]
    others = [f"one of {len(headless)} without a classifier"] if headless[1:] else headless
    return ", ".join([*(name for name in names if name not in headless), *others])


def meant(name: str, architectures: Iterable[str] = ()) -> str:
    """The end of a message about a wrong name: the records, or architectures, that it may mean however it is spelt."""
    known = (*architectures, *(record.arch for record in records().values()), *records())
    meanings = [record for close in similar(name, known, cutoff=0.4) for record in names(f"{close}.*") or [close]]
    meanings.sort(key=lambda each: each in records() and not records()[each].num_classes)
    return did_you_mean([*dict.fromkeys(meanings)][:MOST_MEANT]) or "; see `python -m transfer models`"


def architecture(name: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture and all fields that build the model `name` (a record or an architecture) with `fields`."""
    record = find(name)
    return (record.arch, {**dict(record.fields), **fields}) if record else (name, dict(fields))
