"""Fine-tuning against frozen features, at 100 images a class: the shipped backbone on scikit-learn's digits.

    python train.py --config=configs/finetune_digits.py --config.seeds=5              # every layer is trained
    python train.py --config=configs/finetune_digits.py:block5 --config.seeds=5 --workdir=runs/digits_block5
    python train.py --config=configs/finetune_digits.py:logits --config.seeds=5 --workdir=runs/digits_logits
    python train.py --config=configs/finetune_digits.py:head --config.seeds=5 --workdir=runs/digits_head
    python train.py --config=configs/finetune_digits.py:block3 --config.seeds=5 --workdir=runs/digits_block3

Validation accuracy on 719 images, mean and standard deviation over the seeds 0 to 4 (weights, order, augmentation and
which 1,000 images train), on 2 cores of a CPU:

    all      all eight convolutions and a new classifier     0.9892  0.0043
    block5   the last block and a new classifier             0.9811  0.0034
    logits   a new classifier alone, by the same SGD         0.7427  0.0071
    head     the published head on frozen pre_logits         0.6423  0.0125
    block3   the published head on frozen block3:flatten     0.9886  0.0037

Fine-tuning is worth 35 points against the head at the same place, where the frozen network has thrown away what digits
need, and nothing (+0.0006, a seventh of the spread) against a head where the frozen network still has it. On images of
classes that the backbone knows nothing is gained: `finetune_cifar10.py`.

Learning rates, on seed 100: for `all` 0.003, 0.01, 0.03, 0.1, 0.2 gave 0.9750, 0.9861, 0.9889, 0.9958, 0.9917, for
`block5` 0.8776, 0.9750, 0.9791, 0.9847, 0.9861. Those images are of the same 1,797 as the ones that validate; `logits`
and the published head were not tuned. A step of 50 images takes 0.093 core seconds for `all`, 0.028 for `block5` and
0.022 for `logits`: what lies below is not differentiated.

First the classifier, then everything from there (a file keeps its classifier where the classes are as many):

    python train.py --config=configs/finetune_digits.py:logits --workdir=runs/probe
    python train.py --config=configs/finetune_digits.py --config.model.weights=runs/probe/model.safetensors
"""

from ml_collections import ConfigDict

from transfer import config as settings

# What is trained, by the name behind the config: configs/finetune_digits.py:VARIANT.
VARIANTS = {
    "all": {"train": "finetune"},
    "block5": {"train": "finetune", "unfreeze": "block5"},
    "logits": {"train": "finetune", "unfreeze": "logits"},
    "head": {"train": "head"},
    "block3": {"train": "head", "tap": "block3:flatten"},
}


def get_config(variant: str = "all") -> ConfigDict:
    """100 digits a class train; 0.4 of the data set validates, drawn before."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.data.validation_fraction = 0.4
    config.data.train_per_class = 100
    # a mirrored digit is another one; a pixel of its eight is four of the network's
    config.finetune.update(epochs=20, batch_size=50, learning_rate=0.1, flip=False, crop=1)
    config.update(settings.chosen(VARIANTS, variant))
    return config
