"""The names of GoogLeNet's layers in torchvision."""

from transfer.weights.maps import of_each

CLASSIFIER = {"torchvision": ("fc.",)}

# The auxiliary classifiers of training, which our network does not have.
EXCUSED = {"torchvision": ("aux1.", "aux2.")}

# torchvision numbers the parts of a branch, and a pool counts as one
BRANCHES = {
    "branch1": "branch1",
    "branch2_1": "branch2.0",
    "branch2_2": "branch2.1",
    "branch3_1": "branch3.0",
    "branch3_2": "branch3.1",
    "branch4": "branch4.1",
}


def torchvision(layer: str) -> str:
    """`inception3a.branch2_1.conv` is `inception3a.branch2.0.conv`; the stem's layers stand alone."""
    if layer == "logits":
        return "fc"
    block, brick, part = layer.split(".")
    return f"{brick}.{part}" if block == "stem" else f"{block}.{BRANCHES[brick]}.{part}"


NAMES = {"torchvision": of_each(torchvision)}
