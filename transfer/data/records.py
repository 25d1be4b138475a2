"""`tfrecord:PATH` and `arrayrecord:PATH`: records, each a `tf.train.Example` with an encoded image; without TensorFlow.

Images of TFRecord files are read where they lie, and all checksums are compared when a file is listed; records of
ArrayRecord files, which have to be on this machine's disks, are unpacked by the library of that name.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import google_crc32c

from transfer.data.layout import listed
from transfer.data.shard_rows import BUFFER, Columns, ShardSource, cells, open_shards
from transfer.data.shards import Shard
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary

NUMBER = r"-\d+-of-\d+"
TFRECORD = rf"(\.tfrecords?|\.tfrecords?{NUMBER}|(?<!array_record)(?<!arrayrecord){NUMBER})(\.gz)?$"
ARRAY_RECORD = rf"\.array_?record({NUMBER})?$"
# In ImageNet's records and in those of TensorFlow Datasets.
IMAGES, LABELS = ("image/encoded", "image"), ("image/class/label", "label", "image/class/text")
AT_ONCE, OPEN = 64, 64  # records that are listed at once; ArrayRecord files that stay open


class ArrayRecordSource(ShardSource):
    """Images in records that are read by their numbers."""

    def read(self, row: int, limit: int | None = None) -> bytes:
        shard, place = self.place(row)
        ((_, record),) = _array_records(self.shards[shard], range(place, place + 1))
        features = _features(record)
        (image,) = features.get(_name(features, self.columns.image, IMAGES), ())
        return image[:limit]


def _rows(
    records: Callable[[Shard], Iterator[tuple[int, bytes]]], shard: Shard, columns: Columns
) -> Iterator[dict[str, Any]]:
    """The rows of records, each with where it begins. Raises TransferError where the first lacks what is asked for."""
    shown = list[str]()
    for number, (start, record) in enumerate(records(shard)):
        features = _features(record)
        image_name = _name(features, columns.image, IMAGES)
        shown = shown or [_name(features, name, LABELS) for name in columns.shown]  # of the first record
        if number == 0 and (lacking := [name for name in (image_name, *shown) if name not in features]):
            there = listed(sorted(features), 20) or "nothing"
            raise TransferError(f"a record has no {lacking[0]}; config.data.columns may name what there is: {there}")
        images = features.get(image_name, [])
        if len(images) != 1 or not isinstance(images[0], bytes):
            yield {"why": "without one image"}
            continue
        row = {"place": start + record.find(images[0]), "size": len(images[0])}
        try:
            values = [features.get(name) and list(map(_text, features[name])) for name in shown]
            if columns.says != "labels" or len(shown) > 1:
                values = [each[0] if each and len(each) == 1 else each or None for each in values]
            if columns.says == "label" and values == [-1]:  # of TensorFlow Datasets: not known
                values = [None]
            yield row | cells(columns, values)
        except ValueError:
            yield {"why": f"whose {shown[0]} is no label"}


def _name(features: Mapping[str, Any], name: str, usual: tuple[str, ...]) -> str:
    return name or next(filter(features.__contains__, usual), usual[0])


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _features(record: bytes) -> dict[str, Any]:
    """The values of a record by the names of its features; TransferError for one that is no Example."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:  # its first field is that of an Example
        example = tf_example_pb2.SequenceExample.FromString(record)
    except DecodeError as error:
        raise TransferError(f"a record is no tf.train.Example: it begins with {record[:12]!r}") from error
    if example.HasField("feature_lists"):
        raise TransferError("a record is a tf.train.SequenceExample: write an Example for each image")
    kinds = {name: feature.WhichOneof("kind") for name, feature in example.context.feature.items()}
    return {name: list(getattr(example.context.feature[name], kind).value) for name, kind in kinds.items() if kind}


def _tf_records(shard: Shard) -> Iterator[tuple[int, bytes]]:
    """(where it begins, content) of each record; TransferError where the file is damaged, ends early or is packed."""
    at, again = 0, "copy or download it again"
    with shard.system.open(shard.path, "rb", block_size=BUFFER) as file:
        while at < shard.size:
            length, check = file.read(8), file.read(4)
            if at == 0 and length.startswith(b"\x1f\x8b"):
                raise TransferError("is packed by gzip: unpack it (gunzip), images are read where they lie")
            if not _holds(length, check):
                raise TransferError(f"damaged at byte {at}; {again}" if at else "no TFRecord file, or a damaged one")
            size = int.from_bytes(length, "little")
            if at + 16 + size > shard.size:
                raise TransferError(f"ends early: {size} bytes should follow byte {at + 12} of {shard.size}; {again}")
            record = file.read(size)
            if not _holds(record, file.read(4)):
                raise TransferError(f"damaged in the record at byte {at}, by its checksum; {again}")
            yield at + 12, record
            at += 16 + size


def _holds(data: bytes, check: bytes) -> bool:
    """Whether a checksum, CRC-32C turned and shifted, is that of the data."""
    value = google_crc32c.value(data)
    return int.from_bytes(check, "little") == ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.lru_cache(OPEN)
def _reader(path: str, stamp: int) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        raise ValueError("no ArrayRecord file, or a damaged one")
    return reader


def _array_records(shard: Shard, numbers: range | None = None) -> Iterator[tuple[int, bytes]]:
    """(0, content) of the records of these numbers, None: of all; TransferError where they cannot be read."""
    if "file" not in shard.system.protocol:
        raise TransferError("ArrayRecord files are read from this machine's disks: copy it there")
    try:
        reader = _reader(shard.path, shard.stamp)
        numbers = range(reader.num_records()) if numbers is None else numbers
        for start in numbers[::AT_ONCE]:
            for record in reader.read(list(range(start, min(start + AT_ONCE, numbers.stop)))):
                yield 0, record
    except (ImportError, IndexError, RuntimeError, ValueError) as error:
        raise TransferError(f"cannot be read ({error_summary(error)})") from error


open_tfrecord = functools.partial(open_shards, "tfrecord", TFRECORD, functools.partial(_rows, _tf_records))
open_arrayrecord = functools.partial(
    open_shards, "arrayrecord", ARRAY_RECORD, functools.partial(_rows, _array_records), kind=ArrayRecordSource
)
