"""Images that could not be read and were left out: how many, which, of which classes; and whether a class is lost."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable

if TYPE_CHECKING:
    from transfer.store.store import FeatureStore

# Key of `result.json`.
KEY = "skipped"
MOST_NAMED = 5


def facts(store: "FeatureStore", source: Source) -> dict[str, Any] | None:
    """What `result.json` says of the images that a finished store lacks, whichever run skipped them; None for none."""
    ids = store.metadata["skipped"]
    if not ids:
        return None
    lacking = set(ids)
    labels = (label for id_, label in zip(source.ids, source.labels.tolist(), strict=True) if id_ in lacking)
    classes = {source.class_names[label]: count for label, count in Counter(labels).most_common()}
    return {"images": len(ids), "of": len(source), "first": ids[:MOST_NAMED], "classes": classes}


def line(split: str, found: Mapping[str, Any]) -> str:
    """The facts of a split for people, in a line."""
    first = ", ".join(printable(id_, 200) for id_ in found["first"]) + (
        ", …" if found["images"] > len(found["first"]) else ""
    )
    classes = [f"{count} of {printable(name)}" for name, count in found["classes"].items()]
    named = ", ".join(classes[:MOST_NAMED]) + (", …" if len(classes) > MOST_NAMED else "")
    many = f"{found['images']} of {found['of']} images"
    return (
        f"{split}: {many} could not be read and {'was' if found['images'] == 1 else 'were'} skipped: {first} ({named})"
    )


def check(split: str, store: "FeatureStore", source: Source) -> None:
    """Raises TransferError where the images of a class have all been skipped: nothing would be known of it."""
    counts = [np.bincount(labels, minlength=len(source.class_names)) for labels in (source.labels, store.labels)]
    lost = np.flatnonzero((counts[0] > 0) & (counts[1] == 0))
    if not len(lost):
        return
    names = ", ".join(printable(source.class_names[label]) for label in lost[:MOST_NAMED])
    more = ", …" if len(lost) > MOST_NAMED else ""
    left = int((counts[1] > 0).sum())
    of_all = f"{left} of {left + len(lost)} classes"
    raise TransferError(
        f"{split}: no image of class {names}{more} could be read, so that {of_all} are left; "
        "config.on_error=skip goes on without images, not without a class: repair them, or remove the folder of the "
        "class, and take another --workdir"
    )
