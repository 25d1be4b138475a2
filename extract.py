"""Images -> features of a frozen, pretrained backbone, in a store that any later run reads.

    python extract.py --config=configs/cifar10_vgg16.py --workdir=DIR --config.batch_size=64
    python extract.py --config=configs/cifar10_vgg16.py --workdir=DIR --config.export=features.p

Interrupted anywhere, the same command goes on where it stopped.
"""

from absl import flags
from ml_collections import config_flags

from transfer import cli
from transfer.errors import UsageError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run keeps its files, local or gs://; the same command resumes it. Default: runs/NAME."
)


def main() -> None:
    """Extracts both splits of the config."""
    if CONFIG.value is None:
        raise UsageError("--config=configs/NAME.py; see --help")
    from etils import epath

    from transfer import experiment

    workdir = epath.Path(WORKDIR.value or cli.default_workdir("config"))
    experiment.extract(CONFIG.value, workdir)
    print(f"Features: {workdir / 'features'}")


if __name__ == "__main__":
    cli.run(main)
