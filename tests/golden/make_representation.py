"""Records what published code makes of small representations: CKA, LogME, LEEP; writes `representation.json`.

pip install numpy numba scikit-learn
git clone https://github.com/thuml/LogME && git -C LogME checkout 3a0895084badc924dce3eb049580100bf7258f42
# of google-research/google-research at 10bf941a5a0625bf27bb8443aa849e9b48fdd5f9:
# representation_similarity/Demo.ipynb, whose first cell of code defines `cka` and `feature_space_linear_cka`
python tests/golden/make_representation.py LogME Demo.ipynb
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FILE = HERE / "representation.json"
COMMITS = {"thuml/LogME": "3a0895084badc924dce3eb049580100bf7258f42", "google-research": "10bf941a5a06"}
# name -> rows, columns, columns of the other side
SHAPES = {"tall": (200, 12, 20), "wide": (30, 80, 50), "wide and narrow": (40, 60, 7), "square": (24, 24, 24)}


def pair(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (N, D), Y (N, E), which has a part of X in it, and labels (N,) that X says something of."""
    rows, width, other = SHAPES[name]
    generator = np.random.default_rng(sum(map(ord, name)))
    x = generator.standard_normal((rows, width)) * generator.uniform(0.1, 3, width) + 1.5
    y = x[:, :1] * generator.standard_normal(other) + generator.standard_normal((rows, other)) - 0.5
    labels = np.digitize(x[:, 0] - 1.5 + generator.standard_normal(rows), [-1, 0, 1])
    return x, y, labels


def answers(name: str) -> np.ndarray:
    """Probabilities (N, 5) of a source classifier, from the first columns of X."""
    x, _, _ = pair(name)
    powers = np.exp(x[:, :5])
    return powers / powers.sum(axis=1, keepdims=True)


def _recorded(logme: Any, leep: Any, notebook: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name in SHAPES:
        x, y, labels = pair(name)
        tall = len(x) >= x.shape[1]
        classes = logme(regression=False)
        values = logme(regression=True)
        found[name] = {
            "cka": notebook["feature_space_linear_cka"](x, y),
            "cka_debiased": notebook["feature_space_linear_cka"](x, y, debiased=True),
            "cka_of_grams": notebook["cka"](x @ x.T, y @ y.T),
            "logme_icml": logme(regression=False)._fit_icml(x, labels),
            "logme_values_icml": logme(regression=True)._fit_icml(x, y),
            "leep": leep(answers(name), labels),
        }
        if tall:
            found[name] |= {"logme": classes.fit(x, labels), "logme_values": values.fit(x, y)}
    return {name: {key: float(value) for key, value in row.items()} for name, row in found.items()}


def main(logme_folder: str, notebook: str) -> None:
    """Runs the published code and writes the file."""
    sys.path.insert(0, logme_folder)
    from LEEP import LEEP
    from LogME import LogME

    cells = json.loads(Path(notebook).read_text())["cells"]
    names: dict[str, Any] = {}
    exec("".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"]), names)
    record = {"commits": COMMITS, "values": _recorded(LogME, LEEP, names)}
    FILE.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
