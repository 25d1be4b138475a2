"""Paths as people give them."""

import os
from pathlib import PurePath
from typing import Any


def expand(path: Any) -> str:
    """The path with `~` as the home and `..` followed as the system does it, through links too; a URL as it is.

    A shell leaves `~` as it is in `--workdir=~/runs`, and TensorStore takes no `..`.
    """
    text = os.fspath(path)
    if "://" in text:
        return text
    text = os.path.expanduser(text)
    return os.path.realpath(text) if ".." in PurePath(text).parts else text
