"""The same experiment over several seeds: how much of a difference is luck."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from transfer.errors import UsageError
from transfer.evaluation import runs as loaded
from transfer.experiment import results, workdirs
from transfer.experiment.head_settings import HeadSettings, resolve_head
from transfer.experiment.train_head import epochs_begun
from transfer.runtime import distributed, tables

MEASURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def over_seeds(
    config: ConfigDict, workdir: epath.Path, train: Callable[[ConfigDict, epath.Path], dict[str, Any]]
) -> dict[str, Any]:
    """Trains with `seed`, `seed + 1`, … in `workdir/seed_N`, each as resumable as a single run.

    Both `config.seed` (weights, order, augmentation) and `config.data.seed` (which images) count up, so that the
    spread is over all that chance decides. Writes and returns `result.json`: of each measure the mean over the runs
    and under `spread` the standard deviation of one run; under `runs` the results themselves. Seeds that have been
    begun before are among them, however few are asked for now.

    Raises:
        UsageError: no seed; seeds that would be trained for different numbers of epochs.
        TransferError: the workdir was made with other settings.
    """
    if config.seeds < 1:
        raise UsageError(f"config.seeds={config.seeds} must be at least 1")
    if config.features:
        raise UsageError("config.features is one folder, and each of config.seeds draws other images; leave one out")
    head = resolve_head(config) if config.train == "head" else None
    workdirs.check_workdir(head.config if head is not None else config, workdir)
    seeds = range(config.seed, config.seed + _count(config, workdir))
    if head is not None:
        _check_epochs(head, [workdir / f"seed_{seed}" for seed in seeds])
    runs = []
    for step, seed in enumerate(seeds):
        of_seed = config.copy_and_resolve_references()
        of_seed.seeds, of_seed.seed = None, seed
        if config.data.seed is not None:
            of_seed.data.seed = config.data.seed + step
        runs.append(train(of_seed, workdir / f"seed_{seed}"))
    shared = {name: value for name, value in runs[0].items() if all(run.get(name) == value for run in runs)}
    # a head without probabilities has no loss, and values have no accuracy
    mean, spread = _mean_and_spread({name: [run[name] for run in runs] for name in MEASURES})
    result = {
        **shared,
        **mean,
        "spread": spread,
        "seeds": len(seeds),
        "seconds_train": round(sum(run["seconds_train"] for run in runs), 3),
        **({"taps": taps} if (taps := _by_tap(runs)) else {}),
        "runs": runs,
    }
    results.write(workdir, result)
    if taps:
        measure = next(iter(taps[0]["mean"]))
        rows = [[row["tap"], f"{row['mean'][measure]:.4f}", f"{row['spread'][measure]:.4f}"] for row in taps]
        distributed.print_once(tables.text([["tap", f"validation {measure}", "spread"], *rows]))
    distributed.print_once(line(result))
    return result


def _count(config: ConfigDict, workdir: epath.Path) -> int:
    """How many seeds: what is asked for, or as many as have been begun, if they are more."""
    there = loaded.seeds(workdir) if workdir.is_dir() else {}
    begun = config.seeds
    while config.seed + begun in there:
        begun += 1
    if begun > config.seeds:
        distributed.print_once(
            f"{begun} seeds have been begun already; {config.seeds} asked: the result is of all {begun}; "
            f"for {config.seeds} give another --workdir."
        )
    return begun


def _check_epochs(head: HeadSettings, folders: Sequence[epath.Path]) -> None:
    """Raises UsageError where some seeds have trained more epochs than are asked for and others would not."""
    begun, asked = [epochs_begun(head, folder) for folder in folders], head.settings.get("epochs")
    most = max(begun)
    if asked is not None and most > asked and min(begun) < most:
        raise UsageError(
            f"config.head.epochs={asked}: {folders[begun.index(most)]} has trained {most} already, and all seeds "
            f"train equally long; take config.head.epochs={most}, or another --workdir"
        )


def _mean_and_spread(over_runs: Mapping[str, Sequence[float | None]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of each measure that every run has."""
    known = {name: [value for value in values if value is not None] for name, values in over_runs.items()}
    known = {name: values for name, values in known.items() if len(values) == len(over_runs[name])}
    mean = {name: round(statistics.fmean(values), 6) for name, values in known.items()}
    spread = {name: round(statistics.stdev(values), 6) if len(values) > 1 else 0.0 for name, values in known.items()}
    return mean, spread


def _by_tap(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measures of each of several taps on the validation images over the seeds, whichever tap a seed chose."""
    rows = []
    for of_tap in zip(*(run.get("taps", []) for run in runs), strict=True):
        first, measures = of_tap[0], [row["validation"] for row in of_tap]
        mean, spread = _mean_and_spread({name: [each[name]["value"] for each in measures] for name in measures[0]})
        rows.append({"tap": first["tap"], "num_features": first["num_features"], "mean": mean, "spread": spread})
    return rows


def line(result: Mapping[str, Any]) -> str:
    """The accuracy over the seeds, or what there is instead, as one line."""
    name = next((name for name in reversed(MEASURES) if name in result["spread"]), None)
    if name is None:
        return f"{result['seeds']} seeds"
    each = ", ".join(f"{run[name]:.4f}" for run in result["runs"])
    mean, spread = result[name], result["spread"][name]
    return f"{name.replace('_', ' ')} over {result['seeds']} seeds: mean {mean:.4f}, spread {spread:.4f} ({each})"
