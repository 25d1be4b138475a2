"""What is taken for granted of a weight file that cannot say it, in one line of the log at the end of a load.

The same tensors are those of a network whose bottlenecks carry the stride in another convolution, or that rescales its
images itself; and a file of tensors alone does not say how its images are made.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import logging

from transfer.models import registry
from transfer.weights import claims, native
from transfer.weights.asked import Asked, Told
from transfer.weights.names import PYTORCH


class Silence(NamedTuple):
    """What tensors leave open of a network: of whose files, with which arrays in them, and what is then assumed."""

    libraries: Sequence[str]
    array: str
    texts: Mapping[bool, str]


# By the field of the architecture.
SILENCES = {
    "stride_in_1x1": Silence(
        (*PYTORCH, "keras"),
        ".conv3.",
        {
            False: "the 3x3 convolution of a bottleneck carries the stride (stride_in_1x1=False), as in torchvision",
            True: "the first 1x1 convolution of a bottleneck carries the stride (stride_in_1x1=True), as in Keras",
        },
    ),
    "transform_input": Silence(
        PYTORCH,
        "",
        {
            False: "the network takes images as the preprocessing makes them (transform_input=False)",
            True: "the network rescales its images itself (transform_input=True), as torchvision's own weights",
        },
    ),
}


def of_network(asked: Asked, told: Told, library: str, paths: Collection[str]) -> Iterator[str]:
    """What tensors by a library's names leave open of a model with these paths, but for what is said elsewhere."""
    fields = {**registry.defaults(asked.arch), **told.fields}
    is_named = claims.architecture(told.beside.network) == asked.arch
    said = fields if is_named else {*asked.chosen, *told.written}
    for field, silence in SILENCES.items():
        is_open = field in fields and field not in said and library in silence.libraries
        if is_open and any(silence.array in path for path in paths):
            yield silence.texts[bool(fields[field])]


def of_images(asked: Asked, told: Told) -> Iterator[str]:
    """How images are made, where a file has no recipe of its own: as for the record."""
    if native.preprocessing(told.file) or told.beside.preprocessing or told.tensors.preprocessing:
        return
    if asked.record:
        yield f"the preprocessing is that of {asked.record.name}"
    else:
        why = f", images being made with {told.beside.unlike}" if told.beside.unlike else ""
        yield f"no preprocessing is known{why} (preprocessing=, config.preprocessing)"


def log(asked: Asked, told: Told) -> None:
    """The one line, if there is anything to say."""
    sentences = [*told.tensors.assumed, *of_images(asked, told), *told.assumed]
    if sentences:
        logging.info("%s: %s does not say it, so it is assumed: %s", asked.name, told.file, "; ".join(sentences))
