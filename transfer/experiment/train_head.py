"""Trains a head epoch by epoch: from the config and the rows to `result.json`, on one device or many, streamed or not.

A head that is fitted in one go, and one whose settings are chosen first, is `transfer.experiment.fit_head`'s.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from transfer.errors import TransferError, UsageError
from transfer.experiment import evaluate_head, head_settings, results, workdirs
from transfer.experiment.head_data import Data
from transfer.heads import scaling
from transfer.heads.programs import LINEAR, PROGRAMS
from transfer.heads.rows import flat_features
from transfer.runtime import distributed
from transfer.runtime.memory import limit_heaps
from transfer.training import checkpoints
from transfer.training.checkpoints import stopped_within
from transfer.training.loop import run_epochs
from transfer.training.parallel import placement as plans
from transfer.training.parallel.epochs import make_epochs
from transfer.training.parallel.reader import Split

# Epochs of a head that are on the device at a time; three keep two cores busy.
AHEAD = 3
# Rows that are evaluated at a time.
EVALUATED = 4096


def check(config: ConfigDict) -> None:
    """Raises UsageError for settings of a resolved config that contradict each other."""
    if config.head.order == "chunks":
        limit_heaps()  # JAX has not been asked for its devices yet
    plans.check(config, head_settings.program(config.head.name), whole(config))
    if in_one_go(config):
        head_settings.check(config)


def whole(config: ConfigDict) -> str | None:
    """What in the config needs all rows in the memory of one process, for a message; None for nothing."""
    head = config.head
    if head_settings.grid(config):
        return "config.sweep"
    if "," in (config.get("tap") or ""):
        return f"config.tap={config.tap}"
    if head.get("target", "classes") != "classes":
        return f"config.head.target={head.target}"
    for name in ("scaling", "class_weight"):
        if head.get(name) is not None:
            return f"config.head.{name}={head[name]}"
    program = head_settings.program(head.name)
    if program is not LINEAR:
        return f"config.head.name={head.name}"
    beyond = _beyond(program, head_settings.own(config))
    return f"config.head.{beyond[0]}={head[beyond[0]]}" if beyond else None


def _beyond(program: Any, own: Mapping[str, Any]) -> list[str]:
    """Settings that are not at their default and that training over several devices knows nothing of."""
    known = inspect.signature(make_epochs).parameters.keys() | {"epochs", "scaling", "class_weight"}
    return [key for key in own if key not in known and own[key] != program.defaults[key]]


def in_one_go(config: ConfigDict) -> bool:
    """Whether `transfer.experiment.fit_head` is to fit the head, and not epoch after epoch here."""
    other = config.head.get("target", "classes") != "classes"
    return head_settings.chooses(config) or other or head_settings.program(config.head.name) is None


def row_bytes(shape: Sequence[int], dtype: str) -> int:
    """Of a row of features on a device."""
    return math.prod(shape) * (2 if dtype == "bfloat16" else 4)


def plan(config: ConfigDict, workdir: epath.Path, sizes: Mapping[str, int], dtype: str | None = None) -> plans.Plan:
    """How to train on splits of so many bytes; see `transfer.training.parallel.placement.choose`."""
    within = distributed.broadcast(stopped_within(workdir), "stopped within an epoch")
    program = head_settings.program(config.head.name)
    return plans.choose(config, program, sizes, dtype or config.features_dtype, within, whole(config))


def epochs(config: ConfigDict, workdir: epath.Path) -> int | None:
    """How many epochs to train for in all: what the config asks for, or those that are there already, if they are more.

    An epoch that has been begun cannot be undone either. Of heads that have epochs; None for others.
    """
    asked, begun = config.head.epochs, epochs_begun(config, workdir)
    if asked is None or begun <= asked:
        return asked
    within = not in_one_go(config) and distributed.broadcast(stopped_within(workdir), "stopped within an epoch")
    so_far, rest = (
        (f"is in epoch {begun}", "that one is finished") if within else (f"has trained {begun} epochs", "nothing to do")
    )
    distributed.print_once(
        f"The head {so_far} already; {asked} asked: {rest}; for a head of {asked} give another --workdir."
    )
    return begun


def epochs_begun(config: ConfigDict, workdir: epath.Path) -> int:
    """Epochs of the head in a workdir, with one that it was stopped within; 0 where there is none."""
    if in_one_go(config):
        asked = results.read(workdir).get("asked") or {}
        return asked.get("settings", {}).get("epochs") or 0
    return distributed.broadcast(checkpoints.epochs_begun(workdir), "epochs begun")


def fit(
    config: ConfigDict,
    workdir: epath.Path,
    data: Data,
    facts: Mapping[str, Any],
    chunk_rows: int,
    bound: ConfigDict,
) -> dict[str, Any]:
    """Trains on the rows of `data`, of one tap; writes and returns the result.

    Args:
        config: resolved (`transfer.experiment.head_settings`).
        facts: what the result says besides.
        chunk_rows: of the store that the rows are in.
        bound: what `config.json` holds, in which it is said how training was done.
    """
    program, own = head_settings.program(config.head.name), head_settings.own(config)
    assert program is not None
    train, validation = data.train.split(), data.validation.split()
    for features, labels in (train, validation):
        distributed.print_once(f"{features.shape} {labels.shape}")
    if distributed.is_main() and (lost := data.missing()):
        distributed.print_once(lost)
    sizes = {
        split: len(rows.labels) * row_bytes(rows.features.shape[1:], rows.dtype.name)
        for split, rows in (("train", train), ("validation", validation))
    }
    chosen = plan(config, workdir, sizes, train.dtype.name)
    scaler, (train, validation) = _scaled(own["scaling"], train, validation)
    epoch, state = _started(config, program, train, validation, data.num_outputs, chosen, chunk_rows)
    before = results.read(workdir)
    if not before:  # what is under way
        workdirs.record(bound, workdir, workdirs.OF_TRAINING)
    run = run_epochs(epoch, state, own["epochs"], workdir, checkpoint_seconds=config.checkpoint_seconds, ahead=AHEAD)
    counts = {"num_train": len(data.train.labels), "num_validation": len(data.validation.labels)}
    result = results.of_run(run, dict(facts), num_classes=data.num_outputs, **counts)
    trained = results.trained(run, before)
    if not trained:
        result |= results.how(before)
    elif not chosen.plain:
        result |= {"num_devices": chosen.mesh.size, "streamed": chosen.stream}
    result |= {"head": config.head.name, "settings": own}
    params = _gathered(run.state["params"])
    if distributed.is_main():
        if trained or not evaluate_head.is_there(workdir) or "measures" not in before:
            size = max(1, EVALUATED // chunk_rows) * chunk_rows
            before = evaluate_head.of_scores(workdir, _logits(program, params, validation, size), data)
            _keep(config, workdir, program, params, data, scaler)
        result |= {key: before[key] for key in evaluate_head.KEYS if key in before}
        evaluate_head.print_summary(result)
    workdirs.record(bound, workdir, workdirs.OF_TRAINING if trained else ["head.epochs"])
    results.write(workdir, result)
    return result


def _started(
    config: ConfigDict,
    program: Any,
    train: Split,
    validation: Split,
    num_classes: int,
    chosen: plans.Plan,
    chunk_rows: int,
) -> tuple[Any, Any]:
    """What goes through an epoch, and the state before the first."""
    own, seed = head_settings.own(config), config.seed
    given = {key: own[key] for key in program.defaults}
    state = program.init_state(train.num_features, num_classes, program.init_key(seed), **given)
    if chosen.plain:
        arrays = [array[:] for split in (train, validation) for array in split]
        weights = _class_weights(own.get("class_weight"), arrays[1], num_classes)
        return program.make_epoch(*arrays, seed=seed, class_weight=weights, **given), state
    order = dict(order=config.head.order, chunk_rows=chunk_rows, window_rows=config.head.window)
    order |= {key: own[key] for key in ("batch_size", "learning_rate")}
    epoch = make_epochs(train, validation, num_classes, chosen.mesh, seed=seed, stream=chosen.stream, **order)
    return epoch, epoch.place(state)


def _keep(config: ConfigDict, workdir: epath.Path, program: Any, params: Any, data: Data, scaler: Any) -> None:
    """Keeps the head as an estimator, if it is one of ours; a user's that borrows a program is another estimator."""
    if PROGRAMS.get(config.head.name) is program:
        parameters = {**head_settings.own(config), "seed": config.seed}
        evaluate_head.keep_program(workdir, config.head.name, params, parameters, data, scaler)


