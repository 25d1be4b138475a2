"""The resumable loop over epochs that heads and whole networks share: lines, metrics, checkpoints, the best epoch.

Over several processes all go through it in step. Each saves its part of a checkpoint; process 0 alone prints, and
writes the metrics.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeVar, cast

import jax
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import distributed, interrupts, preemption
from transfer.training.checkpoints import Checkpoints
from transfer.training.metrics import Metrics
from transfer.training.run import Part, Position, Run, State

T = TypeVar("T")
Epoch = Callable[[State, int], tuple[State, dict[str, jax.Array]]]


class Parts(Protocol):
    """Epochs that can be stopped within."""

    def parts(self, state: State, indices: Iterable[int], position: Position | None = None) -> Iterator[Part]:
        """The epochs `indices`, the first of them from `position` on, part by part."""
        ...


# Metric -> its name in the line of an epoch, as Keras prints it.
LABELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "validation_loss": "val_loss",
    "validation_accuracy": "val_accuracy",
}

# How long an error of one of several processes waits for the news that another has gone.
VERDICT_SECONDS = 2.0


def run_epochs(
    epoch: Epoch | Parts,
    state: State,
    epochs: int,
    workdir: epath.Path,
    *,
    checkpoint_seconds: float = 30.0,
    ahead: int = 1,
) -> Run:
    """Trains to `epochs` epochs in all, going on from the newest checkpoint of `workdir`; prints a line an epoch.

    Each epoch must depend on its state and index alone, so that a run that was stopped ends bit for bit as one
    that was not. A checkpoint is written every `checkpoint_seconds`, at the end, on Ctrl-C, and where the process is
    asked to end (`transfer.runtime.preemption`): after an epoch, or after a part of one where `epoch` has parts.
    `ahead` epochs or parts are given to the device at a time, which then does not wait for what is done about the
    results of one; each is a state more in its memory.

    Raises:
        TransferError: the loss is no longer finite, or the checkpoint is of another model.
        Preempted: the process was asked to end, and everything is saved.
    """
    run, checkpoints = Run(state), Checkpoints(workdir)
    try:
        checkpoints.restore(run)
        if run.epoch >= epochs:
            distributed.print_once(f"Already trained for {run.epoch} epochs; nothing to do.")
            if Metrics.differ(workdir, run.epoch):
                Metrics(workdir, run.history).close()
            return run
        if any(run.reached):
            within = f", {run.reached[1]} batches into the next one" if run.position else ""
            distributed.print_once(f"Going on after epoch {run.epoch}{within}.")
        workdir.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(workdir, run.history)
        try:
            parts = begun_ahead(_parts(epoch, run, epochs), ahead)
            _train(parts, run, epochs, checkpoints, metrics, checkpoint_seconds)
        finally:
            metrics.close()
    except Exception as error:
        if distributed.process_count() > 1 and not isinstance(error, preemption.Preempted):
            # where another process has gone, JAX fails in words of its own; our watch, which ends this one, names it
            time.sleep(VERDICT_SECONDS)
        raise
    finally:
        checkpoints.close()
    return run


def one_by_one(epoch: Epoch, state: State, epochs: Iterable[int]) -> Iterator[tuple[State, dict[str, jax.Array]]]:
    """The results of `epochs`."""
    for index in epochs:
        state, metrics = epoch(state, index)
        yield state, metrics


def begun_ahead(results: Iterator[T], ahead: int) -> Iterator[T]:
    """The same results; `ahead` of them are begun before the first is given."""
    begun: deque[T] = deque()
    for result in results:
        begun.append(result)
        if len(begun) == ahead:
            yield begun.popleft()
    yield from begun


def _parts(epoch: Epoch | Parts, run: Run, epochs: int) -> Iterator[Part]:
    """What is left of `epochs` epochs."""
    indices = range(run.epoch, epochs)
    if not callable(getattr(epoch, "parts", None)):
        if run.position is not None:
            raise TransferError(
                "this run stopped within an epoch, and these settings take whole ones; take another --workdir"
            )
        for state, on_device in one_by_one(cast(Epoch, epoch), run.state, indices):
            yield Part(state, partial(jax.device_get, on_device), None)
    else:
        yield from cast(Parts, epoch).parts(run.state, indices, run.position)


def _train(
    parts: Iterator[Part],
    run: Run,
    epochs: int,
    checkpoints: Checkpoints,
    metrics: Metrics,
    checkpoint_seconds: float,
) -> None:
    saved, saved_time, last = run.reached, time.monotonic(), None
    try:
        start = time.monotonic()
        for last in parts:
            checkpoints.prepare()
            if last.metrics is not None:
                fetched = last.metrics()
                row = {name: float(fetched[name]) for name in sorted(fetched, key=list(LABELS).index)}
                _check_finite(row, run.epoch + 1)
                _take_in(run, last.state, row, metrics)
                distributed.print_once(_line(run.history[-1], epochs))
            run.seconds += time.monotonic() - start
            stop, done = preemption.stop_at(run.epoch), run.epoch == epochs
            if done or stop or _due(saved_time, checkpoint_seconds):
                run.stand_at(last)
                checkpoints.save(run)
                saved, saved_time = run.reached, time.monotonic()
            if stop and not done:
                raise preemption.Preempted
            start = time.monotonic()
    except (KeyboardInterrupt, preemption.Preempted):
        # a Ctrl-C that one of several processes gets is not known to the others, who would not save with it
        if last is not None and distributed.process_count() == 1:
            run.stand_at(last)
            if run.reached > saved:
                checkpoints.save(run)
        raise


@interrupts.uninterruptible
def _take_in(run: Run, state: State, row: dict[str, float], metrics: Metrics) -> None:
    """Adds an epoch to the run and to its metrics: a checkpoint after Ctrl-C holds both or neither."""
    run.add(state, row)
    metrics.write(run.history[-1])


def _due(saved_time: float, checkpoint_seconds: float) -> bool:
    """Whether the next checkpoint is due, by the clock of process 0."""
    return distributed.broadcast(time.monotonic() - saved_time > checkpoint_seconds, "checkpoint due")


def _check_finite(row: dict[str, float], epoch: int) -> None:
    wrong = [name for name, value in row.items() if not math.isfinite(value)]
    if wrong:
        raise TransferError(
            f"{LABELS.get(wrong[0], wrong[0])} is {row[wrong[0]]} in epoch {epoch}: training diverged; "
            "lower the config's learning_rate, in another --workdir"
        )


def _line(row: dict[str, float], epochs: int) -> str:
    values = " - ".join(f"{LABELS.get(name, name)}: {value:.4f}" for name, value in row.items() if name != "epoch")
    return f"Epoch {int(row['epoch'])}/{epochs} - {values}"
