"""Our trainers: the one of `train.py`, epoch by epoch, and the estimator, all epochs in one program."""

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer.bench.heads.case import LEARNING_RATE, HeadCase, accuracy
from transfer.bench.peers.case import Prepared
from transfer.experiment.train_head import AHEAD
from transfer.heads.linear_probe import LinearProbe
from transfer.heads.programs import LINEAR
from transfer.training.loop import begun_ahead, one_by_one


def trainer(case: HeadCase) -> Prepared:
    """What `train.py` does between reading its files and writing its checkpoint: metrics are fetched every epoch."""
    x, y, validation_x, validation_y = case.arrays()

    def call() -> dict[str, jax.Array]:
        rows = (x, y, validation_x, validation_y) if case.validates else (x, y)
        epoch = LINEAR.make_epoch(*rows, batch_size=case.batch, learning_rate=LEARNING_RATE, seed=case.seed)
        state = LINEAR.init_state(case.features, case.classes, LINEAR.init_key(case.seed))
        results = begun_ahead(one_by_one(epoch, state, range(case.epochs)), AHEAD)
        [(latest, _)] = deque(((after, jax.device_get(metrics)) for after, metrics in results), maxlen=1)
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
