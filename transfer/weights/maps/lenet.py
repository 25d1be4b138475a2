"""The names of LeNet-5's layers in the PyTorch and Keras versions that are taught; no library ships one."""

from transfer.models.lenet import CLASSIFIER_CELLS
from transfer.weights.maps import of_each

# fc1 takes the flattened 5x5 map, which PyTorch flattens channels first
FLATTENED = {"fc1": CLASSIFIER_CELLS**2}

CLASSIFIER = {
    "torchvision": ("fc1.", "fc2.", "fc3."),
    "keras": ("fc1/", "fc2/", "predictions/"),
    "native": ("fc1.", "fc2.", "logits."),
}

# PyTorch's own tutorial calls the last layer `fc3`, Keras' `predictions` as in `keras.applications`.
NAMES = {
    "torchvision": of_each(lambda layer: "fc3" if layer == "logits" else layer),
    "keras": of_each(lambda layer: "predictions" if layer == "logits" else layer),
}
