"""Which columns of an Arrow table hold images and labels: by their types, names, and what `datasets` writes of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import UsageError
from transfer.runtime.files.untrusted import printable


class Columns(NamedTuple):
    """The columns of images and of labels; all files of a data set have the same."""

    image: str
    image_type: str
    label: str
    label_type: str
    class_names: tuple[str, ...] | None  # None: the labels are what classes are called


def find(schema: Any, wanted: Mapping[str, str] | None) -> Columns:
    """The columns of a schema, of which `config.data.columns` may name some: images as `path`, classes as `label`.

    Raises UsageError where several would do, or none.
    """
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {name: feature["_type"] for name, feature in features.items() if "_type" in feature}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        features, kinds = {}, {}
    images, classes = ([name for name in kinds if kinds[name] == kind] for kind in ("Image", "ClassLabel"))
    image = _chosen(schema, "path", wanted, _holds_bytes, images)
    label = _chosen(schema, "label", wanted, _names_classes, ["label"] if "label" in schema.names else classes)
    names = features[label].get("names") if label in classes else None
    class_names = tuple(map(str, names)) if isinstance(names, list) else None
    return Columns(image, str(schema.field(image).type), label, str(schema.field(label).type), class_names)


def images(columns: Columns, table: Any) -> Any:
    """The column of encoded images as one of bytes."""
    import pyarrow.compute

    column = table.column(columns.image)
    return pyarrow.compute.struct_field(column, "bytes") if columns.image_type.startswith("struct") else column


def labels(columns: Columns, table: Any) -> tuple[Sequence[str], np.ndarray]:
    """(names, place of each row's label among them) as `named_labels` takes them; -1 for none."""
    column = table.column(columns.label).combine_chunks()
    if columns.class_names is not None:
        return (), np.maximum(column.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), -1)
    packed = column.dictionary_encode()
    places = packed.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return [str(name) for name in packed.dictionary.to_pylist()], places


def _holds_bytes(kind: Any) -> bool:
    inside = {part.name: str(part.type) for part in kind} if str(kind).startswith("struct") else {"bytes": str(kind)}
    return inside.get("bytes") in ("binary", "large_binary")


def _names_classes(kind: Any) -> bool:
    text = str(getattr(kind, "value_type", kind))
    return text in ("string", "large_string") or text.startswith(("int", "uint"))


def _chosen(
    schema: Any, what: str, wanted: Mapping[str, str] | None, fits: Callable[[Any], bool], named: Sequence[str]
) -> str:
    """The one column that is wanted, or meant by its name, or that fits."""
    fitting, name = [field.name for field in schema if fits(field.type)], (wanted or {}).get(what)
    chosen = [name] if name else [each for each in named if each in fitting] or fitting
    if len(chosen) != 1 or chosen[0] not in fitting:
        there = ", ".join(printable(f"{field.name} ({field.type})") for field in schema)
        images = "encoded images (a table of paths is csv:FILE)" if what == "path" else "classes"
        raise UsageError(f"config.data.columns.{what} must name one column of {images}; there is {there}")
    return chosen[0]
