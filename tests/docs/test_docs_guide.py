"""`docs/adding-a-backbone.md`, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "adding-a-backbone.md"
COPIED = ("transfer", "configs", "extract.py", "train.py", "setup.cfg", "pyproject.toml", "tests/conftest.py")
# ```language path-of-the-file
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELLIPSIS = "…"


def dialogue(block: str) -> Iterator[tuple[str, str]]:
    """(command, what is shown under it) of a console block; a command goes on after a backslash."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL).groups()
        yield command, shown


def pattern(shown: str) -> str:
    """A regular expression for an output in which `…` stands for anything, as a line by itself for any lines."""
    lines = shown.splitlines(keepends=True)
    anything = [r"(?:.*\n)*?" if line == ELLIPSIS + "\n" else None for line in lines]
    return "".join(some or re.escape(line).replace(ELLIPSIS, ".*") for some, line in zip(anything, lines, strict=True))


def copy_of_the_package(folder: Path) -> dict[str, str]:
    """Copies what the guide works on into `folder`; returns an environment in which `python` is this one."""
    for name in COPIED:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
def test_the_guide_says_what_happens(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    environment = copy_of_the_package(tmp_path)
    commands = 0
    for language, path, block in FENCE.findall(GUIDE.read_text("utf-8")):
        if path:
            target = tmp_path / path
            assert not target.exists(), f"the guide adds {path}, which is there"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block, "utf-8")
            continue
        assert language == "console"
        for command, shown in dialogue(block):
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert re.fullmatch(pattern(shown), done.stdout), f"{command}\nshows\n{done.stdout}\nnot\n{shown}"
            commands += 1
    assert commands >= 8


def test_the_guides_code_is_in_the_projects_style() -> None:
    blocks = [(path, block) for _, path, block in FENCE.findall(GUIDE.read_text("utf-8")) if path.endswith(".py")]
    assert blocks
    for path, block in blocks:
        compile(block, path, "exec")
        assert max(map(len, block.splitlines())) <= 120
