"""The names of LeNet-5's layers in the PyTorch and Keras versions that are taught; no library ships one."""

from collections.abc import Sequence

from transfer.models.lenet import CLASSIFIER_CELLS

# fc1 takes the flattened 5x5 map, which PyTorch flattens channels first
FLATTENED = {"fc1": CLASSIFIER_CELLS**2}

TORCH = {"conv1": "conv1", "conv2": "conv2", "fc1": "fc1", "fc2": "fc2", "logits": "fc3"}

CLASSIFIER = {
    "torchvision": ("fc1.", "fc2.", "fc3."),
    "keras": ("fc1/", "fc2/", "predictions/"),
    "native": ("fc1.", "fc2.", "logits."),
}


def torchvision(layers: Sequence[str]) -> dict[str, str]:
    """PyTorch's own tutorial calls them so."""
    return {layer: TORCH[layer] for layer in layers}


def keras(layers: Sequence[str]) -> dict[str, str]:
    """The last layer is `predictions`, as in `keras.applications`."""
    return {layer: "predictions" if layer == "logits" else layer for layer in layers}


NAMES = {"torchvision": torchvision, "keras": keras}
