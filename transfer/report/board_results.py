"""What TensorBoard shows of a run that has ended: the confusion matrix as an image, the features in its projector."""

import io
import struct
import time
from typing import Any

from etils import epath

from transfer.evaluation import predictions as kept
from transfer.report import board_pictures, board_projector
from transfer.report.run_data import RunData
from transfer.runtime.files import atomic

# TensorBoard reads a folder's files by their names, which hold a time; an older one of ours goes.
FILE = "events.out.tfevents.{:010d}.results"
TAG = "confusion matrix"


def write(run: RunData) -> None:
    """Writes both into the folder of the run's predictions, unless they are there and newer; nothing without those.

    Raises OSError where nothing can be written.
    """
    if run.predictions is None or _is_there(run.folder):
        return
    board_projector.write(run, run.folder)
    for path in _there(run.folder):
        path.unlink(missing_ok=True)
    # a second on: after the scalars, which may be just written
    with atomic.writing(run.folder / FILE.format(int(time.time()) + 1)) as stream:
        for event in _events(run):
            stream.write(_record(event.SerializeToString()))


def _there(folder: epath.Path) -> list[epath.Path]:
    return list(folder.glob("events.out.tfevents.*.results"))


def _is_there(folder: epath.Path) -> bool:
    newest = (folder / kept.FILE).stat().mtime
    return any(path.stat().mtime >= newest for path in _there(folder))


def _events(run: RunData) -> list[Any]:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    step = int(run.history[-1].get("epoch", 0)) if run.history else 0
    events = [Event(wall_time=time.time(), step=step, file_version="brain.Event:2")]
    image = board_pictures.confusion_matrix(run.predictions) if run.predictions is not None else None
    if image is not None:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        picture = Summary.Image(
            height=image.height, width=image.width, colorspace=3, encoded_image_string=stream.getvalue()
        )
        summary = Summary(value=[Summary.Value(tag=TAG, image=picture)])
        events.append(Event(wall_time=time.time(), step=step, summary=summary))
    return events


def _record(data: bytes) -> bytes:
    """As TFRecord frames it: length, its checksum, the bytes, theirs."""
    from tensorboardX.record_writer import masked_crc32c

    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))
