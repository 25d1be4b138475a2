"""What is taken for granted of a weight file that cannot say it, in one line of the log at the end of a load.

The same tensors are those of a network whose bottlenecks carry the stride in another convolution, or that rescales its
images itself; and a file of tensors alone does not say how its images are made.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights.maps import family
from transfer.weights.names import PYTORCH


class Silence(NamedTuple):
    """A field of a family's architectures that tensors leave open.

    Attributes:
      field: its name.
      libraries: whose files leave it open; of others the reader knows it.
      texts: what is assumed, by the field's value.
      only: a part of an array's path without which the question does not arise.
    """

    field: str
    libraries: Sequence[str]
    texts: Mapping[Any, str]
    only: str = ""


STRIDE = {
    False: "the 3x3 convolution of a bottleneck carries the stride (stride_in_1x1=False), as in torchvision",
    True: "the first 1x1 convolution of a bottleneck carries the stride (stride_in_1x1=True), as in Keras",
}
TRANSFORM = {
    False: "the network takes images as the preprocessing makes them (transform_input=False)",
    True: "the network rescales its images itself (transform_input=True), as torchvision's own weights",
}
SILENCES = {
    "resnet": (Silence("stride_in_1x1", (*PYTORCH, "keras"), STRIDE, only=".conv3."),),
    "inception": (Silence("transform_input", PYTORCH, TRANSFORM),),
    "googlenet": (Silence("transform_input", PYTORCH, TRANSFORM),),
}


def of_network(
    arch: str, library: str, paths: Collection[str], fields: Mapping[str, Any], said: Collection[str] = ()
) -> Iterator[str]:
    """What tensors by a library's names leave open of a model of `arch` with these paths and fields, but for `said`."""
    for silence in SILENCES.get(family(arch).name, ()):
        if library in silence.libraries and silence.field not in said and any(silence.only in path for path in paths):
            yield silence.texts[bool({**registry.defaults(arch), **fields}.get(silence.field))]


def of_images(own: Preprocessing | None, record: str | None, unlike: str) -> Iterator[str]:
    """How images are made, where a file has no recipe of its `own`: as for a record; `unlike` is what it has."""
    if own is None and record:
        yield f"the preprocessing is that of {record}"
    elif own is None:
        why = f", images being made with {unlike}" if unlike else ""
        yield f"no preprocessing is known{why} (preprocessing=, config.preprocessing)"


def log(sentences: Sequence[str], file: object, name: str) -> None:
    """The one line, if there is anything to say."""
    if sentences:
        logging.info("%s: %s does not say it, so it is assumed: %s", name, file, "; ".join(sentences))
