"""Trains a head on features: from the config and the rows to `result.json`, on one device or many, streamed or not."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer import distributed, heads, results
from transfer.allocator import limit_heaps
from transfer.checkpoints import stopped_within
from transfer.errors import UsageError
from transfer.heads import plan as plans
from transfer.heads.reading import Split
from transfer.training import run_epochs, say

# Epochs of a head that are on the device at a time; three keep two cores busy.
AHEAD = 3
# Settings of `config.head` that are not the recipe's.
NO_RECIPE = ("name", "epochs", "order", "window")


def check(config: ConfigDict) -> None:
    """Raises UsageError for a head that is not known, and for settings that contradict each other."""
    if config.head.order == "chunks":
        limit_heaps()  # JAX has not been asked for its devices yet
    plans.check(config, _head(config)[0])


def _head(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """The program of the config's head and its settings; UsageError for one that is not known."""
    recipe = {key: value for key, value in config.head.items() if key not in NO_RECIPE}
    program = heads.program(config.head.name)
    unknown = recipe.keys() - inspect.signature(program.make_epoch).parameters.keys()
    if unknown:
        raise UsageError(f"config.head: {config.head.name} has no setting {', '.join(sorted(unknown))}")
    return program, recipe


def row_bytes(shape: Sequence[int], dtype: str) -> int:
    """Of a row of features on a device."""
    return math.prod(shape) * (2 if dtype == "bfloat16" else 4)


def plan(config: ConfigDict, workdir: epath.Path, sizes: Mapping[str, int], dtype: str | None = None) -> plans.Plan:
    """How to train on splits of so many bytes; see `transfer.heads.plan.choose`."""
    within = distributed.broadcast(stopped_within(workdir), "stopped within an epoch")
    return plans.choose(config, _head(config)[0], sizes, dtype or config.features_dtype, within)


def fit(
    config: ConfigDict,
    workdir: epath.Path,
    splits: Mapping[str, Split],
    num_classes: int,
    facts: Mapping[str, Any],
    chunk_rows: int,
    identity: ConfigDict | None = None,
) -> dict[str, Any]:
    """Trains on the splits `train` and `validation`; writes and returns the result.

    Args:
        facts: what the result says besides.
        chunk_rows: of the store that the rows are in.
        identity: what the workdir is bound to, where nothing has bound it yet.
    """
    program, recipe = _head(config)
    for features, labels in splits.values():
        say(f"{features.shape} {labels.shape}")
    train, validation = splits["train"], splits["validation"]
    sizes = {
        split: len(rows.labels) * row_bytes(rows.features.shape[1:], rows.dtype.name) for split, rows in splits.items()
    }
    chosen = plan(config, workdir, sizes, train.dtype.name)
    state = program.init_state(train.num_features, num_classes, program.init_key(config.seed))
    epoch: Any
    if chosen.plain:
        arrays = [array[:] for split in (train, validation) for array in split]
        epoch = program.make_epoch(*arrays, seed=config.seed, **recipe)
    else:
        order = dict(order=config.head.order, chunk_rows=chunk_rows, window_rows=config.head.window)
        epoch = program.make_epochs(
            train, validation, num_classes, chosen.mesh, seed=config.seed, stream=chosen.stream, **order, **recipe
        )
        state = epoch.place(state)
    if identity is not None:
        settings.settle(identity, workdir)
    run = run_epochs(
        epoch, state, config.head.epochs, workdir, checkpoint_seconds=config.checkpoint_seconds, ahead=AHEAD
    )
    counts = {f"num_{split}": len(rows.labels) for split, rows in splits.items()}
    result = results.of_run(run, dict(facts), num_classes=num_classes, **counts)
    if not chosen.plain:
        result |= {"num_devices": chosen.mesh.size, "streamed": chosen.stream}
    results.write(workdir, result)
    return result
