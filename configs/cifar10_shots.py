"""CIFAR-10 by every head, at every depth, with 1, 5, 10, 25, 100 and all images a class.

    python train.py --config=configs/cifar10_shots.py --config.model.weights=vgg16_keras_notop.h5 \
        --config.data.source=folder:cifar10_jpeg.zip
    python train.py --config=configs/cifar10_shots.py:slim --config.data.source=folder:cifar10_jpeg.zip

VGG16 at 112 pixels, a quarter of the published experiment's, so that 55,000 images take a quarter of the time; `slim` is
the shipped backbone, which was trained on these training images. Settings of each head are chosen on a part of the rows
of each draw. Results: docs/results.md.
"""

from ml_collections import ConfigDict

from transfer import config as settings

BLOCKS = [f"block{number}" for number in range(1, 6)]
# The last block of the shipped backbone has one pixel, of which the maximum is the average.
TAPS = {
    "vgg16": [f"{block}:{pool}" for pool in ("avg", "max") for block in BLOCKS],
    "slim": [*(f"{block}:avg" for block in BLOCKS), *(f"{block}:max" for block in BLOCKS[:4])],
}


def get_config(backbone: str = "vgg16") -> ConfigDict:
    """`backbone` is `vgg16` or `slim`; the published head is trained on each tap, then the protocol is run."""
    config = settings.default()
    config.model.name = {"vgg16": "vgg16.keras", "slim": "vgg11_slim.cifar10"}[backbone]
    config.image_size = {"vgg16": 112, "slim": 48}[backbone]
    config.tap = ",".join(TAPS[backbone])
    config.batch_size = 64
    config.data.source = "folder:cifar10_jpeg.zip"
    config.data.train, config.data.validation = "train", "test"
    config.data.train_per_class, config.data.validation_per_class = 5000, 500  # all that the archive has
    config.few_shot = dict(
        per_class=(1, 5, 10, 25, 100, None),
        seeds=5,
        heads=("linear", "logistic", "ridge", "knn", "nearest_mean"),
        select=True,
    )
    return config
