"""What a model's name and `weights` stand for: a record, an architecture, a repository; and the weight file itself."""

import os
from pathlib import Path

from absl import logging

from transfer.errors import TransferError, UsageError, similar
from transfer.models import registry
from transfer.runtime.files import digest, paths
from transfer.runtime.files.untrusted import printable
from transfer.weights import beside, cache, catalogue, claims, hub
from transfer.weights.asked import Asked
from transfer.weights.catalogue import Record

# What is near to a network that is like none of ours.
USUAL_ARCH = "resnet50"
Weights = str | os.PathLike[str] | bool | None


def network(name: str, weights: Weights) -> tuple[Record | None, str, hub.Place | None]:
    """What a model's name stands for: a record, an architecture, and where weights from a Hub or in a folder are.

    Raises:
      UsageError: an unknown name, or `weights` for a name that has its own.
      TransferError: a repository of a network that is not here, or of none.
    """
    record, architectures = catalogue.find(name), registry.architectures()
    if record or name in architectures:
        return record, record.arch if record else name, hub.find(weights)
    place = hub.find(name)
    if place is None:
        raise UsageError(f"unknown model {name!r}{catalogue.meant(name, architectures)}{hub.meant(name)}")
    if weights is not None and not isinstance(weights, bool):
        raise UsageError(f"{name} has weights of its own; leave {weights} out, or name the architecture for it")
    said = beside.read(place.file).network
    arch = claims.architecture(said)
    if arch is None and said:
        nearest = (similar(said, architectures) or [USUAL_ARCH])[0]
        text = f"{name} is a {printable(said, 200)}, which is not here; the nearest is {nearest}"
        raise TransferError(f"{text}, whose tensors have other names or shapes")
    if arch is None:
        raise TransferError(
            f"{name}: no {beside.CONFIG} names its network; name an architecture, and this as its weights"
        )
    return None, arch, place


def file(asked: Asked, weights: Weights) -> tuple[Path, str, bool]:
    """The weight file, its SHA-256, and whether it is the record's own, of which all is known.

    Raises:
      UsageError: an architecture without `weights`.
      TransferError: no such file, or not the one that its hash is of.
    """
    name, record = asked.name, asked.record
    if weights is None or isinstance(weights, bool):
        if record is not None:
            return *cache.fetch(record, notop=asked.num_classes == 0), True
        raise UsageError(
            f"{name} has no weights of its own; {_choice(name)}take a weight file or random weights, "
            "--config.model.weights=FILE or --config.model.weights=random"
        )
    path = Path(paths.expand(weights))
    if not path.is_file():
        raise TransferError(f"{path}: no such weight file")
    digests = cache.digests(path)
    digest.check_sidecar(path, digests["sha256"])
    records = catalogue.records().values()
    owners = [other for other in records if any(cache.mismatch(own, digests) is None for own in other.files)]
    if record and owners and record not in owners:
        text = "%s: by its hash, %s is the file of %s; preprocessing and all else are taken from %s"
        logging.warning(text, name, path, " and ".join(other.name for other in owners), name)
    return path, digests["sha256"], record in owners


def _choice(arch: str) -> str:
    """The records of an architecture, and which of them classified best where it was trained."""
    names = catalogue.names(f"{arch}.*")
    if not names:
        return ""
    best = max(map(catalogue.get, names), key=lambda record: record.acc1 or 0)
    top = f" ({best.name} is right on the most images of {best.dataset}, {best.acc1} %)" if best.acc1 else ""
    return f"choose {catalogue.listed(names)}{top}, or "
