"""The names of AlexNet's layers in torchvision."""

from collections.abc import Sequence

from transfer.models.alexnet import CLASSIFIER_CELLS

# fc1 takes the flattened 6x6 map, which PyTorch flattens channels first
FLATTENED = {"fc1": CLASSIFIER_CELLS**2}

CLASSIFIER = {"torchvision": ("classifier.",), "native": ("fc1.", "fc2.", "logits.")}

# Positions in `features`, where ReLUs and pools count too.
CONVOLUTIONS = {f"conv{i}": f"features.{position}" for i, position in enumerate((0, 3, 6, 8, 10), 1)}


def torchvision(layers: Sequence[str]) -> dict[str, str]:
    """The classifier is `Dropout, Linear, ReLU` twice and a linear layer, so its linear layers are 1, 4, 6."""
    hidden = [layer for layer in ("fc1", "fc2") if layer in layers]
    dense = {layer: f"classifier.{1 + 3 * i}" for i, layer in enumerate(hidden)}
    return CONVOLUTIONS | dense | {"logits": f"classifier.{3 * len(hidden)}"}


NAMES = {"torchvision": torchvision}
