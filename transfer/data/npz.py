"""`npz:PATH`: images and labels in a NumPy archive, whole or by splits."""

from collections.abc import Collection

from transfer.data.source import ArraySource, Source
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.untrusted import prefix_errors, printable

NPY_START = b"\x93NUMPY"  # how the file of a single array begins
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
        if stream.read(len(NPY_START)) == NPY_START:
            raise TransferError("holds one array; expected an npz file with images and labels")
        with archives.open_zip(stream) as archive:
            images, labels = _choose(archive.array_names(), split)
            present = [key for key in (images, labels, "class_names") if key + archives.ARRAY_SUFFIX in archive]
            arrays = {key: archive.array(key) for key in present}
    class_names = [str(text) for text in arrays["class_names"].reshape(-1)] if "class_names" in arrays else None
    return ArraySource(name, arrays[images], arrays[labels], class_names, prefix=f"{split}/" if split else "")


def _choose(names: Collection[str], split: str | None) -> tuple[str, str]:
    """The names of the arrays of images and of labels."""
    forms = SPLIT_NAMES if split else [("images", "labels")]
    candidates = [(images.format(split), labels.format(split)) for images, labels in forms]
    for images, labels in candidates:
        if images in names and labels in names:
            return images, labels
    message = f"needs arrays {' and '.join(candidates[0])}; it holds "
    message += ", ".join(map(printable, sorted(names)[:8])) or "nothing"
    if split:
        raise UsageError(message)
    if any(key.endswith(("_images", "_labels")) or key.startswith(("x_", "y_")) for key in names):
        raise UsageError(f"{message}; name a split")
    raise TransferError(message)
