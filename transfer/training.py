"""The resumable loop over epochs that heads and whole networks share: lines, metrics, checkpoints, the best epoch."""

import functools
import importlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from transfer.errors import TransferError

# A dict with "params" (and "stats": batch statistics), "opt_state" and whatever else an epoch carries on ("frozen").
State = dict[str, Any]
Epoch = Callable[[State, int], tuple[State, dict[str, jax.Array]]]
# What training changes of a model.
WEIGHTS = ("params", "stats")
# Metric -> its name in the line of an epoch, as Keras prints it.
LABELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "validation_loss": "val_loss",
    "validation_accuracy": "val_accuracy",
}


def has_checkpoint(workdir: epath.Path) -> bool:
    """Whether a run in `workdir` has come as far as a checkpoint."""
    folder = workdir / "checkpoints"
    return folder.exists() and any(path.name.isdigit() for path in folder.iterdir())


def weights_of(state: State) -> State:
    """The part of a state that training changes of a model."""
    return {name: state[name] for name in WEIGHTS if name in state}


class Run:
    """What one training run has reached: its state, the best weights so far, and one row of metrics an epoch."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.best = jax.tree.map(jnp.copy, weights_of(state))
        self.best_epoch = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def add(self, state: State, metrics: dict[str, float], seconds: float) -> None:
        """Takes an epoch's results in; the first epoch of the highest validation accuracy is the best."""
        self.state = state
        self.history.append({"epoch": self.epoch + 1, **metrics})
        self.seconds += seconds
        score = "validation_accuracy" if "validation_accuracy" in metrics else "accuracy"
        if not self.best_epoch or metrics[score] > self.history[self.best_epoch - 1][score]:
            self.best = jax.tree.map(jnp.copy, weights_of(state))
            self.best_epoch = self.epoch


class Checkpoints:
    """Orbax checkpoints under `workdir/checkpoints`: each step holds the latest state and the best weights."""

    def __init__(self, workdir: epath.Path) -> None:
        self._workdir = workdir
        self._importing: threading.Thread | None = None

    # Orbax takes a third of a second to import: the first time that there is something to read or to write.
    @functools.cached_property
    def _ocp(self) -> Any:
        import orbax.checkpoint as ocp

        return ocp

    @functools.cached_property
    def _manager(self) -> Any:
        ocp = self._ocp
        return ocp.CheckpointManager(
            (self._workdir / "checkpoints").resolve(),  # Orbax takes absolute paths only
            options=ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True),
            item_handlers={
                "latest": ocp.StandardCheckpointHandler(),
                "best": ocp.StandardCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
            },
        )

    def restore(self, run: Run) -> None:
        """Fills `run` from the latest checkpoint, if there is one.

        Raises:
            TransferError: the checkpoint holds another model (Orbax would load what fits without a word).
        """
        if not has_checkpoint(self._workdir):
            return
        step = self._manager.latest_step()
        if step is None:
            return
        save = self._ocp.args
        found = self._manager.item_metadata(step)
        for name, ours in (("latest", run.state), ("best", run.best)):
            theirs = {k: tuple(v.shape) for k, v in _leaves(found[name].tree).items()}
            if theirs != {k: tuple(v.shape) for k, v in _leaves(ours).items()}:
                raise TransferError(
                    f"the checkpoint in {self._manager.directory} is of another model; take another --workdir"
                )
        restored = self._manager.restore(
            step,
            args=save.Composite(
                latest=save.StandardRestore(run.state),
                best=save.StandardRestore(run.best),
                progress=save.JsonRestore(),
            ),
        )
        run.state, run.best = restored["latest"], restored["best"]
        progress = restored["progress"]
        run.history, run.best_epoch = progress["history"], progress["best_epoch"]
        run.seconds = progress["seconds"]

    def save(self, run: Run) -> None:
        """Writes a checkpoint of `run`, atomically, and returns when it is on disk.

        Raises OSError where the disk is full or refuses; what was begun is removed.
        """
        from transfer.chunks import readable

        save = self._ocp.args
        progress = {"history": run.history, "best_epoch": run.best_epoch, "seconds": run.seconds}
        folder = self._manager.directory
        try:
            with readable(str(folder)):
                self._manager.save(
                    run.epoch,
                    args=save.Composite(
                        latest=save.StandardSave(run.state),
                        best=save.StandardSave(run.best),
                        progress=save.JsonSave(progress),
                    ),
                )
                self._manager.wait_until_finished()
        except (OSError, TransferError):
            for begun in folder.glob("*.orbax-checkpoint-tmp"):
                begun.rmtree(missing_ok=True)
            raise

    def prepare(self) -> None:
        """Begins to import what `save` needs, while the device computes."""
        if self._importing is None and "_ocp" not in vars(self):
            self._importing = threading.Thread(target=importlib.import_module, args=("orbax.checkpoint",))
            self._importing.start()

    def close(self) -> None:
        """Waits for what is being written."""
        if "_manager" in vars(self):
            self._manager.close()


