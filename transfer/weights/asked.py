"""What is asked for, and what a weight file tells: the two things that every step of a load works with."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import UsageError
from transfer.preprocess.recipe import Preprocessing
from transfer.weights.beside import Beside
from transfer.weights.catalogue import Record
from transfer.weights.names import PYTORCH, libraries
from transfer.weights.readers import Described

# The head that is a file's own.
FILE = "file"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model, and how a file is to fill it: what is not described here is as in `create_model`.

    Attributes:
      name: what messages call the model.
      arch: its architecture.
      record: its record; None for an architecture by itself.
      chosen: the fields of the architecture that the caller sets.
    """

    name: str
    arch: str
    record: Record | None = None
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int | None = None
    new_classifier: bool = False
    by_names: bool = False
    key: str | None = None
    prefix: str | None = None
    ema: bool = False
    in_channels: int | None = None
    head: str | None = None
    seed: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the record, and those that the caller sets over them."""
        return {**dict(self.record.fields if self.record else ()), **self.chosen}

    @property
    def libraries(self) -> Sequence[str]:
        """Whose names a file may have: any, for a record those of its own library and the ones alike, its own first."""
        known, record = libraries(self.arch), self.record
        if record is None:
            return known
        alike = PYTORCH if record.name_map in PYTORCH else ()
        return [name for name in dict.fromkeys((record.name_map, *alike, "native")) if name in known]

    @property
    def takes_classifier(self) -> bool:
        """Whether the file's classifier can be used: not where it is left out, or the record has none."""
        return self.num_classes != 0 and (self.record is None or self.record.num_classes > 0)

    @property
    def takes_head(self) -> bool:
        """Whether the classifier is what follows the network in the file."""
        return self.head == FILE and self.num_classes != 0

    @property
    def is_headless(self) -> bool:
        """Whether the model has no classifier, whatever the file has."""
        return not self.takes_classifier and not self.num_classes

    def check(self, is_random: bool) -> None:
        """Raises UsageError for a choice that there cannot be, or not of random weights."""
        if self.in_channels is not None and self.in_channels < 1:
            raise UsageError(f"in_channels={self.in_channels} must be at least 1")
        if self.head not in (None, FILE) or (self.head and is_random):
            raise UsageError(f"head={self.head!r}: only the head of a file is one to take, head='file'")
        if is_random and (self.key is not None or self.prefix is not None or self.ema):
            raise UsageError("key=, prefix= and ema= choose among the tensors of a file; random weights have none")


@dataclasses.dataclass
class Told:
    """A weight file with what it and the texts beside it say, and what the steps of a load make of them.

    Attributes:
      file: where it is, with `sha256`; None for random weights.
      is_published: whether it is the record's own, of which all is known.
      tensors: of the file, then of the network in it.
      beside: what the texts beside it say.
      written: the fields of the architecture that it or they say.
      fields: those that the network in it is built with.
      libraries: whose names the tensors may have.
      prefix: of the names of the network's tensors; None: the one under which all of its backbone lies.
      preprocessing: of the images that the model is given; None where that is not known.
      assumed: a sentence for each thing that the tensors leave open (`transfer.weights.assumed`).
    """

    file: Path = Path()
    sha256: str | None = None
    is_published: bool = False
    tensors: Described = dataclasses.field(default_factory=lambda: Described({}))
    beside: Beside = Beside(Path())
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    libraries: Sequence[str] = ()
    prefix: str | None = None
    preprocessing: Preprocessing | None = None
    assumed: list[str] = dataclasses.field(default_factory=list)
