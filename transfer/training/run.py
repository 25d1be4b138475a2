"""What a training run has reached: its state, the best weights so far, and one row of metrics an epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# A dict with "params" (and "stats": batch statistics), "opt_state" and whatever else an epoch carries on ("frozen").
State = dict[str, Any]
# Where within an epoch a run has come to: JSON values, among them "epoch", which epoch (from 0) it is.
Position = dict[str, Any]
# What training changes of a model.
WEIGHTS = ("params", "stats")


class Part(NamedTuple):
    """What training has come to, perhaps still on its way on the device.

    Attributes:
        state: after it.
        metrics: gives those of an epoch that has ended; None within one.
        position: gives the place within an epoch; None at its end.
    """

    state: State
    metrics: Callable[[], dict[str, float]] | None
    position: Callable[[], Position] | None


def weights_of(state: State) -> State:
    """The part of a state that training changes of a model."""
    return {name: state[name] for name in WEIGHTS if name in state}


class Run:
    """What one training run has reached: its state, the best weights so far, and one row of metrics an epoch.

    `position` is where within the next epoch the state is; None at its beginning.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.best = jax.tree.map(jnp.copy, weights_of(state))
        self.best_epoch = 0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.position: Position | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def reached(self) -> tuple[int, int]:
        """Epochs done, and batches of the next one."""
        return self.epoch, self.position["batches"] if self.position else 0

    def add(self, state: State, metrics: dict[str, float]) -> None:
        """Takes an epoch's results in; the first epoch of the highest validation accuracy is the best."""
        self.state, self.position = state, None
        self.history.append({"epoch": self.epoch + 1, **metrics})
        score = "validation_accuracy" if "validation_accuracy" in metrics else "accuracy"
        if not self.best_epoch or metrics[score] > self.history[self.best_epoch - 1][score]:
            self.best = jax.tree.map(jnp.copy, weights_of(state))
            self.best_epoch = self.epoch

    def stand_at(self, part: Part) -> None:
        """Takes in where a part within an epoch has come to, to be saved."""
        if part.position is not None:
            self.state, self.position = part.state, part.position()
