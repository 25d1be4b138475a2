"""Settings of a head chosen on few rows: on several divisions of them, since one holds out too few to tell.

`transfer.evaluation.selection` chooses on one division, which is enough for many rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.evaluation.selection import select

# Fewer rows a class than this, on average, leave nothing to choose settings by: a head then has its defaults.
FEWEST_TO_SELECT = 5
# Settings are chosen on so many held-out rows at least, in several divisions of the rows where one has fewer: of 5
# images a class one is held out, and ten rows alone would choose by luck.
FEWEST_HELD = 100
# More than are ever made, so that no two seeds divide alike.
DIVISIONS_OF_A_SEED = 1000


def selected(
    estimator: Any, x: np.ndarray, y: np.ndarray, grid: Mapping[str, Sequence[Any]], holdout: float, seed: int
) -> tuple[Any, dict[str, Any]]:
    """The head fitted on all rows with the setting of the grid that is best on held-out rows, and that setting.

    Args:
        x, y: (N, D) and (N,) classes.
        grid: parameter -> values, the strongest regularisation first.
        holdout: the share of the rows that is held out.
        seed: of the divisions of the rows.
    """
    from sklearn.base import clone

    first = select({"": x}, y, estimator, grid, holdout=holdout, seed=seed, measure="accuracy")
    divisions = [first]
    while sum(len(division.holdout_labels) for division in divisions) < FEWEST_HELD:
        further = DIVISIONS_OF_A_SEED * (seed + 1) + len(divisions)
        divisions.append(select({"": x}, y, estimator, grid, holdout=holdout, seed=further, measure="accuracy"))
    row = first.table[best_setting([division.table for division in divisions])]
    chosen = {name: row[name] for name in grid}
    if all(first.chosen[name] == value for name, value in chosen.items()):
        return first.probe, chosen
    return clone(estimator).set_params(**chosen).fit(x, y), chosen


def best_setting(divisions: list[list[dict[str, Any]]]) -> int:
    """The row of the tables with the highest mean accuracy, of equals the lowest mean log-loss, or the first.

    Few rows make many equals: of 45 penalties a dozen may be right on all of them, and the strongest may be so by luck.
    """
    accuracies = np.mean([[row["accuracy"] for row in table] for table in divisions], axis=0).round(9)
    losses = np.mean([[row.get("log_loss", 0.0) for row in table] for table in divisions], axis=0)
    # what is not a number is no reason to choose a setting, nor not to have any
    losses = np.nan_to_num(losses, nan=np.finfo(np.float64).max)
    return int(np.argmin(np.where(accuracies == accuracies.max(), losses, np.inf)))


def at_edges(grid: Mapping[str, Sequence[Any]], chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each parameter that a tenth of the cells, or more, chose at an end of what was tried."""
    for name, values in grid.items():
        numbers = sorted(value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool))
        made = [one[name] for one in chosen if name in one]
        for end in numbers[:1] + numbers[-1:] if len(numbers) > 2 else []:
            count = made.count(end)
            if end != 0 and count and 10 * count >= len(made):
                yield f"{name}={end:g}, an end of what was tried, was chosen in {count} of {len(made)} cells"
