"""Finds the source that a spec names: `digits`, `KIND:PATH`, or a bare path whose kind is guessed."""

import importlib
import os
from typing import Any

from transfer.data import layout
from transfer.data.source import Source
from transfer.errors import TransferError, UsageError, did_you_mean, similar
from transfer.runtime.files import paths

# kind -> "module:function(path, split) -> Source"; a new source is one module and one line here
SOURCES = {
    "digits": "transfer.data.arrays:open_digits",
    "tfds": "transfer.data.tfds:open_split",
    "cifar10": "transfer.data.arrays:open_cifar10",
    "cifar100": "transfer.data.arrays:open_cifar100",
    "cifar100coarse": "transfer.data.arrays:open_cifar100_coarse",
    "folder": "transfer.data.folder:open_split",
    "csv": "transfer.data.table:open_split",
    **{kind: f"transfer.data.array_files:open_{kind}" for kind in ("npz", "h5", "mat", "idx")},
    "pickle": "transfer.data.arrays:open_pickle",
    "wds": "transfer.data.wds:open_split",
    "tfrecord": "transfer.data.records:open_tfrecord",
    "arrayrecord": "transfer.data.records:open_arrayrecord",
    "parquet": "transfer.data.parquet:open_split",
    "hf": "transfer.data.hf:open_split",
}
WITHOUT_PATH = ("digits", "tfds", "hf")
# kinds of files that may be named by a pattern, or lie on a bucket
SHARDS = ("wds", "tfrecord", "arrayrecord", "parquet")
OF_ROWS = ("columns.label", "columns.labels", "columns.value")
# kind -> the settings of `config.data` that say how it is read, which its function takes by name
READING = {
    "folder": ("class_in_name",),
    "csv": (*(f"columns.{name}" for name in ("path", "label", "labels", "value", "split", "group")), "root", "ending"),
    "wds": (*OF_ROWS, "skip_damage"),
    **dict.fromkeys(("tfrecord", "arrayrecord"), (*OF_ROWS, "columns.path", "skip_damage")),
    **dict.fromkeys(("parquet", "hf"), (*OF_ROWS, "columns.path")),
}

# how a bare file's name ends -> kind
ENDINGS = {
    ".npz": "npz",
    ".h5": "h5",
    ".hdf5": "h5",
    ".mat": "mat",
    ".p": "pickle",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".parquet": "parquet",
    ".tfrecord": "tfrecord",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "csv",
    "cifar-10-python.tar.gz": "cifar10",
    "cifar-100-python.tar.gz": "cifar100",
    **dict.fromkeys(layout.ARCHIVES, "folder"),
}
# a file that gives a bare folder away -> kind
LANDMARKS = {
    **dict.fromkeys(("data_batch_1", "data_batch_1.bin"), "cifar10"),
    **dict.fromkeys(("meta", "fine_label_names.txt"), "cifar100"),
    **dict.fromkeys(("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"), "idx"),
    "train.p": "pickle",
}


def open_source(spec: str, split: str | None = None, **reading: Any) -> Source:
    """Opens the data set that `spec` names, at its `split` (needed where the data set has splits).

    The spec is "digits", "tfds:NAME", "cifar10:PATH", "cifar100:PATH", "folder:PATH" (folder, zip or tar), "csv:FILE"
    (any table of images), "npz:PATH", "h5:PATH", "mat:PATH", "idx:PATH" (MNIST), "pickle:PATH" (traffic signs),
    "cifar100coarse:PATH" (its 20 classes), "wds:PATH", "tfrecord:PATH", "arrayrecord:PATH" and
    "parquet:PATH" (shards, which a pattern may name, on a bucket too), "hf:NAME", or a bare path; a split is one that
    the source itself names, such as "train", of a folder a sub-folder.

    Args:
        reading: how a table is read, as `config.data` has it: `columns` (a mapping), `root` and `ending`; where
            a folder's classes are, `class_in_name`; `skip_damage`: damaged shards are read as far as they go.

    Raises UsageError for an unknown kind (with the nearest names) or split, and for a `reading` that the kind has no
    use for; TransferError for a missing path and for contents that do not fit.
    """
    kind, path = _parse(spec)
    if "skip_damage" not in READING.get(kind, ()):
        reading.pop("skip_damage", None)
    columns = {name: column for name, column in (reading.pop("columns", None) or {}).items() if column}
    given = {name: value for name, value in {**reading, "columns": columns}.items() if value}
    names = {*(given.keys() - {"columns"}), *(f"columns.{name}" for name in columns)}
    if unused := sorted(names - set(READING.get(kind, ()))):
        kinds = [f"{known}:" for known, settings in READING.items() if unused[0] in settings]
        if not kinds:
            raise UsageError(f"there is no config.data.{unused[0]}")
        raise UsageError(f"config.data.{unused[0]} is for {', '.join(kinds)}; {spec} has no use for it")
    if kind not in WITHOUT_PATH:
        if not path:
            raise UsageError(f"{spec}: write {kind}:PATH")
        path = paths.expand(path)
        if kind not in SHARDS and not os.path.exists(path):
            raise TransferError(f"{spec}: no such file or folder: {path}")
    module, _, function = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(module), function)(path, split or None, **given)


def _parse(spec: str) -> tuple[str, str]:
    kind, _, path = spec.partition(":")
    if kind in SOURCES:
        return kind, path
    bare = paths.expand(spec)
    if os.path.exists(bare):
        return _guess(bare), bare
    if os.sep in kind or spec.lower().endswith(tuple(ENDINGS)):
        raise TransferError(f"{spec}: no such file or folder")
    hint = did_you_mean(similar(kind, SOURCES, cutoff=0.5) or list(SOURCES))
    raise UsageError(f"config.data.source: unknown data source {spec!r}{hint}")


def _guess(path: str) -> str:
    if os.path.isdir(path):
        return next((kind for name, kind in LANDMARKS.items() if os.path.isfile(os.path.join(path, name))), "folder")
    if guessed := next((kind for ending, kind in ENDINGS.items() if path.lower().endswith(ending)), None):
        return guessed
    kinds = ", ".join(f"{kind}:PATH" for kind in SOURCES if kind not in WITHOUT_PATH)
    raise UsageError(f"{path}: cannot tell what it holds from its name; write one of {kinds}")
