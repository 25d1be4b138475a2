"""Config files, Python whose `get_config()` is the experiment: `NAME` or `PATH.py`, and `:ARGUMENT` behind either.

A name is one of those that come with the package, whatever lies in the current folder; what has a `/` in it or ends in
`.py` is the path of a file.
"""

import ast
import inspect
import os
import runpy
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from transfer.errors import UsageError, did_you_mean, similar
from transfer.runtime.files import paths

LISTED = "python -m transfer train --help lists the configs that come with the package"


def packaged() -> dict[str, Path]:
    """The configs that come with the package, by name: they lie in it where it is installed, beside it in a clone."""
    package = Path(__file__).parents[1]
    files = sorted((package / "configs").glob("*.py")) or sorted((package.parent / "configs").glob("*.py"))
    return {file.stem: file for file in files}


def summaries() -> dict[str, str]:
    """Name of each packaged config -> the first line of its file's docstring."""
    docs = {name: ast.get_docstring(ast.parse(file.read_text("utf-8"))) for name, file in packaged().items()}
    return {name: (text or "").partition("\n")[0] for name, text in docs.items()}


def load(given: str) -> ConfigDict:
    """The config of a name or a path, and its argument; UsageError, naming it, where it is missing or wrong."""
    name, *argument = given.split(":", 1)
    is_path = os.sep in name or name.endswith(".py")
    path = paths.expand(name) if is_path else str(packaged().get(name, ""))
    if not Path(path).is_file():
        raise UsageError(f"--config={given}: {_missing(name, Path(path) if is_path else None)}")
    try:
        get_config: Any = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise UsageError("the file has no get_config()")
        _check_arguments(get_config, argument)
        config = get_config(*argument)
        if not isinstance(config, ConfigDict):
            raise UsageError(f"get_config() returns {type(config).__name__}, not a config; is its `return` missing?")
    except Exception as error:  # whatever the file does wrong
        raise UsageError(f"--config={given}: {_described(error, path)}") from error
    return config


def _missing(name: str, path: Path | None) -> str:
    """The error for a path without a file, or for a name that no packaged config has: what may be meant instead."""
    if path is not None and path.stem in packaged():
        return f"no such file; a config of that name comes with the package: --config={path.stem}"
    if path is not None:
        return f"no such file; {f'see the ones in {path.parent}/' if path.parent.is_dir() else LISTED}"
    if files := [file for file in (name, f"{name}.py") if Path(file).is_file()]:
        return f"no config of that name comes with the package; the file is --config=./{files[0]}"
    return f"no such config; {LISTED}{did_you_mean(similar(name, packaged()))}"


def _check_arguments(get_config: Any, argument: list[str]) -> None:
    """Raises UsageError for an argument that the function does not take, or that it lacks."""
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError:
        given = f"no argument, and is given {argument[0][:60]!r}" if argument else "an argument, --config=FILE:ARGUMENT"
        raise UsageError(f"the config takes {given}") from None


def _described(error: Exception, path: str) -> str:
    """The error and, unless the file says so itself, the line that it is in."""
    if isinstance(error, UsageError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
