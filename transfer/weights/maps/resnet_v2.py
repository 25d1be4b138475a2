"""The names of ResNet V2's layers in Keras."""

from transfer.weights.maps import of_each, resnet

CLASSIFIER = {"keras": resnet.CLASSIFIER["keras"]}
NAMES = {"keras": of_each(resnet.keras)}
KERAS_PADDING = resnet.KERAS_PADDING
