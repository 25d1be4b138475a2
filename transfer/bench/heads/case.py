"""What every contender trains on: features and labels that any process can read, and the recipe."""

import dataclasses
from pathlib import Path

import numpy as np

LEARNING_RATE, EPSILON = 1e-3, 1e-7  # of Adam
# Distance of the classes' centres from the origin over the noise's deviation, so that a head errs on some rows.
SEPARATION = 0.2
FILES = ("x", "y", "validation_x", "validation_y")


@dataclasses.dataclass(frozen=True)
class HeadCase:
    """One training run.

    Attributes:
      title: for a person.
      rows, features, classes: of the training set.
      validation_rows: of the rows that accuracy is measured on.
      validates: whether those are evaluated after every epoch, or only after training, outside of the time.
      epochs: 0 where nothing is trained by epochs.
      batch: rows a step; the last batch of an epoch has what is left.
      seed: of the data, the first weights and the shuffles.
      folder: holds the arrays.
    """

    title: str
    rows: int
    features: int
    epochs: int
    batch: int = 256
    classes: int = 10
    validation_rows: int = 10_000
    validates: bool = True
    seed: int = 0
    folder: Path = Path()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features (N, D) float32 and labels (N,) int32, those of training and those of validation."""
        x, y, validation_x, validation_y = (np.load(self.folder / f"{name}.npy") for name in FILES)
        return x, y, validation_x, validation_y


def write(case: HeadCase) -> None:
    """Fills the case's folder: classes are directions with noise around them, cut at zero as pooled ReLUs are."""
    generator = np.random.default_rng(case.seed)
    centres = generator.standard_normal((case.classes, case.features), np.float32)
    for rows, (x_name, y_name) in ((case.rows, FILES[:2]), (case.validation_rows, FILES[2:])):
        labels = generator.integers(0, case.classes, rows, dtype=np.int32)
        features = generator.standard_normal((rows, case.features), np.float32)
        features += np.float32(SEPARATION * np.sqrt(512 / case.features)) * centres[labels]
        np.save(case.folder / f"{x_name}.npy", np.maximum(features, 0, out=features))
        np.save(case.folder / f"{y_name}.npy", labels)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows (N, C) whose largest score is the label's."""
    return float((scores.argmax(axis=1) == labels).mean())
