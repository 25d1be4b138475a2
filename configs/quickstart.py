"""scikit-learn's 1,797 handwritten digits through the backbone that ships with the package: no file, no network.

python train.py --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from transfer import config as settings


def get_config() -> ConfigDict:
    """The published recipe on `digits`, then a comparison of features at 10 images a class."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    # The pooled last block transfers worse to digits: block3 keeps strokes and where they are.
    config.tap = "block3:flatten"
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.few_shot = dict(per_class=(10,), seeds=10, heads=("logistic",), baselines=True)
    return config
