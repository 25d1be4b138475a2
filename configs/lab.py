"""The published lab: VGG16, Inception v3 or ResNet-50 on CIFAR-10 or traffic signs, 100 images a class, a dense layer.

    python train.py --config=configs/lab.py:vgg_cifar10
    python train.py --config=configs/lab.py:resnet_traffic --config.data.source=pickle:traffic-signs-data

As published: bilinear to 224 pixels (299 for Inception) without rounding, Keras' weights and preprocessing, the average
of the last convolutional output; a random fifth of CIFAR-10, a third of the traffic signs validate; 100 of the other
images of each class train. The rows that were drawn are not the lab's, which kept its 100 a class without indices.
`docs/tutorial-lab.md` goes through it. `small_cifar10` and `small_traffic` take the backbone that ships instead.
"""

from ml_collections import ConfigDict

from transfer import config as settings

NETWORKS = {
    "vgg": {"name": "vgg16.keras"},
    "inception": {"name": "inception_v3.keras"},
    "resnet": {"name": "resnet50.keras"},
    "small": {"name": "vgg11_slim.cifar10"},
}
DATA = {
    "cifar10": {"source": "cifar10:cifar-10-batches-py", "train": "train", "validation_fraction": 0.2},
    "traffic": {"source": "pickle:traffic-signs-data", "train": "train", "validation_fraction": 0.33},
}
EXPERIMENTS = {f"{network}_{data}": (network, data) for data in DATA for network in NETWORKS}


def get_config(experiment: str = "vgg_cifar10") -> ConfigDict:
    """`experiment` is one of `EXPERIMENTS`, NETWORK_DATA."""
    network, data = settings.chosen(EXPERIMENTS, experiment)
    config = settings.default()
    config.model.update(NETWORKS[network])
    config.data.update(DATA[data])
    config.data.train_per_class = 100
    config.data.stratify = False
    config.resize = "float"
    config.batch_size = 16
    return config
