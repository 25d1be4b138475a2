"""What is not among the images: those that could not be read, by their classes, and what was never listed."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.data.layout import listed
from transfer.data.source import Source, rows_of_each
from transfer.errors import TransferError

if TYPE_CHECKING:
    from transfer.store.store import FeatureStore

# Keys of `result.json`: of images that could not be read, and of what is in the data set and is not listed.
KEY, LEFT_OUT = "skipped", "left_out"
MOST_NAMED = 5


def facts(store: "FeatureStore", source: Source) -> dict[str, Any] | None:
    """The facts in `result.json` on images that a finished store lacks, whichever run skipped them; None for none."""
    rows = store.metadata["skipped_rows"]
    if not rows:
        return None
    counts = rows_of_each(source, source.labels[rows])
    most_first = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
    classes = {source.class_names[label]: int(counts[label]) for label in most_first}
    first = store.metadata["skipped"][:MOST_NAMED]
    return {"images": len(rows), "of": len(source), "first": first, "classes": classes}


def left_out(sources: Iterable[Source]) -> dict[str, list[str]]:
    """The facts in `result.json` on what the sources have left out of their data set, a line each."""
    lines = list(dict.fromkeys(line for source in sources for line in source.left_out))
    return {LEFT_OUT: lines} if lines else {}


def line(split: str, facts: Mapping[str, Any]) -> str:
    """The facts of a split for people, in a line."""
    were = "was" if facts["images"] == 1 else "were"
    more = ", …" if facts["images"] > len(facts["first"]) else ""
    counts = [f"{count} of {name}" for name, count in facts["classes"].items()]
    classes = f" ({listed(counts, MOST_NAMED)})" if counts else ""
    return (
        f"{split}: {facts['images']} of {facts['of']} images could not be read and {were} skipped: "
        f"{listed(facts['first'], MOST_NAMED, 200)}{more}{classes}"
    )


def check(split: str, store: "FeatureStore", source: Source) -> None:
    """Raises TransferError where the images of a class have all been skipped: nothing would be known of it."""
    listing, stored = (rows_of_each(source, labels) for labels in (source.labels, store.labels))
    lost = np.flatnonzero((listing > 0) & (stored == 0))
    if len(lost):
        names = listed([source.class_names[label] for label in lost], MOST_NAMED)
        left = int((stored > 0).sum())
        raise TransferError(
            f"{split}: no image of class {names} could be read, so that {left} of {left + len(lost)} classes are left; "
            "config.on_error=skip goes on without images, not without a class: repair them, or remove the folder of "
            "the class, and take another --workdir"
        )
