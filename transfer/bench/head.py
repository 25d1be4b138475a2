"""`python -m transfer bench --head`: our training of the published head beside that of others, the same recipe.

The recipe: a linear layer with softmax, Glorot-uniform kernel, zero bias, Adam (1e-3, epsilon 1e-7), a fresh shuffle
each epoch, the last partial batch kept, metrics of every epoch. The cases named sweep are another: logistic
regression at its optimum, for one penalty and for a grid of them (`transfer.bench.heads.sweep`).

Each contender but the whole processes is warm, in a process of its own that sleeps while others run, and trains from
NumPy arrays; accuracy stands beside the time.
"""

import argparse
import dataclasses
import fnmatch
import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.bench.heads import case as cases
from transfer.bench.heads import processes
from transfer.bench.heads.case import HeadCase
from transfer.bench.peers.case import Skipped
from transfer.bench.peers.worker import Worker
from transfer.errors import UsageError
from transfer.runtime import tables
from transfer.runtime.timing import interleaved, median_ratio

# Contender -> (what it needs, function that prepares it). Ours first; a new one is one file and one line.
TRAINERS: dict[str, tuple[tuple[str, ...], str]] = {
    "ours (train.py)": ((), "ours:trainer"),
    "ours (LinearProbe)": ((), "ours:estimator"),
    "PyTorch loop": (("torch",), "torch_loop:loop"),
    "Keras fit (JAX)": (("keras",), "keras_fit:fit"),
    "Keras fit (JAX), new model": (("keras",), "keras_fit:fit_new"),
    "scikit-learn LogisticRegression": ((), "logistic:regression"),
}
# The grid of penalties. Its figure is how many times one fit it takes, so that the first is one fit.
SWEEPERS: dict[str, tuple[tuple[str, ...], str]] = {
    "ours, one C (the median)": ((), "sweep:median"),
    "ours, one C (the slowest)": ((), "sweep:slowest"),
    "ours, 45 C (fit_many)": ((), "sweep:ours"),
    "ours, 45 C one by one": ((), "sweep:one_by_one"),
    "scikit-learn, C = 1": ((), "sweep:scikit_learn_one"),
    "scikit-learn, 45 C": ((), "sweep:scikit_learn"),
}
PROCESSES: dict[str, Callable[[HeadCase], Callable[[], float]]] = {
    "ours (train.py)": processes.ours,
    "scikit-learn LogisticRegression": processes.scikit_learn,
}
MANY_ROWS = 5_000
OURS = "ours (train.py)"  # what the ratios are to, unless a case has another
Trainers = Mapping[str, tuple[tuple[str, ...], str]]
Started = tuple[Mapping[str, Callable[[], Any]], dict[str, float], dict[str, str]]


def in_workers(case: HeadCase, trainers: Trainers | None = None) -> Started:
    """`TRAINERS` or others, each warm in a process of its own."""
    running: dict[str, Worker] = {}
    skipped: dict[str, str] = {}
    for name, (needs, builder) in (TRAINERS if trainers is None else trainers).items():
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        try:
            if missing:
                raise Skipped(f"not installed: {', '.join(missing)}")
            running[name] = Worker(name, f"{cases.__package__}.{builder}", case)
        except Skipped as reason:
            skipped[name] = str(reason)
    return running, {name: round(worker.report, 4) for name, worker in running.items()}, skipped


def sweepers(case: HeadCase) -> Started:
    """`SWEEPERS`, each warm in a process of its own; of many rows without what takes a minute a call."""
    slow = () if case.rows < MANY_ROWS else ("ours, 45 C one by one",)
    return in_workers(case, {name: trainer for name, trainer in SWEEPERS.items() if name not in slow})


def whole_processes(case: HeadCase) -> Started:
    """`PROCESSES`, each once before, so that what is cached is there."""
    running, accuracy, skipped = {}, {}, {}
    for name, prepare in PROCESSES.items():
        try:
            call = prepare(case)
            accuracy[name] = round(call(), 4)
            running[name] = call
        except Skipped as reason:
            skipped[name] = str(reason)
    return running, accuracy, skipped


