"""Our trainers: the one of `train.py`, epoch by epoch, the estimator, and a sweep of penalties of logistic regression.

The grid has the 45 penalties of DINOv2's evaluation, on standardised rows. Where a contender fits all of them, its
accuracy is the highest of all on the validation rows, as an upper bound; choosing one is another matter
(`transfer.sweep`).
"""

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer.bench.heads.case import LEARNING_RATE, HeadCase, accuracy
from transfer.bench.worker import Prepared
from transfer.experiment.train_head import AHEAD
from transfer.heads.linear_probe import LinearProbe
from transfer.heads.logistic_probe import GRID, LogisticProbe
from transfer.heads.programs import LINEAR
from transfer.training.loop import dispatch_ahead, whole_epochs


def trainer(case: HeadCase) -> Prepared:
    """What `train.py` does between reading its files and writing its checkpoint: metrics are fetched every epoch."""
    x, y, validation_x, validation_y = case.arrays()
    rows = (x, y, validation_x, validation_y) if case.validates else (x, y)

    def call() -> dict[str, jax.Array]:
        epoch = LINEAR.make_epoch(*rows, batch_size=case.batch, learning_rate=LEARNING_RATE, seed=case.seed)
        state = LINEAR.init_state(case.features, case.classes, LINEAR.init_key(case.seed))
        parts = dispatch_ahead(whole_epochs(epoch)(state, range(case.epochs)), AHEAD)
        [(latest, _)] = deque(((part.state, part.metrics()) for part in parts if part.metrics), maxlen=1)
        return latest["params"]

    def score(params: dict[str, jax.Array]) -> float:
        return accuracy(np.asarray(LINEAR.logits(params, jnp.asarray(validation_x))), validation_y)

    return Prepared(call, score)


def estimator(case: HeadCase) -> Prepared:
    """`LinearProbe.fit`."""
    x, y, validation_x, validation_y = case.arrays()
    validation = (validation_x, validation_y) if case.validates else None

    def call() -> Any:
        probe = LinearProbe(case.epochs, case.batch, LEARNING_RATE, seed=case.seed)
        return probe.fit(x, y, validation_data=validation)

    return Prepared(call, lambda probe: probe.score(validation_x, validation_y))


def median_penalty(case: HeadCase) -> Prepared:
    """The penalty whose `fit` takes the median number of steps."""
    return _one_penalty(case, len(GRID) // 2)


def slowest_penalty(case: HeadCase) -> Prepared:
    """The penalty whose `fit` takes most steps."""
    return _one_penalty(case, -1)


def _one_penalty(case: HeadCase, rank: int) -> Prepared:
    x, y, *validation = case.arrays()
    chosen = sorted(GRID, key=lambda value: LogisticProbe(value).fit(x, y).n_iter_)[rank]
    return Prepared(lambda: LogisticProbe(chosen).fit(x, y), lambda probe: probe.score(*validation))


def grid(case: HeadCase) -> Prepared:
    """All penalties in one `fit_many`."""
    x, y, validation_x, validation_y = case.arrays()
    return Prepared(
        lambda: LogisticProbe().fit_many(x, y, {"C": GRID}),
        lambda scores: max(accuracy(logits, validation_y) for logits in scores(validation_x)),
    )


def grid_one_by_one(case: HeadCase) -> Prepared:
    """All penalties, a `fit` each."""
    x, y, *validation = case.arrays()
    return Prepared(
        lambda: [LogisticProbe(value).fit(x, y) for value in GRID],
        lambda probes: max(probe.score(*validation) for probe in probes),
    )
