"""Features -> a trained head, extracting first where the features are missing; also trains whole networks.

    python train.py --config=configs/quickstart.py
    python train.py --training_file=vgg_train.p --validation_file=vgg_validation.p --epochs=50 --batch_size=256

Any field of a config can be set on the command line: --config.head.epochs=100 --config.data.source=PATH.
"""

from absl import flags
from ml_collections import config_flags

from transfer import cli
from transfer.errors import UsageError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run keeps its files, local or gs://; the same command resumes it. Default: runs/NAME."
)
TRAINING_FILE = flags.DEFINE_string("training_file", None, "Features and labels (.p, .npz, .safetensors) to train on.")
VALIDATION_FILE = flags.DEFINE_string("validation_file", None, "Features and labels to validate on.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training rows (default: the config's, 50).")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Rows a step of training (default: the config's, 256).")


def main() -> None:
    """Checks the flags, then trains."""
    from etils import epath

    files = (TRAINING_FILE.value, VALIDATION_FILE.value)
    if any(files) and not all(files):
        raise UsageError("--training_file and --validation_file go together")
    if CONFIG.value is None and not all(files):
        raise UsageError("--config=configs/NAME.py, or --training_file and --validation_file; see --help")

    from transfer import config as settings
    from transfer import experiment

    config = settings.default() if CONFIG.value is None else CONFIG.value
    recipe = config.head if config.train == "head" else config.finetune
    for name, value in (("epochs", EPOCHS.value), ("batch_size", BATCH_SIZE.value)):
        if value is not None:
            if value < 1:
                raise UsageError(f"--{name}={value} must be at least 1")
            recipe[name] = value
    if all(files):
        workdir = WORKDIR.value or f"runs/{epath.Path(files[0]).stem}"
        experiment.train_on_files(config, *files, epath.Path(workdir))
    else:
        experiment.train(config, epath.Path(WORKDIR.value or cli.default_workdir("config")))


if __name__ == "__main__":
    cli.run(main)
