"""Which columns of an Arrow table hold images and labels, by what `datasets` writes about them, names and types."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import UsageError
from transfer.runtime.files.untrusted import printable

IMAGE, LABEL = "path", "label"  # in `config.data.columns`: where the image is, and its class


class Columns(NamedTuple):
    """The columns of images and labels; all files of a data set have the same."""

    image: str
    image_type: str
    label: str
    label_type: str
    class_names: tuple[str, ...] | None  # None: the labels are what classes are called

    @property
    def bytes_inside(self) -> bool:
        """Whether images are a struct `{bytes, path}` rather than bytes."""
        return self.image_type.startswith("struct")


def find(schema: Any, wanted: Mapping[str, str] | None = None) -> Columns:
    """The columns of a schema, of which `wanted` may name some.

    Raises UsageError where several would do, or none.
    """
    wanted = wanted or {}
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: feature["_type"] for name, feature in features.items() if "_type" in feature}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        features, kinds = {}, {}
    images, classes = ([name for name in kinds if kinds[name] == kind] for kind in ("Image", "ClassLabel"))
    image = _chosen(schema, IMAGE, wanted, _may_be_image, images)
    label = _chosen(schema, LABEL, wanted, _may_be_label, [LABEL] if LABEL in schema.names else classes)
    names = features[label].get("names") if label in classes else None
    class_names = tuple(map(str, names)) if isinstance(names, list) else None
    return Columns(image, str(schema.field(image).type), label, str(schema.field(label).type), class_names)


def codes(columns: Columns, column: Any) -> tuple[Sequence[str], np.ndarray]:
    """(names, place of each row's label among them) of a column, as `named_labels` takes them; -1 for none."""
    if columns.class_names is not None:
        return columns.class_names, np.maximum(column.fill_null(-1).to_numpy(), -1).astype(np.int64)
    packed = column.unify_dictionaries() if hasattr(column.type, "value_type") else column.dictionary_encode()
    chunks = packed.unify_dictionaries().chunks if hasattr(packed, "chunks") else [packed]
    names = list(map(str, chunks[0].dictionary.to_pylist())) if chunks else []
    places = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
    return names, np.concatenate([*places, np.zeros(0, np.int64)]).astype(np.int64)


def _may_be_image(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(part.name == "bytes" and _may_be_image(part.type) for part in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _may_be_label(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)


def _chosen(
    schema: Any, what: str, wanted: Mapping[str, str], fits: Callable[[Any], bool], named: Sequence[str]
) -> str:
    """The one column that is wanted, or meant by its name, or that fits."""
    setting, fitting = f"config.data.columns.{what}", [field.name for field in schema if fits(field.type)]
    there = ", ".join(printable(f"{field.name} ({field.type})") for field in schema)
    name = wanted.get(what)
    if name and name not in fitting:
        raise UsageError(f"{setting}={name!r} is no such column; there is {there}")
    chosen = [name] if name else [name for name in named if name in fitting] or fitting
    if len(chosen) != 1:
        raise UsageError(f"{setting} must name the column of the {'images' if what == IMAGE else 'labels'}: {there}")
    return chosen[0]
