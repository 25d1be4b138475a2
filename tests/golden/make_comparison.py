"""Comparisons of runs in every form, whose text `comparison.txt` holds: python tests/golden/make_comparison.py"""

import re
from pathlib import Path

from transfer.evaluation.comparison_table import WRITERS, ComparedRun, Table, Value
from transfer.evaluation.measures import MEASURES
from transfer.evaluation.paired import Difference
from transfer.evaluation.runs import Run

FILE = Path(__file__).with_name("comparison.txt")
FACTS = {"model": "resnet50", "tap": "pre_logits", "head": "linear", "rows": "1000", "data": "pets"}


def run(name, notes=(), over_seeds=False, recorded=None, **facts):
    return Run(f"runs/{name}", name, FACTS | facts, over_seeds=over_seeds, recorded=recorded or {}, notes=[*notes])


def of_classes() -> Table:
    """By accuracy, with all that may be said of a row."""
    lost = ["no predictions.npz, and so no difference image by image"]
    values = {"accuracy": Value(0.75, 0.7, 0.8), "log_loss": Value(0.98765, 0.9, 1.1), "ece": Value(0.0123, 0.0, 0.02)}
    better = values | {"accuracy": Value(0.8125, 0.78, 0.84)}
    runs = [
        ComparedRun(run("a_1"), values),
        ComparedRun(run("b", head="ridge"), better, Difference(0.0625, 0.02, 0.105), 1000, 0.00024, 0.00096),
        ComparedRun(
            run("c", head=""), {"log_loss": Value(999.99996)}, Difference(-0.01, -0.03, 0.01), 900, 0.001, 0.001
        ),
        ComparedRun(run("d&e", lost), {"accuracy": Value(1.0)}),
        ComparedRun(run("f", lost), {}),
    ]
    return Table(runs, "classes", ("accuracy", "log_loss", "ece"), 2000)


def of_values() -> Table:
    """By a measure that is no share, and large numbers."""
    runs = [
        ComparedRun(run("a"), {"rmse": Value(1234.5678, 1200.0, 1300.25), "r2": Value(-0.5)}),
        ComparedRun(
            run("b"), {"rmse": Value(999.5, 900.0, 1000.0)}, Difference(-235.0678, -300.0, -0.00004), 7, 0.5, 0.5
        ),
    ]
    return Table(runs, "values", ("rmse", "r2"), 100)


def over_seeds() -> Table:
    """The means of seeds."""
    ends = {"accuracy": [(0.7, 0.6, 0.8)] * 3}
    runs = [
        ComparedRun(run("a", over_seeds=True, recorded=ends), {"accuracy": Value(0.7, spread=0.012)}),
        ComparedRun(
            run("b", over_seeds=True),
            {"accuracy": Value(0.71, spread=0.0)},
            Difference(0.01, -0.02, 0.04),
            300,
            0.25,
            0.25,
        ),
        ComparedRun(run("c"), {"accuracy": Value(0.72, 0.7, 0.74)}),
    ]
    return Table(runs, "classes", ("accuracy",), 50)


def of_every_measure(kind: str) -> Table:
    """One run by every measure of a kind, and by the mean over classes first."""
    names = sorted(MEASURES[kind], key=lambda name: not MEASURES[kind][name].by_class)
    return Table([ComparedRun(run("a"), {name: Value(0.5, 0.25, 0.75) for name in names})], kind, names, 10)


def by_ece() -> Table:
    """By a measure whose interval is mirrored, without a difference."""
    runs = [ComparedRun(run(name), {"ece": Value(0.05, 0.0, 0.1)}) for name in "ab"]
    return Table(runs, "classes", ("ece",), 10)


def text() -> str:
    """The tables in every form, and each measure for a terminal; several spaces are one, which tables are padded by."""
    tables = {"classes": of_classes(), "values": of_values(), "seeds": over_seeds(), "ece": by_ece()}
    forms = [(name, ending, write(table)) for name, table in tables.items() for ending, write in WRITERS.items()]
    forms += [(f"every measure of {kind}", ".txt", WRITERS[".txt"](of_every_measure(kind))) for kind in MEASURES]
    lines = "".join(f"--- {name} {ending}\n{written}" for name, ending, written in forms).splitlines()
    return "".join(re.sub(" +", " ", line).strip() + "\n" for line in lines)


if __name__ == "__main__":
    FILE.write_text(text())
