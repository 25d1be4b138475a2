"""`<!-- settings -->` on a page becomes a list of every setting: its name, default and meaning.

Names and defaults are those of `transfer.config.default()`; the meaning is the comment above the field in the source,
so that there is one place to write it.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sphinx.application import Sphinx

from transfer import config as settings

MARK = "<!-- settings -->"
# What a comment says of a value, outside of code: "head", None.
VALUE = re.compile(r'(?<!`)([\w.]+=)"([^"]+)"|(?<!`)"([^"]+)"(?!`)|\bNone\b')
# What a field without a default takes.
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", tuple: "several values"}
TITLES = {
    "": "The run",
    "model": "The network",
    "preprocessing": "Preprocessing",
    "data": "The images",
    "head": "The head",
    "sweep": "Choosing settings of the head",
    "mesh": "Devices",
    "finetune": "Training the network itself",
}


class Setting(NamedTuple):
    """One field; `path` without `config.` in front."""

    path: str
    default: Any
    kind: type
    meaning: str


def every() -> list[Setting]:
    """All settings in the order of the source. ValueError for one that has no comment."""
    source = inspect.getsource(settings)
    tree = ast.parse(source)
    dicts = {
        node.name: found
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for found in [next((inner for inner in ast.walk(node) if isinstance(inner, ast.Dict)), None)]
        if found
    }
    kinds = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "HEAD_SETTINGS"
    )
    comments = dict(_comments(dicts["default"], "", dicts, kinds, source.splitlines()))
    return [_setting(path, comments) for path in comments]


def _comments(
    tree: ast.Dict, prefix: str, dicts: dict[str, ast.Dict], kinds: ast.expr, lines: list[str]
) -> Iterator[tuple[str, str]]:
    """(path, comment) of each field of a dict, those of the sections inside it included."""
    for key, value in zip(tree.keys, tree.values, strict=True):
        if key is None:  # **{name: … for name in HEAD_SETTINGS}: the values of a sweep are those of the head
            if prefix == "head.":
                yield from _comments(kinds, prefix, dicts, kinds, lines)
            continue
        path = prefix + ast.literal_eval(key)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in dicts:
            value = dicts[value.func.id]
        if isinstance(value, ast.Dict):
            yield from _comments(value, f"{path}.", dicts, kinds, lines)
        else:
            yield path, _above(lines, key.lineno)


def _above(lines: list[str], number: int) -> str:
    """The comment that ends above the line of this number, counted from 1."""
    first = number - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[first : number - 1])


def _setting(path: str, comments: dict[str, str]) -> Setting:
    section, _, name = path.rpartition(".")
    fields = settings.default()
    for part in filter(None, section.split(".")):
        fields = fields[part]
    if not comments[path]:
        raise ValueError(f"transfer/config.py: no comment above {path!r} says what it means")
    return Setting(path, fields[name], fields.get_type(name), comments[path])


def markdown() -> str:
    """The list, a section for each section of the config."""
    found: dict[str, list[str]] = {title: [] for title in TITLES}
    for each in every():
        kind = f", {KINDS[each.kind]}" if each.default is None else ""
        meaning = VALUE.sub(lambda found: f"`{found[3] or found[0]}`", each.meaning)
        section = each.path.partition(".")[0] if "." in each.path else ""
        found[section].append(f"`--config.{each.path}`{kind}, default `{each.default}`\n: {meaning}\n")
    return "\n".join("\n".join([f"### {TITLES[section]}\n", *entries]) for section, entries in found.items())


def insert(app: Sphinx, page: str, content: list[str]) -> None:
    """The list, where the mark stands."""
    if MARK in content[0]:
        content[0] = content[0].replace(MARK, markdown())


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls to have it."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