# Name on the command line -> what is trained on, and how the contenders are started.
CASES: dict[str, tuple[HeadCase, Callable[[HeadCase], Started]]] = {
    "small": (HeadCase("1,000 x 512, 50 epochs, 10,000 validation rows every epoch", 1_000, 512, 50), in_workers),
    "large": (HeadCase("50,000 x 2,048, 10 epochs", 50_000, 2_048, 10, validates=False), in_workers),
    "process": (
        HeadCase("whole processes, 1,000 x 512, 50 epochs, 10,000 validation rows", 1_000, 512, 50),
        whole_processes,
    ),
    "sweep": (HeadCase("45 C values, 1,000 x 512", 1_000, 512, 0, ours=next(iter(SWEEPERS))), sweepers),
    "sweep_large": (HeadCase("45 C values, 10,000 x 512", 10_000, 512, 0, ours=next(iter(SWEEPERS))), sweepers),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that only heads have."""
    parser.add_argument(
        "--head_cases",
        default="*",
        metavar="NAMES",
        help=f"with --head: of {', '.join(CASES)}; wildcards (default: all)",
    )


def chosen(text: str) -> list[str]:
    """The names of a flag such as `small,pro*`; UsageError for one that there is not."""
    found: list[str] = []
    for pattern in (part.strip() for part in text.split(",")):
        names = fnmatch.filter(CASES, pattern)
        if not names:
            raise UsageError(f"--head_cases={text}: there is no {pattern!r}, but {', '.join(CASES)}")
        found += names
    return list(dict.fromkeys(found))


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each case of `options.head_cases`, of `options.rounds` and `options.seconds`; see `measure`."""
    for name in chosen(options.head_cases):
        case, start = CASES[name]
        yield measure(dataclasses.replace(case, seed=options.seed), start, options.rounds, options.seconds)


def measure(
    case: HeadCase, start: Callable[[HeadCase], Started] = in_workers, rounds: int = 5, seconds: float = 0.5
) -> dict[str, Any]:
    """Times every contender of a case in interleaved rounds.

    Returns:
      JSON-able: "kind", "case" and its sizes; "ours", which contender is; "seconds", contender -> seconds a training,
      one figure a round; "accuracy", contender -> on the validation rows; "ratio", contender -> how many times faster
      ours is, the median over rounds; "skipped", contender -> why.
    """
    with tempfile.TemporaryDirectory(prefix="transfer_heads_") as folder:
        case = dataclasses.replace(case, folder=Path(folder))
        cases.write(case)
        running, accuracy, skipped = start(case)
        try:
            samples = interleaved(running, rounds, warmup=1, seconds=seconds)
        finally:
            for contender in running.values():
                getattr(contender, "close", lambda: None)()
    ours = case.ours or OURS
    ratio = {name: median_ratio(samples[ours], taken) for name, taken in samples.items() if ours in samples}
    sizes = {key: value for key, value in dataclasses.asdict(case).items() if key not in ("title", "folder", "ours")}
    return {
        "kind": "head",
        "case": case.title,
        **sizes,
        "ours": ours,
        "seconds": samples,
        "accuracy": accuracy,
        "ratio": ratio,
        "skipped": skipped,
    }


def table(found: Iterable[Mapping[str, Any]]) -> str:
    """For a person: seconds (median), accuracy, and how many times ours each takes."""
    return "\n\n".join(f"Head, {row['case']}\n{tables.text(_lines(row), left=1)}" for row in found)


def _lines(row: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    lines = [["trainer", "seconds", "accuracy", "times ours"]]
    for name, taken in row["seconds"].items():
        ratio = f"{row['ratio'][name]:.2f}" if name in row["ratio"] else ""
        lines.append([name, f"{statistics.median(taken):.3f}", f"{row['accuracy'][name]:.4f}", ratio])
    return [*lines, *([name, "-", "-", f"skipped: {reason}"] for name, reason in row["skipped"].items())]
