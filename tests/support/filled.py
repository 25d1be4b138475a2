"""Models from tensors that lie in no file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer.weights.asked import Asked, Told
from transfer.weights.fill import fill
from transfer.weights.names import libraries
from transfer.weights.readers import Described

CHOICES = {field.name for field in dataclasses.fields(Asked)} - {"chosen", "arch", "name", "prefix"}


def from_tensors(
    arch: str,
    tensors: Mapping[str, np.ndarray],
    known: Sequence[str] = (),
    file: str = "the file",
    name: str = "",
    prefix: str | None = None,
    assumptions: list[str] | None = None,
    **options: Any,
) -> Any:
    """A model of `arch` with the tensors; `known` are the libraries whose names they may have.

    `assumptions` takes what they leave open.
    """
    fields = {option: value for option, value in options.items() if option not in CHOICES}
    choices = {option: value for option, value in options.items() if option in CHOICES}
    told = Told(
        Path(file), tensors=Described(tensors), fields=fields, libraries=known or libraries(arch), prefix=prefix
    )
    network = fill(Asked(name or arch, arch, chosen=fields, **choices), told)
    model: Any = network.model
    if assumptions is not None:
        assumptions += told.assumed
    model.renewed, model.in_channels = network.renewed, network.channels
    return model
