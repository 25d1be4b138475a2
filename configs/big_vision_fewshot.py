"""big_vision's few-shot protocol: ridge regression on 1, 5, 10 and 25 images a class, three draws of them.

python train.py --config=configs/big_vision_fewshot.py

As `big_vision/evaluators/fewshot_lsr.py` with the settings of `big_vision/configs/common_fewshot.py` (both of
google-research/big_vision): each column standardised by the drawn rows, least squares to 1 and -1 with a penalty of
2^10, and the same rows drawn of the same labels by the seeds 0, 1 and 2. Two things differ, and neither has changed an
accuracy: the bias is free, where big_vision's is the weight of a column of 100; and nothing is added to a deviation,
where big_vision adds 1e-5. A test holds the accuracies to those of a float64 form of the original.

Its data sets are others: --config.data.source=cifar10:FOLDER, tfds:NAME, … On the digits, 360 of them to
validate on (mean and standard deviation over the seeds):

    images a class               1              5             10             25
    block3:flatten   0.558 ± 0.043  0.913 ± 0.020  0.958 ± 0.013  0.981 ± 0.007
    pre_logits       0.375 ± 0.050  0.578 ± 0.010  0.623 ± 0.018  0.686 ± 0.003
"""

from ml_collections import ConfigDict

from transfer import config as settings

SHOTS, SEEDS = (1, 5, 10, 25), 3
RIDGE = dict(alpha=2.0**10, scaling="standard")


def get_config() -> ConfigDict:
    """The protocol on two taps: big_vision's, the pooled features, and those that suit the digits."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    config.tap = "block3:flatten,pre_logits"
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.head.name = "ridge"
    config.head.update(RIDGE)
    config.few_shot = dict(per_class=SHOTS, seeds=SEEDS, heads=("ridge",), settings=dict(ridge=RIDGE))
    return config
