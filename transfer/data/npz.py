"""`npz:PATH`: images and labels in a NumPy archive, whole or by splits."""

from transfer.data.source import ArraySource, Source
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives, npz
from transfer.runtime.files.untrusted import prefix_errors, printable

# how a lone array's file begins
ARRAY = b"\x93NUMPY"
# names of (images, labels) of a split, tried in this order
SPLIT_NAMES = (
    ("{}_images", "{}_labels"),
    ("images_{}", "labels_{}"),
    ("x_{}", "y_{}"),
    ("X_{}", "y_{}"),
)


def open_split(path: str, split: str | None) -> Source:
    """Reads `images` (N, h, w[, 1 or 3]) uint8, `labels` (N,) or (N, 1), and `class_names` where there are some.

    With a split the names are `train_images`, `train_labels`, or as in Keras' files `x_train`, `y_train`.
    Raises UsageError for a split that is not there, TransferError for a damaged file and for arrays of objects.
    """
    name = f"npz:{path}"
    with open(path, "rb") as stream, prefix_errors(name):
        if stream.read(len(ARRAY)) == ARRAY:
            raise TransferError("holds one array; expected an npz file with images and labels")
        with archives.open_zip(stream) as archive:
            images, labels = _names(npz.names(archive), split)
            there = [key for key in (images, labels, "class_names") if key + npz.ENDING in archive]
            arrays = {key: npz.read(archive, key) for key in there}
    class_names = arrays.get("class_names")
    return ArraySource(
        name,
        arrays[images],
        arrays[labels],
        None if class_names is None else [str(c) for c in class_names.reshape(-1)],
        prefix=f"{split}/" if split else "",
    )


def _names(there: list[str], split: str | None) -> tuple[str, str]:
    candidates = [("images", "labels")] if split is None else [tuple(t.format(split) for t in p) for p in SPLIT_NAMES]
    for images, labels in candidates:
        if images in there and labels in there:
            return images, labels
    wanted = " and ".join(candidates[0])
    message = f"needs arrays {wanted}; it holds {', '.join(map(printable, sorted(there)[:8])) or 'nothing'}"
    if split is not None or not any(t.endswith(("_images", "_labels")) or t.startswith(("x_", "y_")) for t in there):
        raise UsageError(message) if split is not None else TransferError(message)
    raise UsageError(f"{message}; name a split")
