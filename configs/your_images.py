"""Images of your own, in a folder with a folder for each class.

docs/your-own-images.md walks through it:

    python extract.py --config=configs/your_images.py --config.data.source=folder:PATH --workdir=runs/mine
    python train.py --config=configs/your_images.py --config.data.source=folder:PATH --workdir=runs/mine
    python -m transfer predict --workdir=runs/mine NEW_IMAGES

By default with the small network that the package brings: nothing is downloaded. Larger ones, whose weights are:

    configs/your_images.py:vgg16        vgg16.keras, images of 224x224
    configs/your_images.py:resnet50     resnet50.tv1, images of 224x224
    configs/your_images.py:hf:OWNER/REPO    a repository of a Hub (docs/weights.md), images as it says

With `finetune` the network's last layers are trained, too (docs/finetune.md says when that is worth it); that takes
minutes to hours where a head takes seconds, and `extract.py` has nothing to do:

    python train.py --config=configs/your_images.py:finetune --config.data.source=folder:PATH --workdir=runs/tuned

    configs/your_images.py:finetune             the small network, its last block
    configs/your_images.py:finetune_vgg16       vgg16.keras, its last block
    configs/your_images.py:finetune_resnet50    resnet50.tv1, its last stage
"""

from ml_collections import ConfigDict

from transfer import config as settings

# The name behind the config, configs/your_images.py:NAME -> the network, where its features are taken, their size.
NETWORKS = {
    "small": {"model": {"name": "vgg11_slim.cifar10"}, "tap": "block3:avg,block4:avg,pre_logits", "image_size": 64},
    "vgg16": {"model": {"name": "vgg16.keras"}, "tap": "pre_logits"},
    "resnet50": {"model": {"name": "resnet50.tv1"}, "tap": "pre_logits"},
    "finetune": {"model": {"name": "vgg11_slim.cifar10"}, "unfreeze": "block5", "image_size": 64},
    "finetune_vgg16": {"model": {"name": "vgg16.keras"}, "unfreeze": "block5"},
    "finetune_resnet50": {"model": {"name": "resnet50.tv1"}, "unfreeze": "stage4"},
}


def get_config(network: str = "small") -> ConfigDict:
    """A fifth of the images validates; logistic regression on the tap that serves held-out images best."""
    config = settings.default()
    of_hub = {network: {"model": {"name": network}, "tap": "pre_logits"}} if network.startswith("hf:") else {}
    config.update(settings.chosen(NETWORKS | of_hub, network))
    # PATH: what holds the class folders
    config.data.source = "folder:photos"
    if config.unfreeze:
        config.train = "finetune"
        # for hundreds of images: the usual 128 a step would make an epoch a step or two
        config.finetune.update(batch_size=16, learning_rate=0.01)
        return config
    config.head.name = "logistic"
    # Of the taps one is chosen: by probabilities, for a few images leave several of them without a mistake.
    config.sweep.update(measure="log_loss", holdout=0.25)
    return config
