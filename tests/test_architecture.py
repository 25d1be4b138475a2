"""Imports run one way: which rooms of the package each room may use, and no module in a circle."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "transfer"
PAGE = REPOSITORY / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->", "<!-- /rooms -->"

# Room -> the rooms that it uses, all of which stand above it. The public names of `import transfer` are the last one.
ROOMS = {
    "errors": "",
    "runtime": "errors",
    "preprocess": "errors runtime",
    "models": "errors",
    "data": "errors runtime preprocess",
    "config": "errors data",
    "weights": "errors runtime preprocess models",
    "freeze": "runtime models",
    "store": "errors runtime data",
    "extract": "errors runtime preprocess models data freeze store",
    "heads": "errors runtime",
    "evaluation": "errors runtime heads",
    "training": "errors runtime preprocess models config weights heads",
    "report": "errors runtime data config store evaluation",
    "experiment": "errors runtime preprocess models data config weights store extract heads evaluation training report",
    "export": "errors runtime preprocess data weights store extract heads evaluation experiment",
    "bench": "errors runtime preprocess models data weights extract heads training report experiment",
    "cli": "errors runtime models data config weights store heads evaluation report experiment export bench",
    "__main__": "runtime cli",
    "__init__": "runtime weights store extract heads evaluation export",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name; a package's is the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it: inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in names)


GRAPH = {name: set(imports(path)) - {name} for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty where there is no such circle."""
    done: set[str] = set()

    def search(module: str, above: list[str]) -> list[str]:
        if module in above:
            return above[above.index(module) :]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if found := search(other, [*above, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := search(module, []))), [])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_the_rooms_of_the_table(room: str) -> None:
    used = {room_of(other) for module, others in GRAPH.items() if room_of(module) == room for other in others}
    assert used - {room} == set(ROOMS[room].split())


def test_imports_run_one_way() -> None:
    order = list(ROOMS)
    for room, used in ROOMS.items():
        assert set(used.split()) <= set(order[: order.index(room)]), f"{room} uses a room below it"
    assert {room_of(module) for module in MODULES} == set(ROOMS)
    assert circle(GRAPH) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c"]


def test_a_stranger_sees_the_rooms_at_a_glance() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert entries == {room if (PACKAGE / room).is_dir() else f"{room}.py" for room in ROOMS} and len(entries) <= 20


def test_the_page_shows_the_table() -> None:
    lines = [f"| `{room}` | {', '.join(f'`{name}`' for name in used.split()) or '-'} |" for room, used in ROOMS.items()]
    table = "\n".join(["| room | uses |", "|---|---|", *lines])
    assert PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip() == table
