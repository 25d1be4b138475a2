"""An experiment from its config to its `result.json`: a head on features, or a network trained end to end."""

from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import UsageError
from transfer.experiment import workdirs
from transfer.experiment.head_settings import resolve_head
from transfer.experiment.seeds import over_seeds
from transfer.experiment.train_head import check, train_head
from transfer.report import run_data
from transfer.runtime import distributed
from transfer.store.store import FeatureStore


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
    if config.train != "head" and distributed.process_count() > 1:
        raise UsageError(
            f"config.train={config.train} runs in one process, on all of its devices; use --num_processes=1"
        )
    if config.train == "head":
        check(config, of_images=True)
    with workdirs.lock_workdir(workdir):
        result = over_seeds(config, workdir, _train) if config.seeds is not None else _train(config, workdir)
        _write_report(config, workdir)
    return result


def _train(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """A single run, of one seed."""
    with workdirs.unless_refused(workdir):
        if config.train == "head":
            return train_head(config, workdir)
        from transfer.experiment.finetune import train_network

        return train_network(config, workdir)


def train_on_files(config: ConfigDict, training_file: str, validation_file: str, workdir: epath.Path) -> dict[str, Any]:
    """Trains the config's head on two feature files, as the published `feature_extraction.py` does."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.tap = None
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
