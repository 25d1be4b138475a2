"""Heads: what is trained on stored features. A head `NAME` is one file, `NAME_probe.py`, found by its name.

The file defines a scikit-learn classifier, `NameProbe` (the name in camel case), and may define a regressor,
`NameRegressor`; `transfer.heads.estimator` has the bases of ours, which a user's need not have. If the class has a
`program` (`transfer.heads.programs`), then `train.py --config.head.name=NAME` trains it epoch by epoch, resumable;
other heads are fitted in one go. Our programs are `transfer.heads.linear`, `.sgd` and `.mlp`, found without
scikit-learn, which takes longer to import than JAX.
"""

import importlib
import os
from typing import Any

from transfer.heads.registry import HEADS, camel, find_program, module_of, program, regressor

__all__ = ["HEADS", "find_program", "load", "program", "regressor"]


def load(path: str | os.PathLike) -> Any:
    """The head that `save` wrote; see `transfer.heads.saving.load`."""
    return importlib.import_module("transfer.heads.saving").load(path)


def __getattr__(name: str) -> Any:
    """`transfer.heads.LinearProbe`, `RidgeRegressor` …, and the programs, without importing more than is needed."""
    if name in ("linear", "sgd", "mlp"):
        return find_program(name)
    for ending in ("Probe", "Regressor"):
        for head in HEADS if name.endswith(ending) else ():
            if name == camel(head) + ending and hasattr(module_of(head), name):
                return getattr(module_of(head), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
