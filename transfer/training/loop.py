"""The resumable loop over epochs that heads and whole networks share: lines, metrics, checkpoints, the best epoch.

Over several processes all go through it in step. Each saves its part of a checkpoint; process 0 alone prints, and
writes the metrics.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import jax
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import distributed, interrupts, preemption
from transfer.runtime.files import lock
from transfer.runtime.progress import Progress
from transfer.training.checkpoints import Checkpoints
from transfer.training.metrics import Metrics
from transfer.training.run import Part, Position, Run, State, Trainer

T = TypeVar("T")

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
    train: Trainer,
    state: State,
    epochs: int,
    workdir: epath.Path,
    *,
    patience: int | None = None,
    checkpoint_seconds: float = 30.0,
    ahead: int = 1,
    rows: int = 0,
) -> Run:
    """Trains to `epochs` epochs in all, going on from the newest checkpoint of `workdir`; prints a line an epoch.

    It ends before that after `patience` epochs without a better one, whatever was stopped and resumed before.
    Each epoch must depend on its state and index alone, so that a run that was stopped ends bit for bit as one
    that was not. A checkpoint is written every `checkpoint_seconds`, at the end, on Ctrl-C, and where the process is
    asked to end (`transfer.runtime.preemption`): after a part. `ahead` parts are given to the device at a time, which
    then does not wait for what is done about the results of one; each is a state more in its memory. An epoch
    is of so many `rows`, of which `metrics.jsonl` has the rate.

    Raises:
        TransferError: the loss is no longer finite, or the checkpoint is of another model.
        Preempted: the process was asked to end, and everything is saved.
    """
    run, checkpoints = Run(state), Checkpoints(workdir)
    try:
        checkpoints.restore(run)
        if run.epoch >= epochs or run.has_stalled(patience):
            distributed.print_once(f"Already trained for {run.epoch} epochs; nothing to do.")
            if Metrics.differ(workdir, run.epoch):
                Metrics(workdir, run.history).close()
            return run
        if any(run.progress):
            within = f", {run.progress[1]} batches into the next one" if run.position else ""
            distributed.print_once(f"Going on after epoch {run.epoch}{within}.")
        workdir.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(workdir, run.history, rows)
        try:
            parts = dispatch_ahead(train(run.state, range(run.epoch, epochs), run.position), ahead)
            with Progress("training", epochs, "epochs", run.epoch, shown=False) as progress:
                _take_parts(parts, run, progress, patience, checkpoints, metrics, checkpoint_seconds)
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


def whole_epochs(epoch: Callable[[State, int], tuple[State, dict[str, jax.Array]]]) -> Trainer:
    """The trainer whose parts are whole epochs: `epoch(state, index)` returns the new state and its metrics."""

    def train(state: State, indices: Iterable[int], position: Position | None = None) -> Iterator[Part]:
        if position is not None:
            raise TransferError(
                "this run stopped within an epoch, where these settings cannot go on; take another --workdir"
            )
        for index in indices:
            state, metrics = epoch(state, index)
            yield Part(state, partial(jax.device_get, metrics), None)

    return train


def dispatch_ahead(results: Iterator[T], ahead: int) -> Iterator[T]:
    """Yields the same results; `ahead` of them are given to the device before the first is waited for."""
    dispatched: deque[T] = deque()
    for result in results:
        dispatched.append(result)
        if len(dispatched) == ahead:
            yield dispatched.popleft()
    yield from dispatched


def _take_parts(
    parts: Iterator[Part],
    run: Run,
    progress: Progress,
    patience: int | None,
    checkpoints: Checkpoints,
    metrics: Metrics,
    checkpoint_seconds: float,
) -> None:
    """Brings the run to its end by the parts that are left, and saves it whenever that is due."""
    saved, saved_time, last = run.progress, time.monotonic(), None
    try:
        start = time.monotonic()
        for last in parts:
            checkpoints.prepare()
            preemption.begin()
            progress.update(last.metrics is not None)
            if last.metrics is not None:
                values = last.metrics()
                row = {name: float(values[name]) for name in sorted(values, key=list(LABELS).index)}
                if wrong := [name for name, value in row.items() if not math.isfinite(value)]:
                    raise TransferError(
                        f"{LABELS[wrong[0]]} is {row[wrong[0]]} in epoch {run.epoch + 1}: training diverged; "
                        "lower the config's learning_rate, in another --workdir"
                    )
                _add_epoch(run, last.state, row, metrics)
                shown = " - ".join(f"{LABELS[name]}: {value:.4f}" for name, value in row.items())
                distributed.print_once(f"Epoch {run.epoch}/{progress.total} - {shown}")
            run.seconds += time.monotonic() - start
            lock.check_folders()
            stalled = last.metrics is not None and run.has_stalled(patience)
            stop, done = preemption.stop_at(run.epoch), run.epoch == progress.total or stalled
            # due by the clock of process 0
            due = distributed.broadcast(time.monotonic() - saved_time > checkpoint_seconds, "checkpoint due")
            if done or stop or due:
                run.record_position(last)
                checkpoints.save(run)
                saved, saved_time = run.progress, time.monotonic()
            if stop and not done:
                raise preemption.Preempted
            if stalled:
                best = f"none of the last {patience} was better than epoch {run.best_epoch}"
                distributed.print_once(f"Stopped after epoch {run.epoch}: {best}.")
                break
            start = time.monotonic()
    except (KeyboardInterrupt, preemption.Preempted):
        # a Ctrl-C that one of several processes gets is not known to the others, who would not save with it
        if last is not None and distributed.process_count() == 1:
            run.record_position(last)
            if run.progress > saved:
                checkpoints.save(run)
        raise


@interrupts.uninterruptible
def _add_epoch(run: Run, state: State, row: dict[str, float], metrics: Metrics) -> None:
    """Adds an epoch to the run and to its metrics: a checkpoint after Ctrl-C holds both or neither."""
    run.add(state, row)
    metrics.write(run.history[-1])
