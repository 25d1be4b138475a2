"""Accuracy over depth: one pass over the images, then a head on every tap, its penalty chosen for each.

python train.py --config=configs/layerwise.py
python train.py --config=configs/layerwise.py:flatten --workdir=runs/layerwise_flatten

Layer-wise probing as Alain & Bengio ("Understanding intermediate layers using linear classifier probes", 2016) began
it, by a head in closed form: ridge regression on standardised features, 11 penalties from one eigendecomposition. A
penalty is chosen for each tap on a tenth of the training images, the head is fitted again on all of them, and every
tap's accuracy on the validation images is shown with its interval. The tap of the run is the one that the held-out
images put first; that the highest of the curve is another one would be no reason to take it.

Result on 360 of the digits, with 95 % intervals; held-out images put block4 first (0.9583):

    block1:avg   16 features  0.8611 [0.8250, 0.8972]
    block2:avg   32           0.9139 [0.8833, 0.9417]
    block3:avg   64           0.9667 [0.9472, 0.9833]
    block4:avg  128           0.9861 [0.9679, 0.9941]
    block5:avg  128           0.8556 [0.8194, 0.8917]
"""

from ml_collections import ConfigDict

from transfer import config as settings

# What becomes of a block's output, by the name behind the config. In full it is only for small images: at 224 pixels
# the first block of a VGG has 802,816 values.
VARIANTS = {"avg": "avg", "max": "max", "flatten": "flatten"}
BLOCKS = tuple(f"block{i}" for i in range(1, 6))


def get_config(variant: str = "avg") -> ConfigDict:
    """On the digits, through the backbone that ships with the package; --config.tap names another network's taps."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    pooling = settings.chosen(VARIANTS, variant)
    config.tap = ",".join(f"{block}:{pooling}" for block in BLOCKS)
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.head.update(name="ridge", scaling="standard")
    config.sweep.grid = "default"
    return config
