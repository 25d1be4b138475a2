"""`python -m transfer bench --head`: our training of the published head beside that of others, the same recipe.

The recipe: a linear layer with softmax, Glorot-uniform kernel, zero bias, Adam (1e-3, epsilon 1e-7), a fresh shuffle
each epoch, the last partial batch kept, metrics of every epoch. The cases named sweep are another: logistic
regression at its optimum, for a grid of penalties.

Each contender is warm, in a process of its own that sleeps while others run, and trains from NumPy arrays (or is a
whole process, from the shell on); accuracy stands beside the time.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transfer.bench.cases import chosen
from transfer.bench.head_trainers import HeadCase
from transfer.bench.worker import Skipped, Worker, require
from transfer.runtime import tables
from transfer.runtime.timing import interleaved, median_ratio

# Contender -> the function in `transfer.bench.head_trainers` that prepares it, and the packages that it needs. Ours
# comes first; a new one is one function and one line.
Trainers = Mapping[str, tuple[str, ...]]
TRAINERS: Trainers = {
    "ours (train.py)": ("train_script",),
    "ours (LinearProbe)": ("linear_probe",),
    "PyTorch loop": ("torch_loop", "torch"),
    "Keras fit (JAX)": ("keras_fit", "keras"),
    "Keras fit (JAX), new model": ("keras_fit_new", "keras"),
    "scikit-learn LogisticRegression": ("logistic_regression",),
}
PROCESSES: Trainers = {
    "ours (train.py)": ("train_process",),
    "scikit-learn LogisticRegression": ("logistic_process",),
}
SWEEPERS: Trainers = {
    "ours, 45 C (fit_many)": ("logistic_grid",),
    "scikit-learn, 45 C": ("logistic_regression_grid",),
}
# Name on the command line -> what is trained on, and by whom.
CASES: dict[str, tuple[HeadCase, Trainers]] = {
    "small": (HeadCase("1,000 x 512, 50 epochs, 10,000 validation rows every epoch", 1_000, 512, 50), TRAINERS),
    "large": (HeadCase("50,000 x 2,048, 10 epochs", 50_000, 2_048, 10, validates=False), TRAINERS),
    "process": (HeadCase("whole processes, 1,000 x 512, 50 epochs, 10,000 validation rows", 1_000, 512, 50), PROCESSES),
    "sweep": (HeadCase("45 C values, 1,000 x 512", 1_000, 512, 0), SWEEPERS),
    "sweep_large": (HeadCase("45 C values, 10,000 x 512", 10_000, 512, 0), SWEEPERS),
}


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each case of `options.head_cases`, of `options.rounds` and `options.seconds`; see `measure`."""
    for name in chosen("head_cases", options.head_cases, CASES):
        case, trainers = CASES[name]
        yield measure(dataclasses.replace(case, seed=options.seed), trainers, options.rounds, options.seconds)


def measure(case: HeadCase, trainers: Trainers, rounds: int = 5, seconds: float = 0.5) -> dict[str, Any]:
    """Times every contender of a case in interleaved rounds.

    Returns:
      JSON-able: "kind", "case" and its sizes; "ours", the first contender; "seconds", contender -> seconds a training,
      one figure a round; "accuracy", contender -> on the validation rows; "ratio", contender -> how many times faster
      ours is, the median over rounds; "skipped", contender -> why.
    """
    workers: dict[str, Worker] = {}
    skipped = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="transfer_heads_"))
        case = dataclasses.replace(case, folder=Path(folder))
        case.write()
        for name, (function, *packages) in trainers.items():
            try:
                require(packages)
                workers[name] = Worker(f"{HeadCase.__module__}:{function}", case)
                stack.callback(workers[name].close)
            except Skipped as reason:
                skipped[name] = str(reason)
        samples = interleaved(workers, rounds, warmup=1, seconds=seconds)
    for name in [name for name, worker in workers.items() if worker.failed]:
        skipped[name] = workers[name].failed
        del samples[name]
    ours = next(iter(trainers))
    sizes = {key: value for key, value in dataclasses.asdict(case).items() if key not in ("title", "folder")}
    return {
        "kind": "head",
        "case": case.title,
        **sizes,
        "ours": ours,
        "seconds": samples,
        "accuracy": {name: round(worker.report, 4) for name, worker in workers.items()},
        "ratio": {name: median_ratio(samples[ours], seconds) for name, seconds in samples.items() if ours in samples},
        "skipped": skipped,
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """For a person: seconds (median), accuracy, and how many times ours each takes."""
    parts = []
    for row in rows:
        lines = [["trainer", "seconds", "accuracy", "times ours"]]
        for name, seconds in row["seconds"].items():
            ratio = f"{row['ratio'][name]:.2f}" if name in row["ratio"] else ""
            lines.append([name, f"{statistics.median(seconds):.3f}", f"{row['accuracy'][name]:.4f}", ratio])
        lines += [[name, "-", "-", f"skipped: {reason}"] for name, reason in row["skipped"].items()]
        parts.append(f"Head, {row['case']}\n{tables.text(lines, left=1)}")
    return "\n\n".join(parts)
