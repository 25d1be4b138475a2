"""Every file in which this package reads a pickle, with the given one in it."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from transfer.data import open_source
from transfer.store import feature_files
from transfer.weights import readers
from transfer.weights.readers import torch_file

Read = Callable[[], object]
Carrier = Callable[[Path, bytes], Read]
CIFAR_FOLDER = "cifar-10-batches-py"


def feature_file(folder: Path, pickled: bytes) -> Read:
    (folder / "a.p").write_bytes(pickled)
    return lambda: feature_files.read(folder / "a.p")


def feature_file_in_zip(folder: Path, pickled: bytes) -> Read:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.p", pickled)
    return lambda: feature_files.read(folder / "a.zip" / "a.p")


def traffic_signs(folder: Path, pickled: bytes) -> Read:
    (folder / "train.p").write_bytes(pickled)
    return lambda: open_source(f"pickle:{folder}", "train")


def traffic_signs_in_zip(folder: Path, pickled: bytes) -> Read:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("train.p", pickled)
    return lambda: open_source(f"pickle:{folder / 'a.zip'}", "train")


def cifar_batch(folder: Path, pickled: bytes) -> Read:
    (folder / "data_batch_1").write_bytes(pickled)
    return lambda: open_source(f"cifar10:{folder}", "train")


def cifar_meta(folder: Path, pickled: bytes) -> Read:
    batch = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, 2)
    (folder / "test_batch").write_bytes(batch)
    (folder / "batches.meta").write_bytes(pickled)
    return lambda: open_source(f"cifar10:{folder}", "test")


def cifar_tar(folder: Path, pickled: bytes) -> Read:
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo(f"{CIFAR_FOLDER}/data_batch_1")
        member.size = len(pickled)
        archive.addfile(member, io.BytesIO(pickled))
    return lambda: open_source(f"cifar10:{folder / 'cifar-10-python.tar.gz'}", "train")


def torch_zip(folder: Path, pickled: bytes) -> Read:
    """With the storage `0` of four floats, and what must not be read outside of it."""
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
        archive.writestr("etc/passwd", b"x" * 16)
    return lambda: readers.read(folder / "a.pth")


def _stream(folder: Path, **parts: bytes) -> Read:
    """PyTorch's older format; each of its pickles may be another."""
    version, system = pickle.dumps(torch_file.PROTOCOL_VERSION, 2), pickle.dumps({"little_endian": True}, 2)
    whole = {"version": version, "system": system, "state": pickle.dumps({}, 2), "keys": pickle.dumps(["0"], 2)}
    data = b"".join((whole | parts).values()) + (4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes()
    (folder / "a.pth").write_bytes(torch_file.MAGIC + data)
    return lambda: readers.read(folder / "a.pth")


def torch_stream_state(folder: Path, pickled: bytes) -> Read:
    keys = ["0"] if b"storage" in pickled else []
    return _stream(folder, state=pickled, keys=pickle.dumps(keys, 2))


def torch_stream_version(folder: Path, pickled: bytes) -> Read:
    return _stream(folder, version=pickled)


def torch_stream_system(folder: Path, pickled: bytes) -> Read:
    return _stream(folder, system=pickled)


def torch_stream_keys(folder: Path, pickled: bytes) -> Read:
    return _stream(folder, keys=pickled)


ARRAYS: Mapping[str, Carrier] = {
    each.__name__: each
    for each in (
        feature_file,
        feature_file_in_zip,
        traffic_signs,
        traffic_signs_in_zip,
        cifar_batch,
        cifar_meta,
        cifar_tar,
    )
}
TENSORS: Mapping[str, Carrier] = {each.__name__: each for each in (torch_zip, torch_stream_state)}
# Pickles of plain values, where no name at all is known.
PLAIN: Mapping[str, Carrier] = {
    each.__name__: each for each in (torch_stream_version, torch_stream_system, torch_stream_keys)
}
CARRIERS = {**ARRAYS, **TENSORS, **PLAIN}


def empty(folder: Path) -> None:
    """Removes the files of the last one."""
    for item in os.scandir(folder):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path)
        else:
            os.unlink(item.path)
