"""Trains a head on features, extracting first where the features are missing; also trains whole networks.

    COMMAND --config=quickstart
    COMMAND --training_file=vgg_train.p --validation_file=vgg_validation.p --epochs=50 --batch_size=256

    COMMAND --config=quickstart --config.head.name=ridge --config.sweep.grid=default --workdir=RUN

Any field of a config can be set on the command line: --config.head.epochs=100 --config.data.source=PATH.
"""

from collections.abc import Sequence

from absl import flags

from transfer import config as settings
from transfer import experiment
from transfer.cli import scripts
from transfer.errors import UsageError
from transfer.runtime.files import paths

CONFIG = scripts.Config("train", __doc__ or "")
TRAINING_FILE = flags.DEFINE_string("training_file", None, "Features and labels (.p, .npz, .npy, .h5, …) to train on.")
VALIDATION_FILE = flags.DEFINE_string("validation_file", None, "Features and labels to validate on.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training rows (default: the config's, 50).")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Training batch size (default: the config's, 256).")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains as the arguments say, by default those of `train.py`, and exits."""
    scripts.run(train, CONFIG, arguments)


def train() -> None:
    """Checks the flags, then trains."""
    training, validation = TRAINING_FILE.value, VALIDATION_FILE.value
    if bool(training) != bool(validation):
        raise UsageError("--training_file and --validation_file go together")
    files = (training, validation) if training and validation else None
    if CONFIG.path is None and not files:
        raise UsageError("--config=NAME or --config=PATH.py, or --training_file and --validation_file; see --help")

    config = CONFIG.config
    recipe = config.finetune if config.train == "finetune" and not files else config.head
    for name, value in (("epochs", EPOCHS.value), ("batch_size", BATCH_SIZE.value)):
        if value is not None:
            recipe[name] = value
    settings.check(config)
    own = {"the command": CONFIG.command, "--training_file": "PATH" if files else None}
    scripts.prepare_jax({**own, **settings.common(config)})
    if files:
        experiment.train_on_files(config, *files, paths.open_path(CONFIG.workdir(files[0])))
    else:
        experiment.train(config, paths.open_path(CONFIG.workdir()))
