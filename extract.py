"""Images -> features of a frozen, pretrained backbone, in a store that any later run reads.

    python extract.py --config=configs/cifar10_vgg16.py --workdir=DIR --config.batch_size=64
    python extract.py --config=configs/cifar10_vgg16.py --workdir=DIR --config.export=features.p

Interrupted anywhere, the same command goes on where it stopped.
"""

from transfer.runtime import interrupts

if __name__ == "__main__":
    interrupts.install()  # before what takes time to import

from transfer import cli
from transfer.errors import UsageError

CONFIG = cli.Config()


def main() -> None:
    """Extracts both splits of the config."""
    if CONFIG.path is None:
        raise UsageError("--config=configs/NAME.py; see --help")
    from transfer import config as settings

    config = CONFIG.load()
    settings.check(config)
    cli.prepare_jax(settings.common(config))
    from transfer import experiment
    from transfer.runtime.files import bucket

    workdir = bucket.reached(CONFIG.workdir())
    experiment.extract(config, workdir)
    print(f"Features: {workdir / 'features'}")


if __name__ == "__main__":
    cli.run(main, CONFIG)
