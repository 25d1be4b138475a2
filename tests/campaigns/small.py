"""The config of the campaigns: LeNet-5 of random numbers on the digits, in many small batches.

python extract.py --config=tests/campaigns/small.py --workdir=DIR
"""

from ml_collections import ConfigDict

from transfer import config as settings


def get_config() -> ConfigDict:
    """Everything takes a second, so that a campaign is many runs; what is written is written as anywhere."""
    config = settings.default()
    config.model.name = "lenet5"
    config.model.weights = "random"
    config.model.fields = dict(channels=1, image_size=28)
    config.tap = "block1:flatten"
    config.image_size = 28
    config.preprocessing = dict(channels="grey", interpolation="bicubic", scale=1 / 255, mean=(0.3,), std=(0.38,))
    config.data.source = "digits"
    config.batch_size = 32
    config.head.epochs = 6
    config.checkpoint_seconds = 0.0
    return config
