"""Every head, at every depth, with 1, 5, 10, 25, 100 and all images a class: how many labels, which layer, which head.

    python train.py --config=configs/shots.py
    python train.py --config=configs/shots.py:vgg16 --config.data.source=folder:cifar10_jpeg.zip \
        --config.model.weights=vgg16_keras_notop.h5
    python train.py --config=configs/shots.py:slim --config.data.source=folder:cifar10_jpeg.zip

The digits; CIFAR-10 by VGG16 at 112 pixels (a quarter of the published experiment's, in a quarter of the time); and
CIFAR-10 by the shipped backbone, which was trained on these training images, not on those that validate. Settings of
each head are chosen on a part of the rows of each draw. Results: docs/results.md.
"""

from ml_collections import ConfigDict

from transfer import config as settings

AVERAGES = [f"block{number}:avg" for number in range(1, 6)]
HEADS = ("linear", "logistic", "ridge", "knn", "nearest_mean")
# Seven penalties, not DINOv2's 45: at 50,000 rows those beyond take L-BFGS hundreds of steps and are never chosen.
GRIDS = dict(logistic=dict(C=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)))
SETTINGS = dict(ridge=dict(scaling="standard"), nearest_mean=dict(metric="cosine"))
BACKBONES = {
    "digits": dict(name="vgg11_slim.cifar10", image_size=32, taps=["block3:flatten", *AVERAGES], batch_size=64),
    "vgg16": dict(name="vgg16.keras", image_size=112, taps=AVERAGES, batch_size=64),
    "slim": dict(name="vgg11_slim.cifar10", image_size=48, taps=AVERAGES, batch_size=128),
}


def get_config(backbone: str = "digits") -> ConfigDict:
    """`backbone` is a key of `BACKBONES`; the published head is trained on each tap, then the protocol is run."""
    config, chosen = settings.default(), settings.chosen(BACKBONES, backbone)
    config.model.name, config.image_size = chosen["name"], chosen["image_size"]
    config.batch_size, config.tap = chosen["batch_size"], ",".join(chosen["taps"])
    if backbone == "digits":
        config.preprocessing.interpolation = "bicubic"
    else:
        config.data.source = "folder:cifar10_jpeg.zip"
        config.data.train, config.data.validation = "train", "test"
        config.data.train_per_class, config.data.validation_per_class = 5000, 500  # all that the archive has
    config.few_shot = dict(
        per_class=(1, 5, 10, 25, 100, None), seeds=5, heads=HEADS, select=True, settings=SETTINGS, grids=GRIDS
    )
    return config
