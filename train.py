"""Features -> a trained head, extracting first where the features are missing; also trains whole networks.

    python train.py --config=configs/quickstart.py
    python train.py --training_file=vgg_train.p --validation_file=vgg_validation.p --epochs=50 --batch_size=256

    python train.py --config=configs/quickstart.py --config.head.name=ridge --config.sweep.grid=default --workdir=RUN

Any field of a config can be set on the command line: --config.head.epochs=100 --config.data.source=PATH.
"""

from transfer.runtime import interrupts

if __name__ == "__main__":
    interrupts.install()  # before what takes time to import

from absl import flags

from transfer import cli
from transfer.errors import UsageError

CONFIG = cli.Config()
TRAINING_FILE = flags.DEFINE_string("training_file", None, "Features and labels (.p, .npz, .safetensors) to train on.")
VALIDATION_FILE = flags.DEFINE_string("validation_file", None, "Features and labels to validate on.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training rows (default: the config's, 50).")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Rows a step of training (default: the config's, 256).")


def main() -> None:
    """Checks the flags, then trains."""
    files = (TRAINING_FILE.value, VALIDATION_FILE.value)
    if any(files) and not all(files):
        raise UsageError("--training_file and --validation_file go together")
    if CONFIG.path is None and not all(files):
        raise UsageError("--config=configs/NAME.py, or --training_file and --validation_file; see --help")

    from transfer import config as settings

    config = CONFIG.load()
    recipe = config.finetune if config.train == "finetune" and not all(files) else config.head
    for name, value in (("epochs", EPOCHS.value), ("batch_size", BATCH_SIZE.value)):
        if value is not None:
            recipe[name] = value
    settings.check(config)
    cli.prepare_jax({"--training_file": "PATH" if all(files) else None, **settings.common(config)})
    from transfer import experiment
    from transfer.runtime.files import bucket

    if all(files):
        experiment.train_on_files(config, *files, bucket.reached(CONFIG.workdir(files[0])))
    else:
        experiment.train(config, bucket.reached(CONFIG.workdir()))


if __name__ == "__main__":
    cli.run(main, CONFIG)
