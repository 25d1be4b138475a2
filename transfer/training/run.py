"""The progress of a training run: its state, the best weights so far, and one row of metrics an epoch."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

# A dict with "params" (and "stats": batch statistics), "opt_state" and whatever else an epoch carries on ("frozen").
State = dict[str, Any]
# Where within an epoch a run has come to: JSON values, among them "epoch", which epoch (from 0) it is.
Position = dict[str, Any]
# The entries of a state that training changes of a model.
WEIGHTS = ("params", "stats")


class Part(NamedTuple):
    """A part of training: an epoch or less of it, perhaps still on its way on the device."""

    state: State  # after it
    metrics: Callable[[], dict[str, float]] | None  # gives those of an epoch that has ended; None within one
    position: Callable[[], Position] | None  # gives the place within an epoch; None at its end


class Trainer(Protocol):
    """Trains epochs one after the other, part by part; a whole epoch may be one part."""

    def __call__(self, state: State, indices: Iterable[int], position: Position | None = None) -> Iterator[Part]:
        """The epochs `indices` (from 0) of a state, the first of them from `position` on."""
        ...


def weights_of(state: State) -> State:
    """The part of a state that training changes of a model."""
    return {name: state[name] for name in WEIGHTS if name in state}


class Run:
    """A training run: its state, the best weights so far, and one row of metrics an epoch.

    `position` is where within the next epoch the state is; None at its beginning.
    """

    def __init__(self, state: State) -> None:
        self.state, self.best = state, weights_of(state)
        self.best_epoch = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.position: Position | None = None

    @property
    def epoch(self) -> int:
        """Number of epochs that are done."""
        return len(self.history)

    def kept_epoch(self, keep: str) -> int:
        """The epoch, from 1, whose weights the run ends with: `keep` is "last" or "best"."""
        return self.best_epoch if keep == "best" else self.epoch

    def kept_state(self, keep: str) -> State:
        """The state with the weights of that epoch; what else is in it is the last one's."""
        return {**self.state, **self.best} if keep == "best" else self.state

    def has_stalled(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs were no better than the best before them; never for None."""
        return patience is not None and self.epoch - self.best_epoch >= patience

    @property
    def progress(self) -> tuple[int, int]:
        """Number of epochs that are done, and of batches of the next one."""
        return self.epoch, self.position["batches"] if self.position else 0

    def add(self, state: State, metrics: dict[str, float]) -> None:
        """Adds an epoch's results; the first epoch of the highest validation accuracy is the best."""
        self.state, self.position = state, None
        self.history.append({"epoch": self.epoch + 1, **metrics})
        score = "validation_accuracy" if "validation_accuracy" in metrics else "accuracy"
        if not self.best_epoch or metrics[score] > self.history[self.best_epoch - 1][score]:
            self.best, self.best_epoch = weights_of(state), self.epoch

    def record_position(self, part: Part) -> None:
        """Records the state and the position of a part that ends within an epoch, to be saved."""
        if part.position is not None:
            self.state, self.position = part.state, part.position()
