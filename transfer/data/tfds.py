"""`tfds:NAME`: a data set of TensorFlow Datasets, read by position through its `data_source`, without TensorFlow."""

import functools
import importlib.util
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from transfer.data import decode
from transfer.data.ids import numbered
from transfer.data.layout import no_split
from transfer.data.source import BrokenImage, Source, checked_labels, digest
from transfer.errors import TransferError, UsageError, did_you_mean, similar
from transfer.runtime.progress import Progress

RECORDS_AT_ONCE = 1000
IMAGE, LABEL = "image", "label"


class TfdsSource(Source):
    """A split of a prepared data set; labels and checksums come from one pass over the records, undecoded."""

    def __init__(self, name: str, info: Any, records: Any, split: str) -> None:
        self.name, self.records = name, records
        self.class_names = tuple(map(str, info.features[LABEL].names))
        self.ids = numbered(len(records), split)
        declared = tuple(info.features[IMAGE].shape)[:2]
        shapes: set[tuple[int, int, int]] = set()  # of the images that can be read, at most two
        labels, checksums = [], []
        with Progress(f"listing {name}", len(records), "images") as progress:
            for start in range(0, len(records), RECORDS_AT_ONCE):
                rows = range(start, min(start + RECORDS_AT_ONCE, len(records)))
                for record in records.__getitems__(list(rows)):
                    image = record[IMAGE]
                    labels.append(int(record[LABEL]))
                    checksums.append(zlib.crc32(image.tobytes() if _is_array(image) else image))
                    if None in declared and len(shapes) < 2:
                        shape = (*image.shape[:2], 3) if _is_array(image) else decode.size(image)
                        shapes |= {shape} if shape else set()
                progress.update(len(rows))
        self.labels = checked_labels(labels, len(records), name, len(self.class_names))
        self._checksums = np.asarray(checksums, "<u4")
        self._shape = (*declared, 3) if None not in declared else shapes.pop() if len(shapes) == 1 else None

    def image(self, index: int) -> np.ndarray:
        return self.image_into(index)

    def image_into(
        self, index: int, out: np.ndarray | None = None, divisor: decode.Divisor | None = None
    ) -> np.ndarray:
        where = f"{self.name}: {self.ids[index]}"
        image = self.records[index][IMAGE]
        if not _is_array(image):
            return decode.decode(image, where, out, divisor)
        image = image[..., None] if image.ndim == 2 else image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
            raise BrokenImage(f"{where}: an array of {image.dtype} {image.shape} is no image")
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        return self._shape

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (self._checksums.tobytes(),))


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 2


def open_split(name: str, split: str | None) -> Source:
    """Opens a split (tfds' own grammar, such as "train" or "train[:10%]") of a data set with `image` and `label`.

    It is looked for under TFDS_DATA_DIR. A data set that is not prepared there is downloaded and prepared where
    TensorFlow is installed; where it is not, a TransferError says what to run. Raises UsageError for an unknown
    name or split.
    """
    import tensorflow_datasets as tfds

    spec = f"tfds:{name}"
    if not name:
        raise UsageError("write tfds:NAME, for example tfds:cifar10")
    builder = _builder(spec, name)
    command = f"tfds build {name} --file_format=array_record"
    if not builder.is_prepared():
        if importlib.util.find_spec("tensorflow") is None:
            raise TransferError(
                f"{spec}: not prepared under {builder.data_path}, and preparing it needs TensorFlow; run: "
                f"pip install tensorflow && {command}"
            )
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # no network, a wrong checksum, a licence to accept by hand: tfds has many
            raise TransferError(f"{spec}: could not be prepared ({_first_line(error)}); try: {command}") from error
    info = builder.info
    missing = {IMAGE, LABEL}.difference(info.features or ())
    if missing or not hasattr(info.features[LABEL], "names"):
        lacking = " and ".join(sorted(missing)) or "class names"
        raise TransferError(f"{spec}: has no {lacking}; it does not consist of labelled images")
    _check_split(spec, split, info.splits)
    encoded = isinstance(info.features[IMAGE], tfds.features.Image)
    try:
        # images stay encoded, so that our own decoder names the ones that are broken
        records = builder.as_data_source(split=split, decoders={IMAGE: tfds.decode.SkipDecoding()} if encoded else None)
    except (NotImplementedError, ValueError) as error:
        raise TransferError(
            f"{spec}: prepared under {builder.data_path} in a format without random access ({info.file_format}); "
            f"remove it and run: {command}"
        ) from error
    return TfdsSource(spec, info, records, str(split))


def _builder(spec: str, name: str) -> Any:
    import tensorflow_datasets as tfds

    known, base = tfds.list_builders(with_community_datasets=False), name.partition(":")[0].partition("/")[0]
    hint = "" if base in known else did_you_mean(similar(base, known))
    try:
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError as error:
        raise UsageError(f"{spec}: TensorFlow Datasets has no {name!r}{hint}") from error
    except ImportError as error:
        raise TransferError(f"{spec}: needs a package that is not installed ({_first_line(error)})") from error
    except (ValueError, AssertionError) as error:
        raise UsageError(f"{spec}: {_first_line(error)}{hint}") from error


def _check_split(spec: str, split: str | None, splits: Mapping[str, Any]) -> None:
    """Raises UsageError where the split is not there, is not in tfds' grammar, or holds nothing."""
    example = "slices are written train[:50%], train[100:200], train+test"
    if not split or any(part.split("[")[0].strip() not in (*splits, "all") for part in split.split("+")):
        raise no_split(spec, split, list(splits))
    try:
        images = splits[split].num_examples
    except (ValueError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[-1]  # the lines before repeat the split
        raise UsageError(f"{spec}: no split {split!r} ({why}); {example}") from error
    if images < 1:
        raise UsageError(f"{spec}: the split {split!r} holds no images; {example}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
