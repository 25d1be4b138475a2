"""Kornblith et al.'s protocol for fixed features: logistic regression, 45 L2 penalties from 1e-6 to 1e5.

python train.py --config=configs/kornblith_logistic.py

As in "Do Better ImageNet Models Transfer Better?" (Kornblith, Shlens & Le, CVPR 2019), whose protocol SimCLR and
others take over: multinomial logistic regression by L-BFGS on the penultimate layer's features, as they come, of images
that are not augmented; the L2 penalty is one of 45 logarithmically spaced values, chosen on validation images; then a
fit on training and validation images, and one look at the test images. The penalty is on the sum of the losses, so
that C = 1 / penalty: the code of linusericsson/ssl-transfer (`linear.py`), which does the same with scikit-learn, has
it so, and holds out a fifth of the training images where a data set has no validation split, as this does. Two things
differ. The fifth is drawn class by class. And a penalty's fit does not begin at the one before (the loss is convex, so
that the optimum is the same): all are fitted in one program.

Where a data set is usually measured by mean accuracy a class (aircraft, pets, flowers, Caltech-101), choose by it too:
--config.sweep.measure=balanced_accuracy.

Result on 360 of the digits: C = 0.0178, accuracy 0.9917 [0.9758, 0.9972] (95 %), log-loss 0.0834. 32 of the
C were equal on the 287 held-out images, and the strongest penalty of them was taken.
"""

from ml_collections import ConfigDict

from transfer import config as settings

# The strongest penalty, 1e5, first: of equals the first is chosen.
C = tuple(10.0 ** (-5 + 11 * i / 44) for i in range(45))


def get_config() -> ConfigDict:
    """On the digits, through the backbone that ships with the package; any --config.model.name and data do."""
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    config.tap = "block3:flatten"  # the paper's is pre_logits
    config.image_size = 32
    config.preprocessing.interpolation = "bicubic"
    config.data.source = "digits"
    config.head.update(name="logistic", scaling="none", max_iter=1000)
    config.sweep.C = C
    config.sweep.holdout = 0.2
    return config
