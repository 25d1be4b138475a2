"""An experiment from its config to its `result.json`: a head on features or a network trained end to end; seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import UsageError
from transfer.evaluation import runs as loaded
from transfer.experiment import results, workdirs
from transfer.experiment.head_settings import HeadSettings, resolve_head
from transfer.experiment.train_head import check, epochs_begun, train_head
from transfer.report import run_data
from transfer.runtime import distributed, tables
from transfer.store.store import FeatureStore

# Measures whose mean and spread a result over seeds has.
MEASURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def extract(config: ConfigDict, workdir: epath.Path) -> tuple[dict[str, FeatureStore], dict[str, Any]]:
    """Fills `workdir/features/train` and `…/validation` (or `config.features`'), exporting them if the config says so.

    Returns the stores by split, and what `result.json` says of the extraction. One run at a time may do so.
    """
    # here, because a head on two feature files is trained before any of this could be imported
    from transfer.experiment.extract_features import extract_features

    with workdirs.lock_workdir(workdir):
        return extract_features(resolve_head(config).config, workdir)


def train(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Runs the experiment to its end, resuming what is there; writes and returns `result.json`."""
    settings.check_use(config)
    if config.train == "head":
        check(config, of_images=True)
    elif distributed.process_count() > 1:
        raise UsageError(
            f"config.train={config.train} runs in one process, on all of its devices; use --num_processes=1"
        )
    with workdirs.lock_workdir(workdir):
        result = (_single if config.seeds is None else _over_seeds)(config, workdir)
        _write_report(config, workdir)
    return result


def _single(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """A single run, of one seed."""
    with workdirs.unless_refused(workdir):
        if config.train == "head":
            return train_head(config, workdir)
        from transfer.experiment.finetune import train_network

        return train_network(config, workdir)


def _over_seeds(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
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
    runs: list[dict[str, Any]] = []
    for step, seed in enumerate(seeds):
        of_seed = config.copy_and_resolve_references()
        of_seed.seeds, of_seed.seed = None, seed
        if config.data.seed is not None:
            of_seed.data.seed = config.data.seed + step
        runs.append(_single(of_seed, workdir / f"seed_{seed}"))
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
    name = next((name for name in reversed(MEASURES) if name in mean), None)
    line = f"{len(seeds)} seeds"
    if name is not None:
        each = ", ".join(f"{run[name]:.4f}" for run in runs)
        line = f"{name.replace('_', ' ')} over {line}: mean {mean[name]:.4f}, spread {spread[name]:.4f} ({each})"
    distributed.print_once(line)
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
    known: dict[str, Any] = {name: values for name, values in over_runs.items() if None not in values}
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


def train_on_files(config: ConfigDict, training_file: str, validation_file: str, workdir: epath.Path) -> dict[str, Any]:
    """Trains the config's head on two feature files, as the published `feature_extraction.py` does."""
    config = ConfigDict({**config.copy_and_resolve_references(), "tap": None})
    check(config, of_images=False)
    with workdirs.lock_workdir(workdir):
        result = train_head(config, workdir, (training_file, validation_file))
        _write_report(config, workdir)
    return result


def _write_report(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes `WORKDIR/report.html`, and the features for TensorBoard's projector.

    Whatever goes wrong there is a line, for the run itself has ended well.
    """
    if config.get("report", True) and distributed.is_main():
        try:
            from transfer.report import board_projector, page

            # both look at the same rows and images, which are read once
            (run,) = run_data.load([str(workdir)])
            board_projector.write(run)
            distributed.print_once(f"Report: {page.write([run], workdir / page.FILE)}")
        except Exception as error:  # a page is worth no run
            logging.debug("the report", exc_info=error)
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            logging.warning("no report was written (%s); `python -m transfer report %s` tries again", why, workdir)
    distributed.print_once(f"Workdir: {workdir}")
