"""A finished run applied to other images: the same loader, network, preprocessing, tap and head as in the run."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.special import expit

from transfer.data.frames import needs_resizing
from transfer.data.loader import Batch, batches
from transfer.data.source import Source
from transfer.errors import TransferError, UsageError
from transfer.evaluation.predictions import Scores
from transfer.export import finished_run
from transfer.export.finished_run import FinishedRun
from transfer.extract.extractor import Extractor, batch_for
from transfer.store.format import DTYPES

# Of a network that was trained itself: where its scores are.
LOGITS = "logits"


class Predictor:
    """Probabilities of a finished run's classes or labels, or its values: `Predictor.load(workdir)(images)`.

    `of_model` makes one of a network's own classes.

    Attributes:
        run: the `transfer.export.finished_run.FinishedRun`.
        class_names: the C names of the columns.
        batch_size: images a step.
    """

    def __init__(self, run: FinishedRun, batch_size: int | None = None) -> None:
        self.run, self.class_names = run, run.class_names
        self.batch_size = batch_size or int(run.config.batch_size)
        # a trained network's own steps are plain float32, whatever the convolutions of a frozen one may be
        precision = run.config.precision if run.head is not None else "highest"
        self.extractor = Extractor(
            run.model,
            tap=run.tap or LOGITS,
            batch_size=self.batch_size,
            dtype=run.config.dtype,
            precision=precision,
            preprocessing=run.preprocessing,
        )
        self._stored = DTYPES[run.config.get("features_dtype", "float32")]

    @classmethod
    def load(cls, workdir: Any, batch_size: int | None = None) -> "Predictor":
        """Reads the run in `workdir`; `batch_size` images a step, None: as many as the run took.

        Raises:
            UsageError: no run's folder, or one of a run over seeds; a batch size below 1.
            TransferError: the run is not done, is on feature files, or kept no head; other weights than the run's.
        """
        return cls(finished_run.load(workdir), batch_size)

    @classmethod
    def of_model(cls, name: str, weights: Any = None, batch_size: int | None = None, **choices: Any) -> "Predictor":
        """A network with the classifier of its own file; arguments and errors of `finished_run.of_network`."""
        return cls(finished_run.of_network(name, weights, **choices), batch_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N, C) of images in memory, uint8 RGB (N, h, w, 3) at their own size.

        Raises UsageError for another type or shape.
        """
        features = self.extractor(images)
        assert isinstance(features, np.ndarray)
        return self.probabilities(features)

    def stream(self, source: Source, on_error: str = "raise") -> Iterator[tuple[Batch, np.ndarray]]:
        """Yields each batch of a source with its probabilities, float32 (batch.size, C).

        Rows of `batch.failed`, which could not be read, are NaN.

        Raises:
            BrokenImage: an image cannot be read, where `on_error` is "raise".
            TransferError: the network's scores of an image are NaN or infinite.
        """
        recipe = self.extractor.preprocessing
        loaded = batches(source, 0, len(source), self.batch_size, recipe, on_error=on_error)
        for batch, taps in self.extractor.stream(loaded, needs_resizing(source, recipe)):
            probabilities = self.probabilities(next(iter(taps.values())))
            not_finite = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
            if len(not_finite):
                raise TransferError(f"{source.ids[batch.start + not_finite[0]]}: its scores are NaN or infinite")
            probabilities[[row - batch.start for row in batch.failed]] = np.nan
            yield batch, probabilities

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N, C) of features float32 (N, ...) of the run's tap, rounded as in its store.

        Of a run that predicts values the values.
        """
        return OUTPUTS[self.run.kind](self.scores(features.astype(self._stored).astype(np.float32)))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Logits float32 (N, C); -inf of a class that no training image was of."""
        if self.run.head is None:
            return features
        return Scores.of(self.run.head, features, np.arange(len(self.class_names)), self.run.kind).values


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 (N, C), by the arithmetic of `transfer.evaluation.predictions`."""
    block = np.maximum(logits.astype(np.float32), np.finfo(np.float32).min)
    with np.errstate(over="ignore"):
        block -= block.max(axis=1, keepdims=True)
    total = np.log(np.exp(block).sum(axis=1, keepdims=True, dtype=np.float64))
    return np.exp(block - total).astype(np.float32)


# What a run predicts -> what its scores are turned into.
OUTPUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "classes": softmax,
    "labels": expit,
    "values": lambda scores: scores,
}


def suitable_batch(run: FinishedRun, count: int, wanted: int | None = None) -> int:
    """Images a step for `count` of them: what was `wanted`, else the run's, or a power of two where there are fewer.

    Raises UsageError for less than 1.
    """
    if wanted is not None:
        if wanted < 1:
            raise UsageError(f"--batch_size={wanted} must be at least 1")
        return wanted
    return batch_for(count, int(run.config.batch_size))
