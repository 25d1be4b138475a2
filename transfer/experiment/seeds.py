"""The same experiment over several seeds: how much of a difference is luck."""

import statistics
from collections.abc import Callable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from transfer.errors import UsageError
from transfer.evaluation import runs as loaded
from transfer.experiment import head_settings, results, train_head, workdirs
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
    resolved = head_settings.resolve(config) if config.train == "head" else config
    workdirs.check_workdir(resolved, workdir)
    count = _count(config, workdir)
    if config.train == "head":
        _check_epochs(resolved, [workdir / f"seed_{config.seed + step}" for step in range(count)])
    runs = []
    for step in range(count):
        one = config.copy_and_resolve_references()
        one.seeds, one.seed = None, config.seed + step
        if config.data.seed is not None:
            one.data.seed = config.data.seed + step
        runs.append(train(one, workdir / f"seed_{one.seed}"))
    # a head without probabilities has no loss, and values have no accuracy
    columns = {name: [run[name] for run in runs] for name in MEASURES if all(run[name] is not None for run in runs)}
    shared = {name: value for name, value in runs[0].items() if all(run.get(name) == value for run in runs)}
    result = {
        **shared,
        **{name: round(statistics.fmean(values), 6) for name, values in columns.items()},
        "spread": {name: round(_spread(values), 6) for name, values in columns.items()},
        "seeds": count,
        "seconds_train": round(sum(run["seconds_train"] for run in runs), 3),
        **_curve(runs),
        "runs": runs,
    }
    results.write(workdir, result)
    if "taps" in result:
        distributed.print_once(_table(result["taps"]))
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


def _check_epochs(config: ConfigDict, folders: list[epath.Path]) -> None:
    """Raises UsageError where some seeds have trained more epochs than the config asks for and others would not."""
    there = [train_head.epochs_begun(config, folder) for folder in folders]
    if max(there) > (config.head.epochs or max(there)) and min(there) < max(there):
        raise UsageError(
            f"config.head.epochs={config.head.epochs}: {folders[there.index(max(there))]} has trained {max(there)} "
            f"already, and all seeds train equally long; take config.head.epochs={max(there)}, or another --workdir"
        )


def _curve(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several taps what each measure of the validation images is over the seeds, whichever tap a seed chose."""
    curves = [run.get("taps", []) for run in runs]
    rows = []
    for of_tap in zip(*curves, strict=True):
        over = {name: [row["validation"][name]["value"] for row in of_tap] for name in of_tap[0]["validation"]}
        known = {name: values for name, values in over.items() if None not in values}
        rows.append(
            {
                "tap": of_tap[0]["tap"],
                "num_features": of_tap[0]["num_features"],
                "mean": {name: round(statistics.fmean(values), 6) for name, values in known.items()},
                "spread": {name: round(_spread(values), 6) for name, values in known.items()},
            }
        )
    return {"taps": rows} if rows else {}


def _table(taps: list[dict[str, Any]]) -> str:
    measure = next(iter(taps[0]["mean"]))
    lines = [["tap", f"validation {measure}", "spread"]]
    lines += [[row["tap"], f"{row['mean'][measure]:.4f}", f"{row['spread'][measure]:.4f}"] for row in taps]
    return tables.text(lines)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def line(result: dict[str, Any]) -> str:
    """The accuracy over the seeds, or what there is instead, as one line."""
    name = next((name for name in reversed(MEASURES) if name in result["spread"]), None)
    if name is None:
        return f"{result['seeds']} seeds"
    each = ", ".join(f"{run[name]:.4f}" for run in result["runs"])
    mean, spread = result[name], result["spread"][name]
    return f"{name.replace('_', ' ')} over {result['seeds']} seeds: mean {mean:.4f}, spread {spread:.4f} ({each})"
