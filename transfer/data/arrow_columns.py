"""Which columns of an Arrow table hold images and labels: by their types, names, and what `datasets` writes of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transfer.data.shard_rows import Columns, wanted
from transfer.errors import UsageError
from transfer.runtime.files.untrusted import printable


def find(schema: Any, given: Mapping[str, str] | None) -> Columns:
    """The columns of a schema, of which `config.data.columns` may name some.

    Raises UsageError where several would do, or none.
    """
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {name: feature.get("_type") for name, feature in features.items()}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        features, kinds = {}, {}
    images, classes = ([name for name in kinds if kinds[name] == kind] for kind in ("Image", "ClassLabel"))
    columns = wanted(given)
    image = _chosen(schema, "path", columns.image, _holds_bytes, images)
    usual = ["label"] if "label" in schema.names else classes
    fits = _names_classes if columns.says == "label" else lambda kind: True
    shown = tuple(_chosen(schema, columns.says, name, fits, usual) for name in columns.shown)
    feature = features.get(shown[0], {})
    if columns.says != "label":  # a list of classes has them inside
        feature = feature.get("feature", {})
    names = feature.get("names") if isinstance(feature, dict) and columns.says != "value" else None
    class_names = tuple(map(str, names)) if len(shown) == 1 and isinstance(names, list) else None
    types = tuple(str(schema.field(name).type) for name in (image, *shown))
    return Columns(image, columns.says, shown, types, class_names)


def table(columns: Columns, rows: Any, sizes: Any) -> Any:
    """The table of a shard, as a `ShardSource` takes it; classes by their numbers where these are of one a row."""
    import pyarrow
    from pyarrow import compute

    shown = [rows.column(name) for name in columns.shown]
    if columns.says == "label" and "string" in columns.types[1]:
        shown = [compute.if_else(compute.equal(shown[0], ""), None, shown[0])]
    elif (names := columns.class_names) is not None:
        if columns.says == "label":  # below 0 is none
            shown = [compute.if_else(compute.less(shown[0], 0), None, shown[0])]
        else:
            number = dict(enumerate(names))
            rows_of = shown[0].to_pylist()
            lists = [each and [number.get(one, str(one)) for one in each if one not in (None, -1)] for each in rows_of]
            shown = [pyarrow.chunked_array([pyarrow.array(lists, pyarrow.list_(pyarrow.string()))])]
    return pyarrow.table([sizes, *shown], ["size", *map(str, range(len(shown)))])


def _holds_bytes(kind: Any) -> bool:
    inside = {part.name: str(part.type) for part in kind} if str(kind).startswith("struct") else {"bytes": str(kind)}
    return inside.get("bytes") in ("binary", "large_binary")


def _names_classes(kind: Any) -> bool:
    text = str(kind.value_type if str(kind).startswith("dictionary") else kind)
    return text in ("string", "large_string") or text.startswith(("int", "uint"))


def _chosen(schema: Any, what: str, name: str, fits: Callable[[Any], bool], named: Sequence[str]) -> str:
    """The one column that is wanted, or meant by its name, or that fits."""
    fitting = [field.name for field in schema if fits(field.type)]
    chosen = [name] if name else [each for each in named if each in fitting] or fitting
    if len(chosen) != 1 or chosen[0] not in fitting:
        there = ", ".join(printable(f"{field.name} ({field.type})") for field in schema)
        kind = {"path": "encoded images (a table of paths is csv:FILE)", "label": "classes"}.get(what, what)
        raise UsageError(f"config.data.columns.{what} must name one column of {kind}; there is {there}")
    return chosen[0]
