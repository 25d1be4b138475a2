"""DINOv2's linear evaluation: linear classifiers by SGD, 13 learning rates on each of several inputs, the best chosen.

python train.py --config=configs/dinov2_linear.py

As `dinov2/eval/linear.py` of facebookresearch/dinov2 with its default arguments: SGD with momentum 0.9 and no weight
decay, a cosine from the learning rate to 0, kernels from a normal distribution of deviation 0.01, batches of 128, the
13 learning rates from 1e-5 to 0.1 times batch size / 256, and several inputs at a time. What differs:

- It chooses among the classifiers on the images that it reports them on. Here a tenth of the training images choose,
  class by class; the best is then trained on all of them, and the validation images are looked at once.
- Its inputs are the class tokens of the last 1 or 4 blocks, with or without the patches' mean. A convolutional network
  has neither: here they are taps, the last two blocks pooled, and blocks 4 and 3 in full.
- Its training images are cropped and mirrored at random, which stored features cannot be.
- It takes 12,500 steps (10 epochs of 1,250); here it is 100 epochs, on the digits 1,200 steps.

Result on 360 of the digits: block4:flatten at a learning rate of 0.01, accuracy 0.9889 [0.9718, 0.9957] (95 %);
block5:avg 0.8000, block4:avg 0.9750, block3:flatten 0.9722. The 52 classifiers, and the
chosen one again on all images, take 2.5 seconds on one core of a CPU.
"""

from ml_collections import ConfigDict

from transfer import config as settings

BATCH_SIZE = 128
# Small steps first: of equals the first is chosen.
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
INPUTS = ("block5:avg", "block4:avg", "block4:flatten", "block3:flatten")


def get_config() -> ConfigDict:
    """On the digits, through the backbone that ships with the package; any --config.model.name and data do."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    config.tap = ",".join(INPUTS)
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.head.update(name="sgd", epochs=100, batch_size=BATCH_SIZE, momentum=0.9, weight_decay=0.0)
    config.sweep.learning_rate = tuple(rate * BATCH_SIZE / 256 for rate in LEARNING_RATES)
    return config
