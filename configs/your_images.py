"""Images of your own, in a folder with a folder for each class.

docs/your-own-images.md walks through it:

    python extract.py --config=configs/your_images.py --config.data.source=folder:PATH --workdir=runs/mine
    python train.py --config=configs/your_images.py --config.data.source=folder:PATH --workdir=runs/mine
    python -m transfer predict --workdir=runs/mine NEW_IMAGES

By default with the small network that the package brings: nothing is downloaded. Larger ones, whose weights are:

    configs/your_images.py:vgg16        vgg16.keras, images of 224x224
    configs/your_images.py:resnet50     resnet50.tv1, images of 224x224
"""

from ml_collections import ConfigDict

from transfer import config as settings

# The name behind the config, configs/your_images.py:NAME -> the network, where its features are taken, their size.
NETWORKS = {
    "small": {"model": {"name": "vgg11_slim.cifar10"}, "tap": "block3:avg,block4:avg,pre_logits", "image_size": 64},
    "vgg16": {"model": {"name": "vgg16.keras"}, "tap": "pre_logits"},
    "resnet50": {"model": {"name": "resnet50.tv1"}, "tap": "pre_logits"},
}


def get_config(network: str = "small") -> ConfigDict:
    """A fifth of the images validates; logistic regression on the tap that serves held-out images best."""
    config = settings.default()
    config.update(settings.chosen(NETWORKS, network))
    # PATH: what holds the class folders
    config.data.source = "folder:photos"
    config.head.name = "logistic"
    # Of the taps one is chosen: by probabilities, for a few images leave several of them without a mistake.
    config.sweep.update(measure="log_loss", holdout=0.25)
    return config