def _leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(map(name, path)): leaf for path, leaf in flat if hasattr(leaf, "shape")}


class Metrics:
    """`metrics.jsonl` and TensorBoard events; both are cut back to the checkpoint that a resumed run starts from."""

    def __init__(self, workdir: epath.Path, history: list[dict[str, float]]) -> None:
        from tensorboardX import SummaryWriter

        from transfer.config import write_text

        self._path = workdir / "metrics.jsonl"
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in history))
        self._board = SummaryWriter(str(workdir), purge_step=len(history) + 1)

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))

    def close(self) -> None:
        """Flushes the events."""
        self._board.close()


def run_epochs(
    epoch: Epoch, state: State, epochs: int, workdir: epath.Path, *, checkpoint_seconds: float = 30.0, ahead: int = 1
) -> Run:
    """Trains to `epochs` epochs in all, going on from the latest checkpoint of `workdir`; prints a line an epoch.

    Each epoch must depend on its state and index alone, so that a run that was stopped ends bit for bit as one
    that was not. A checkpoint is written every `checkpoint_seconds`, at the end, and on Ctrl-C. `ahead` epochs are
    given to the device at a time, which then does not wait for what is done about the results of one; each is a
    state more in its memory.

    Raises:
        TransferError: the loss is no longer finite, or the checkpoint is of another model.
    """
    run, checkpoints = Run(state), Checkpoints(workdir)
    try:
        checkpoints.restore(run)
        if run.epoch >= epochs:
            print(f"Already trained for {run.epoch} epochs; nothing to do.")
            return run
        if run.epoch:
            print(f"Going on after epoch {run.epoch}.")
        workdir.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(workdir, run.history)
        try:
            results = begun_ahead(epoch, run.state, range(run.epoch, epochs), ahead)
            _train(results, run, epochs, checkpoints, metrics, checkpoint_seconds)
        finally:
            metrics.close()
    finally:
        checkpoints.close()
    return run


def begun_ahead(
    epoch: Epoch, state: State, epochs: Iterable[int], ahead: int
) -> Iterator[tuple[State, dict[str, jax.Array]]]:
    """The results of `epochs`, the next ones begun before one is asked for."""
    begun: deque[tuple[State, dict[str, jax.Array]]] = deque()
    for index in epochs:
        begun.append(epoch(state, index))
        state = begun[-1][0]
        if len(begun) == ahead:
            yield begun.popleft()
    yield from begun


def _train(
    results: Iterator[tuple[State, dict[str, jax.Array]]],
    run: Run,
    epochs: int,
    checkpoints: Checkpoints,
    metrics: Metrics,
    checkpoint_seconds: float,
) -> None:
    saved_epoch, saved_time = run.epoch, time.monotonic()
    try:
        start = time.monotonic()
        for state, on_device in results:
            checkpoints.prepare()
            fetched = jax.device_get(on_device)
            row = {name: float(fetched[name]) for name in sorted(fetched, key=list(LABELS).index)}
            _check_finite(row, run.epoch + 1)
            run.add(state, row, time.monotonic() - start)
            metrics.write(run.history[-1])
            print(_line(run.history[-1], epochs), flush=True)
            if run.epoch == epochs or time.monotonic() - saved_time > checkpoint_seconds:
                checkpoints.save(run)
                saved_epoch, saved_time = run.epoch, time.monotonic()
            start = time.monotonic()
    except KeyboardInterrupt:
        if run.epoch > saved_epoch:
            checkpoints.save(run)
        raise


def _check_finite(row: dict[str, float], epoch: int) -> None:
    wrong = [name for name, value in row.items() if not math.isfinite(value)]
    if wrong:
        raise TransferError(
            f"{LABELS.get(wrong[0], wrong[0])} is {row[wrong[0]]} in epoch {epoch}: training diverged; "
            "lower the learning rate, in another --workdir"
        )


def _line(row: dict[str, float], epochs: int) -> str:
    values = " - ".join(f"{LABELS.get(name, name)}: {value:.4f}" for name, value in row.items() if name != "epoch")
    return f"Epoch {int(row['epoch'])}/{epochs} - {values}"
