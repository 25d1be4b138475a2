"""Which comparisons a catalogue record's architecture is proven by, and against what."""

import functools
import importlib.metadata
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from golden import reading
from models.parts import compiled

from transfer.weights.catalogue import Record, parity

# Of the largest value of a tap, in float32 with matrix products in full precision.
TOLERANCE = 1e-5
# Trained here; its layers at its width are also torchvision's.
OWN = {"vgg11_slim.cifar10": ("vgg11_slim",)}
# How far a measurement may exceed what the catalogue states: another machine rounds otherwise.
MARGIN = 4
# Taps that a record without classes does not have.
CLASSIFIER = ("fc1", "fc2", "logits")
# Without classifier, and with it.
KERAS_FORMATS = ((False, "legacy weights"), (True, "legacy weights"))


class Measured(NamedTuple):
    """The largest relative error over all taps of all inputs, where it was found, and the other library."""

    error: float
    tap: str
    images: str
    against: str


def cases(record: Record) -> tuple[str, ...]:
    """The golden cases of its architecture in its library; none for Keras, which is compared live."""
    if record.name in OWN:
        return OWN[record.name]
    names = reading.cases().items()
    return tuple(
        name
        for name, case in names
        if (case.arch, case.library) == (record.arch, record.name_map) and "width" not in case.fields
    )


@functools.cache
def golden_errors(case: str) -> Mapping[tuple[str, str], float]:
    """(size, tap) -> relative error of a golden case."""
    golden = reading.cases()[case]
    return golden.errors(compiled(golden.model()))


def keras_errors(name: str) -> Mapping[tuple[str, str], float]:
    """(size, tap) -> relative error of a record of Keras, without classifier and with it."""
    from models import keras_parity  # the other comparisons do without Keras

    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for include_top, file_format in KERAS_FORMATS:
            errors = keras_parity.compare(name, include_top, file_format, Path(folder))
            found |= {key: max(error, found.get(key, 0)) for key, error in errors.items()}
    return found


def stated(names: Iterable[str]) -> float:
    """The largest error that the catalogue states for these records."""
    return max(parity()[name]["error"] for name in names)


def measure(record: Record) -> Measured:
    """The worst tap of a record's architecture, the classifier's left out where the record has none."""
    if record.name_map == "keras":
        errors, library, version = keras_errors(record.name), "keras", importlib.metadata.version("keras")
    else:
        every = [golden_errors(case) for case in cases(record)]
        errors = {key: max(errors.get(key, 0) for errors in every) for errors in every for key in errors}
        library = reading.cases()[cases(record)[0]].library
        version = reading.made_with()[library]
    chosen = {key: error for key, error in errors.items() if record.num_classes or key[1] not in CLASSIFIER}
    (images, tap), error = max(chosen.items(), key=lambda item: item[1])
    return Measured(error, tap, images, f"{library} {version}")
