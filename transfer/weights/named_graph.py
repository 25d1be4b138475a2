"""The graph of a network by its name, at the image size that it is used with."""

import functools
from collections.abc import Callable

from flax import nnx

from transfer.models import registry
from transfer.models.graph.trace import Graph, trace
from transfer.weights import catalogue

# Of the architectures whose images are not 224x224 in colour: height, width, channels.
IMAGES = {"lenet5": (28, 28, 1), "inception_v3": (299, 299, 3)}
USUAL_IMAGE = (224, 224, 3)


@functools.cache
def network(name: str, image_size: int | None = None) -> tuple[Graph, tuple[int, int, int]]:
    """The graph of a record (`"vgg16.keras"`, at its size) or an architecture, and the (height, width, channels) of it.

    `image_size`: of square images, instead of the usual.

    Raises:
      UsageError: an unknown name, or a size that the network does not take.
    """
    arch, fields = catalogue.architecture(name, {})
    height, width, channels = IMAGES.get(arch, USUAL_IMAGE)
    record = catalogue.find(name)
    if record is not None:
        height, width = record.preprocessing.image_size
        fields["num_classes"] = record.num_classes
    if image_size is not None:
        height = width = image_size
    image = (height, width, channels)
    return trace(registry.build(arch, seed=None, **fields), (1, *image)), image


class Alone(nnx.Module):
    """A part of a network by itself, so that it can be traced."""

    def __init__(self, part: nnx.Module) -> None:
        self.part = part

    def __call__(self, images, rngs=None):  # type: ignore[no-untyped-def]
        """Whatever the part takes -> (output, end points)."""
        output = self.part(images)  # type: ignore[operator]
        return output, {"part": output}


def part(make: Callable[[nnx.Rngs], nnx.Module], side: int, channels: int) -> Graph:
    """The graph of one part, for a map of `side` x `side` pixels and so many channels; no weights are made."""
    return trace(nnx.eval_shape(lambda: Alone(make(nnx.Rngs(0)))), (1, side, side, channels))
