"""CIFAR-10 through VGG16 at 224 pixels, 100 images a class: the published experiment on a real weight file.

    python train.py --config=configs/cifar10_vgg16.py --workdir=runs/cifar10_vgg16 \
        --config.data.source=folder:cifar10_jpeg.zip --config.model.weights=vgg16_keras_notop.h5

Result, on 2 cores of a CPU: validation accuracy 0.6275, loss 1.2164 (training 0.8940, 0.4137).
With --config.resize=float, in another workdir: 0.6285, 1.2137 (0.9000, 0.4075).
"""

from ml_collections import ConfigDict

from transfer import config as settings


def get_config() -> ConfigDict:
    """100 training and 200 validation images a class, the published recipe."""
    config = settings.default()
    config.model.name = "vgg16.keras"
    config.image_size = 224
    config.resize = "pil"
    config.batch_size = 16
    config.data.source = "folder:cifar10_jpeg.zip"
    config.data.train = "train"
    config.data.validation = "test"
    config.data.train_per_class = 100
    config.data.validation_per_class = 200
    return config
