"""Trains the backbone that ships with the package, `vgg11_slim.cifar10`: a VGG11 with batch norm at a quarter width.

    python train.py --config=configs/pretrain_vgg11_slim_cifar10.py --config.data.source=folder:cifar10_jpeg.zip
    python train.py --config=configs/pretrain_vgg11_slim_cifar10.py:48 --config.data.source=folder:cifar10_jpeg.zip \
        --config.model.weights=runs/pretrain_vgg11_slim_cifar10/model.safetensors --workdir=runs/pretrain_48

The zip holds CIFAR-10 as JPEG files, train/CLASS/*.jpg (50,000) and test/CLASS/*.jpg (5,000). The first command trains
from random weights at 32 pixels, the second goes on at 48 pixels, where VGG's five poolings leave more to look at.
"""

from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import UsageError


def get_config(image_size: str = "32") -> ConfigDict:
    """SGD with Nesterov momentum under one cosine, mirrored and shifted images, weight decay."""
    config = settings.default()
    config.train = "finetune"
    config.model.name = "vgg11_bn"
    config.model.weights = "random"
    config.model.fields = dict(width=0.25, hidden=())
    if not image_size.isdecimal() or int(image_size) < 32:
        raise UsageError(f"{image_size[:60]!r} is no image size; it may be any number of pixels from 32 on")
    config.image_size = int(image_size)
    config.preprocessing = dict(scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    config.data.source = "folder:cifar10_jpeg.zip"
    config.data.train = "train"
    config.data.validation = "test"
    if config.image_size != 32:  # goes on from trained weights: shorter, and with smaller steps
        config.finetune.epochs = 10
        config.finetune.learning_rate = 0.05
    return config
