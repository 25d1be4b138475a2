"""Imports inside functions: only of what takes long to import and is not there anyway, or need not be installed."""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import plain_install
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_architecture import MODULES
from test_requirements import DISTRIBUTIONS
from test_startup import HEAVY

# It sees to Ctrl-C before it imports anything that takes time.
FIRST = "transfer.__main__"


class Import(NamedTuple):
    """What a file imports; `late`: inside a function, or for type checkers alone."""

    line: int
    name: str
    late: bool


def imports(node: ast.AST, modules: Mapping[str, Path], late: bool = False) -> Iterator[Import]:
    """Every import below `node`, by the module of ours that it names, else by the name of the other one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(child.lineno, alias.name, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                known = name in modules or name in HEAVY
                yield Import(child.lineno, name if known else str(child.module), late)
        elif not isinstance(child, ast.expr):
            typed = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(child, modules, late or typed or inside)


def hands_on(tree: ast.Module) -> bool:
    """Whether a package imports what it hands on at first use, by a `__getattr__` of its own or an attached one."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return "__getattr__" in names | {
        node.id for each in targets for node in ast.walk(each) if isinstance(node, ast.Name)
    }


@cache
def heavy(name: str) -> frozenset[str]:
    """The entry of `HEAVY` that a module belongs to, if there is one."""
    return frozenset(one for one in HEAVY if f"{name}.".startswith(f"{one}."))


def loaded(module: str, found: Mapping[str, list[Import]]) -> set[str]:
    """What of `HEAVY` comes along with a module of ours: by imports at the top, its packages' and theirs in turn."""
    seen: set[str] = set()
    brought: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        brought |= heavy(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [one.name for one in found.get(name, ()) if not one.late]
    return brought


def needed() -> set[str]:
    """Distributions that are installed with the package on every machine."""
    lines = [Requirement(line) for line in plain_install.declared()]
    return {canonicalize_name(line.name) for line in lines if line.marker is None}


def needless(sources: Mapping[str, Path]) -> list[str]:
    """A line for each late import that saves nothing, which says where it belongs."""
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in sources.items()}
    found = {name: list(imports(tree, sources)) for name, tree in trees.items()}
    installed, lines = needed(), []
    for module, own in found.items():
        late = [one for one in own if one.late]
        if not late or module == FIRST or hands_on(trees[module]):
            continue
        there = loaded(module, found)
        for line, name, _ in late:
            first = name.partition(".")[0]
            if name in sources:
                gained = loaded(name, found) - there
            elif first in sys.stdlib_module_names or canonicalize_name(DISTRIBUTIONS.get(first, first)) in installed:
                gained = heavy(name) - there
            else:
                continue  # it need not be installed
            if not gained:
                lines.append(f"{sources[module]}:{line}: the import of {name} belongs at the top of the file")
    return lines


def test_imports_stand_at_the_top_of_the_file_but_for_what_start_up_does_without() -> None:
    assert needless(MODULES) == []


SOURCES = {
    "transfer.light": "import json",
    "transfer.heavy": "import jax",
    "transfer.through": "from transfer import light, heavy",
    "transfer.later": "def run():\n    import jax",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\ndef run():\n    import json, jax, onnx", ["3: the import of json"]),
        ("import jax.numpy\ndef run():\n    import jax\n    from importlib import metadata", ["3: the import of jax"]),
        ("def run():\n    from transfer import light, heavy, through", ["2: the import of transfer.light"]),
        ("from transfer import through\ndef run():\n    from transfer import heavy", ["3: the import of transfer"]),
        ("from transfer import later\ndef run():\n    from transfer import heavy", []),
        ("if TYPE_CHECKING:\n    from transfer.light import A\n    from transfer.heavy import B", ["2: the import"]),
        ("class A:\n    async def run(self):\n        from PIL import Image", ["3: the import of PIL"]),
        ("try:\n    import json\nexcept ImportError:\n    pass", []),
        ("if TYPE_CHECKING:\n    import json\ndef __getattr__(name):\n    import json", []),
        ("if TYPE_CHECKING:\n    import json\n__getattr__, __dir__ = attach()", []),
        ("if TYPE_CHECKING:\n    import json\n__dir__, other = attach()", ["2: the import"]),
    ],
)
def test_what_a_late_import_saves(text: str, expected: list[str], tmp_path: Path) -> None:
    sources = {}
    for name, content in {**SOURCES, "transfer.looked_at": text}.items():
        sources[name] = tmp_path / f"{name}.py"
        sources[name].write_text(content, "utf-8")
    found = needless(sources)
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(f"{sources['transfer.looked_at']}:{beginning}")