def _scaled(name: str | None, train: Split, validation: Split) -> tuple[Any, tuple[Split, Split]]:
    """Both splits scaled by the training rows, in memory; as they are where nothing is to be done."""
    if name is None:
        return None, (train, validation)
    scaling.check(name)
    rows = [flat_features(split.features[:]) for split in (train, validation)]
    scaler = scaling.fit(name, rows[0])
    if distributed.is_main() and (line := scaling.dropped(scaler)):
        logging.warning("%s", line)
    done = [np.asarray(scaling.apply(scaler, array)) for array in rows]
    return scaler, (Split(done[0], train.labels[:]), Split(done[1], validation.labels[:]))


def _class_weights(wanted: str | None, labels: Any, num_classes: int) -> np.ndarray | None:
    """Float32 (C,): N / (C n) of a class of n rows, C those that have any, as scikit-learn's "balanced"; 0 of none."""
    if wanted is None:
        return None
    if wanted != "balanced":
        raise UsageError(f"config.head.class_weight={wanted!r} should be 'balanced', or left out")
    counts = np.bincount(np.asarray(labels).reshape(-1).astype(np.int64), minlength=num_classes)
    there = counts > 0
    return np.where(there, counts.sum() / (there.sum() * np.maximum(counts, 1)), 0).astype(np.float32)


def _gathered(params: Any) -> Any:
    """Weights that are spread over devices, on the host."""
    leaf = jax.tree.leaves(params)[0]
    if isinstance(leaf.sharding, NamedSharding) and not leaf.is_fully_addressable:
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        params = jax.jit(lambda tree: tree, out_shardings=everywhere)(params)
        return jax.tree.map(lambda one: np.asarray(one.addressable_data(0)), params)
    return jax.device_get(params)


def _logits(program: Any, params: Any, rows: Split, size: int) -> Iterator[np.ndarray]:
    """Logits float32 (n, C) of the rows, `size` at a time, by one program."""
    count = len(rows.labels)
    size = min(size, count)
    logits = jax.jit(program.logits)
    for start in range(0, count, size):
        block = np.asarray(rows.features[start : start + size]).reshape(-1, rows.num_features).astype(np.float32)
        padded = np.pad(block, [(0, size - len(block)), (0, 0)])
        found = np.asarray(logits(params, jnp.asarray(padded)))[: len(block)]
        if not np.isfinite(found).all():
            raise TransferError("the head's scores of the validation rows are not finite; lower its learning_rate")
        yield found
