"""Extracts features of images by a frozen, pretrained backbone, into a store that any later run reads.

    COMMAND --config=cifar10_vgg16 --workdir=DIR --config.batch_size=64
    COMMAND --config=cifar10_vgg16 --workdir=DIR --config.export=features.p

Interrupted anywhere, the same command goes on where it stopped.
"""

from collections.abc import Sequence

from transfer import config as settings
from transfer import experiment
from transfer.cli import scripts
from transfer.errors import UsageError
from transfer.runtime.files import paths

CONFIG = scripts.Config("extract", __doc__ or "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Extracts as the arguments say, by default those of `extract.py`, and exits."""
    scripts.run(extract, CONFIG, arguments)


def extract() -> None:
    """Extracts both splits of the config."""
    if CONFIG.path is None:
        raise UsageError("--config=NAME or --config=PATH.py; see --help")
    config = CONFIG.config
    settings.check(config)
    scripts.prepare_jax({"the command": CONFIG.command, **settings.common(config)})
    workdir = paths.open_path(CONFIG.workdir())
    experiment.extract(config, workdir)
    print(f"Features: {workdir / 'features'}")
