"""Values of published code for measures of calibration and comparison, into `calibration.json`.

    pip install netcal==1.4.0 torchmetrics==1.9.0 statsmodels==0.15.0 scikit-learn
    python tests/golden/make_calibration.py

The file names the versions that it was made with.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "calibration.json"
PACKAGES = ("netcal", "torchmetrics", "statsmodels")
# name -> rows, classes, how much the logits of the right class are raised, and by what all are multiplied
CASES = {"unsure": (300, 4, 1.5, 0.4), "sure": (500, 10, 2.0, 3.0), "few": (20, 3, 1.0, 1.0), "two": (200, 2, 1.0, 2.0)}
# rows that only the first of two runs has right, and that only the second has
DISCORDANT = [(0, 0), (1, 0), (3, 9), (10, 10), (40, 21), (600, 500)]


def rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 (N, C) and labels (N,)."""
    count, classes, raised, scale = CASES[name]
    generator = np.random.default_rng(sum(map(ord, name)))
    labels = generator.integers(classes, size=count)
    logits = generator.standard_normal((count, classes))
    logits[np.arange(count), labels] += raised
    return (logits * scale).astype(np.float32), labels


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Float32 (N, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _of_case(name: str) -> dict[str, Any]:
    import torch
    from netcal.metrics import ECE
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = rows(name)
    given, classes = probabilities(logits), logits.shape[1]
    found: dict[str, Any] = {"ece_torchmetrics": {}, "ece_netcal": {}}
    for bins in (10, 15):
        found["ece_torchmetrics"][bins] = float(
            multiclass_calibration_error(torch.tensor(given), torch.tensor(labels), classes, n_bins=bins, norm="l1")
        )
        # of two classes netcal takes the probability of the second to be the confidence, so it is told right or wrong
        confidence, right = given.max(axis=1), (given.argmax(axis=1) == labels).astype(int)
        pairs = np.stack([1 - confidence, confidence], axis=1)
        found["ece_netcal"][bins] = float(ECE(bins).measure(pairs, right))
    return found


def main() -> None:
    """Runs the published code and writes the file."""
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    p = [0.001, 0.04, 0.03, 0.2, 0.011]
    record = {
        "versions": {name: version(name) for name in PACKAGES},
        "cases": {name: _of_case(name) for name in CASES},
        "mcnemar": [[a, b, float(mcnemar([[5, a], [b, 7]], exact=True).pvalue)] for a, b in DISCORDANT],
        "holm": {"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()},
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
