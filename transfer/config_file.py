"""Config files, `configs/NAME.py` or `configs/NAME.py:ARGUMENT`: Python whose `get_config()` is the experiment."""

import inspect
import runpy
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from transfer.errors import UsageError
from transfer.runtime.files import paths


def load(given: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT`; UsageError, naming it, where the file is missing or wrong."""
    path, *argument = given.split(":", 1)
    path = paths.given(path)
    if not Path(path).is_file():
        raise UsageError(f"--config={given}: no such file; see the ones in {Path(path).parent}/")
    try:
        get_config: Any = runpy.run_path(path).get("get_config")
        _check_arguments(get_config, argument)
        config = get_config(*argument)
        if not isinstance(config, ConfigDict):
            raise UsageError(f"get_config() returns {type(config).__name__}, not a config; is its `return` missing?")
    except Exception as error:  # whatever the file does wrong
        raise UsageError(f"--config={given}: {_described(error, path)}") from error
    return config


def _check_arguments(get_config: Any, argument: list[str]) -> None:
    """UsageError without such a function, and where it takes no argument and is given one, or the other way round."""
    if not callable(get_config):
        raise UsageError("it has no get_config()")
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError:
        if not argument:
            raise UsageError("it takes an argument, --config=FILE:ARGUMENT") from None
        raise UsageError(f"it takes nothing behind its name, and is given {argument[0][:60]!r}") from None


def _described(error: Exception, path: str) -> str:
    """What is wrong and, unless the file says so itself, in which of its lines."""
    if isinstance(error, UsageError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
