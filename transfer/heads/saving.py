"""A fitted head as one `.safetensors` file: its arrays, and in the metadata which head it is. No pickle."""

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transfer.heads.estimator import Head


def save(head: "Head", path: str | os.PathLike) -> None:
    """Writes a fitted head; see `load`."""
    raise NotImplementedError
