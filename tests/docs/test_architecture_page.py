"""`docs/architecture.md` names what is there: packages in their own words, files and functions of its walks."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import ROOMS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "transfer"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
# The page's sections by the beginning of their titles.
SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")[1:]}
WALKS = [title for title in SECTIONS if re.match("A (batch|run)", title)]
# A hop begins like this; what happens there may go on in the next lines.
HOP = re.compile(r"^ *(?:1\.|-) `([\w/]+\.py)`((?:, `[\w.]+`)*): \S", re.MULTILINE)


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text("utf-8"))


def defined(nodes: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Names that statements define: functions, classes with their methods, constants."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


def hops(title: str) -> list[tuple[str, list[str]]]:
    """(file, names) of each hop of a walk, in order."""
    return [(file, re.findall(r"`([\w.]+)`", names)) for file, names in HOP.findall(SECTIONS[title])]


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def referred(file: str) -> frozenset[str]:
    """Modules and names that a file imports, wherever in it, or names in a string, as registries do.

    A package hands on what its `__init__.py` names in turn.
    """
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names} | {str(node.module)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.partition(":")[0])
    packages = [name.replace(".", "/") + "/__init__.py" for name in found if name.count(".") == 1]
    handed_on = [referred(init) for init in packages if init != file and (ROOT / init).is_file()]
    return frozenset(found.union(*handed_on))


def found_by(file: str) -> frozenset[str]:
    """What a file refers to, and of the registry of heads the programs, which it finds by their name."""
    return referred(file) | ({"transfer.heads.programs"} if file == "transfer/heads/__init__.py" else set())


def test_every_package_is_on_the_page_in_the_words_of_its_docstring() -> None:
    lines = dict(re.findall(r"^\| `([\w/.]+?)/?` \| (.+) \|$", SECTIONS["The packages of `transfer/`"], re.MULTILINE))
    modules = {str(init.parent.relative_to(PACKAGE)): init for init in PACKAGE.glob("*/**/__init__.py")}
    modules |= {file.name: file for file in PACKAGE.glob("*.py")}
    docstrings = {name: str(ast.get_docstring(ast.parse(file.read_text("utf-8")))) for name, file in modules.items()}
    own = {name: lines.get(name) for name in docstrings}
    assert own == {name: text.partition("\n")[0] for name, text in docstrings.items()}
    assert list(dict.fromkeys(name.partition("/")[0].removesuffix(".py") for name in lines)) == list(ROOMS), "the order"
    data = {name for name in lines if name not in modules}
    assert data and not [name for name in data if not (PACKAGE / name).is_dir()]
    files = [path for path in PACKAGE.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc", ".typed")]
    folders = {str(path.parent.relative_to(PACKAGE)) for path in files}
    assert folders <= data | modules.keys(), "folders without a line"


@pytest.mark.parametrize("title", WALKS)
def test_every_hop_is_a_function_of_its_file(title: str) -> None:
    found = hops(title)
    assert len(found) == len(re.findall(r"^ *(?:1\.|-) ", SECTIONS[title], re.MULTILINE)), "a hop of another form"
    wrong = [
        f"{file}: {name}"
        for file, names in found
        for name in (names or [""])
        if not (ROOT / file).is_file() or name and name not in set(defined(tree_of(file).body))
    ]
    assert len(found) > 12 and not wrong


@pytest.mark.parametrize("title", WALKS)
def test_every_hop_is_referred_to_by_a_file_that_comes_before_it(title: str) -> None:
    before: set[str] = set()
    for file, _ in hops(title):
        assert not before or file in before or any(module_of(file) in found_by(other) for other in before), file
        before.add(file)


def test_the_other_files_and_names_of_the_page_are_there() -> None:
    general = re.compile("[A-Z]{2}")  # transfer/models/FAMILY.py
    files = [file for file in re.findall(r"`((?:transfer|tests)/[\w/.]+)`", PAGE) if not general.search(file)]
    assert files and not [file for file in files if not (ROOT / file).exists()]
    registries = re.findall(r"`(transfer/[\w/]+\.py)`, `(\w+)` \|$", SECTIONS["Where something new goes"], re.MULTILINE)
    assert len(registries) == len(re.findall(r"^\| (?!a new|---)", SECTIONS["Where something new goes"], re.MULTILINE))
    assert not [name for file, name in registries if name not in set(defined(tree_of(file).body))]


def test_the_walks_begin_and_end_where_their_titles_say() -> None:
    batch, run = (hops(title) for title in WALKS)
    assert [batch[0][0], run[0][0]] == ["extract.py", "train.py"]
    assert batch[-1] == ("transfer/store/store.py", ["FeatureStore.open"])
    assert ("transfer/experiment/results.py", ["write"]) in run
