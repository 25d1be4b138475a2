"""The readers that `tests.campaigns.fuzz` tries, each with valid files to damage and what a damaged one is put into."""

import contextlib
import functools
import json
import os
import shutil
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from tests.campaigns import fuzz_seeds as seeds
from transfer.data import decode, open_source, records, shard_rows, wds
from transfer.data.shards import Shard
from transfer.errors import TransferError
from transfer.runtime.files import hdf5_process, matlab_process, sandbox
from transfer.runtime.files.untrusted import DAMAGE_ERRORS
from transfer.store import feature_files
from transfer.weights import beside, cache, catalogue, claims, native, readers
from transfer.weights.asked import Asked, Told
from transfer.weights.readers import _hdf5, keras_file

Files = Mapping[str, bytes]
PROCESSES = {each.__name__: each for each in (hdf5_process, matlab_process, _hdf5)}
PICKLE_TOKENS = (
    *(
        b"cos\nsystem\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"c_codecs\nencode\n",
        b"ccollections\nOrderedDict\n",
    ),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"(",
        b")",
        b"]",
        b"}",
        b"t",
        b"l",
        b"d",
        b"R",
    ),
    *(b"b", b"a", b"e", b"s", b"u", b"Q", b"o", b"2", b"0", b"1", b"h\x00", b"h\x01", b"q\x00", b"r\xff\xff\xff\xff"),
    *(b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"\x81", b"\x92", b"\x82\x01", b"\x95", b"\x96", b"\x97", b"\x98"),
    *(b"\x85", b"\x86", b"\x87", b"\x8a\x04", b"\x8b", b"\x8e", b"B\xff\xff\xff\x7f", b"I0\n", b"N", b"."),
)
TABLE_TOKENS = (b"path", b"tags", b",", b";", b'"', b"\n", b"\r\n", b"\0", b"../", b"/", b"|", b"sep=;\n", b"\xff\xfe")
JSON_TOKENS = (b"null", b"[]", b"{}", b"-1", b"1e999", b"true", b'""', b"[[[[", b'"\\ud800"', b"18446744073709551616")
NPY_TOKENS = (
    b"'descr'",
    b"'|O'",
    b"'<U9'",
    b"'V8'",
    b"[('a', '<f4')]",
    b"(",
    b")",
    b"True",
    b"1L",
    b"#",
    b"\\",
    b"'''",
)
ZIP_TOKENS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"\xff" * 8,
    b"\x01\x00\x1c\x00",
)


JPEG_TOKENS = (b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xd0", b"\xff\xe1")
PNG_TOKENS = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"gAMA", b"eXIf", b"acTL")
WEBP_TOKENS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"RIFF", b"\x2f")
BMP_TOKENS = (
    b"BM",
    b"\x0c\0\0\0",
    b"\x28\0\0\0",
    b"\x01\0\0\0",
    b"\x02\0\0\0",
    b"\x03\0\0\0",
    b"\0\x01",
    b"\0\x02\xff\xff",
)
GIF_TOKENS = (b"GIF87a", b"\x2c", b"\x21\xf9\x04", b"\x21\xff", b"\x3b", b"\x21\xfe", b"\x0c")
TIFF_TOKENS = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"\x01\x01",
    b"\x11\x01",
    b"\x12\x01",
    b"\x42\x01",
    b"\x53\x01",
    b"\x05\0",
    b"\x87\x69",
)
JPEG2000_TOKENS = (
    b"jp2h",
    b"ihdr",
    b"jp2c",
    b"pclr",
    b"cdef",
    b"\xff\x51",
    b"\xff\x52",
    b"\xff\x90",
    b"\xff\x93",
    b"\xff\x5c",
)
BOXED_TOKENS = (
    b"ftyp",
    b"meta",
    b"iloc",
    b"iinf",
    b"ipma",
    b"iprp",
    b"ispe",
    b"irot",
    b"av1C",
    b"hvcC",
    b"mdat",
    b"grid",
    b"Exif",
)
PPM_TOKENS = (b"P1", b"P3", b"P5", b"P6", b"Pf", b"#", b"\n", b"65535 ")
HDF5_TOKENS = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"FRHP", b"BTHD")
ONNX_TOKENS = (b"Conv", b"Loop", b"Expand", b"Tile", b"\x08\x01", b"\x12\x00")
TAR_TOKENS = (b"ustar", b"L", b"x", b"\xff" * 12)
RECORD_TOKENS = (
    b"image",
    b"label",
    b"\x0a",
    b"\x12",
    b"\x1a",
    b"\xff" * 8,
    b"\xff\xff\xff\xff\x0f",
    b"\x08\xff\xff\x01",
)
TEXT_TOKENS = (
    *JSON_TOKENS,
    b"NaN",
    b"../",
    b"./",
    b'"architecture":',
    b'"id2label":{}',
    b'"size":',
    b"0.0",
    b"9" * 5000,
)
MAT_TOKENS = (
    b"\x0e\0\0\0",
    b"\x0f\0\0\0",
    b"\x01\0\0\0",
    b"\x05\0\0\0",
    b"\x06\0\0\0",
    b"IM",
    b"MI",
    b"\xff\xff\xff\x7f",
)
FLAG_TOKENS = (b"=", b".", b"(", b")", b"None", b"1e999", b"'", b"\n", b"[0]")


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
      seeds: valid contents of what is damaged.
      read: of a folder with the files in it; what it raises but for TransferError is a finding.
      files: the files of a damaged content.
      tokens: bytes with a meaning in the format.
      share: how many inputs, beside the others.
      short: examples in the short form.
      writes: it writes into the folder, which is no finding.
    """

    name: str
    seeds: seeds.Seeds
    read: Callable[[Path], object]
    files: Callable[[bytes], Files]
    tokens: Sequence[bytes] = ()
    share: int = 4
    short: int = 200
    writes: bool = False


def alone(name: str) -> Callable[[bytes], Files]:
    """The damaged content is the file."""
    return lambda content: {name: content}


def feature_file(name: str) -> Callable[[Path], object]:
    return lambda folder: feature_files.read(folder / name)


def source(kind: str, name: str, split: str | None = None) -> Callable[[Path], object]:
    return lambda folder: open_source(f"{kind}:{folder / name}", split)


def table(name: str) -> Callable[[Path], object]:
    return lambda folder: open_source(f"csv:{folder / name}", columns={"labels": "tags"})


def with_images(name: str) -> Callable[[bytes], Files]:
    """The damaged content is a table, beside what it names."""
    return lambda content: {name: content, "0.png": b"0", "1.png": b"1"}


INDEX = "model.safetensors.index.json"


def weights(folder: Path) -> object:
    return readers.read(folder / "a.bin")


def described(folder: Path) -> object:
    """Our own files: tensors, and what the header says of the model."""
    path = folder / "a.bin"
    native.preprocessing(path)
    native.fields(path, "lenet5")
    return readers.read(path)


def sharded(folder: Path) -> object:
    """An index and its shards, as `create_model` reads them."""
    path = folder / INDEX
    return cache.digests(path), readers.read(path)


def said_beside(folder: Path) -> object:
    """What stands beside a weight file, compared with a model."""
    said, record = beside.read(folder / "model.bin"), catalogue.get("resnet18.a1_in1k")
    claims.architecture(said.network)
    told = Told(folder / "model.bin", beside=said, preprocessing=record.preprocessing)
    if not all(problem.isprintable() for problem in claims.problems(Asked(record.name, record.arch, record), told)):
        raise AssertionError(f"not one line: {said}")
    return "\n".join(said.label_names).encode("utf-8")


class Fork:
    """A fork of this process in place of a new one, which takes a third of a second."""

    def __init__(self, command: list[str]) -> None:
        process = next(each for name, each in PROCESSES.items() if f"import {name} as" in command[2])
        (of_child, asking), (answering, to_child) = os.pipe(), os.pipe()
        self.child = os.fork()
        if not self.child:
            _serve(process, command, of_child, to_child)
        os.close(of_child)
        os.close(to_child)
        self.stdin, self.stdout = open(asking, "wb"), open(answering, "rb")  # noqa: SIM115 - until it is killed

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)

    def communicate(self) -> None:
        with contextlib.suppress(BrokenPipeError), self.stdin, self.stdout:
            os.waitpid(self.child, 0)


def _serve(process: ModuleType, command: list[str], questions: int, answers: int) -> None:
    try:
        for descriptor, end in enumerate((questions, answers, os.open(os.devnull, os.O_WRONLY))):
            os.dup2(end, descriptor)
        os.closerange(3, 1 << 12)  # ends of pipes: where nobody asks any more, it ends
        sys.argv[:], sys.stdin, sys.stdout = ["-c", *command[3:]], open(0), open(1, "w")  # noqa: SIM115
        process.main()
    finally:
        os._exit(0)


def in_forks(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """The reader, asking forks."""

    def reads(folder: Path) -> object:
        with mock.patch.object(sandbox, "start", Fork), mock.patch.object(sandbox, "CPU_SECONDS", 1):
            return read(folder)

    return reads


def keras_names(folder: Path) -> object:
    """The names of layers in a Keras archive, without the HDF5 file beside them."""
    try:
        return dict(keras_file.layer_names(json.loads((folder / "config.json").read_bytes())))
    except DAMAGE_ERRORS as error:  # as `readers.read` has it
        raise TransferError(f"config.json: {' '.join(str(error).split())[:200]}") from error


def picture(extension: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        data = (folder / f"a{extension}").read_bytes()
        decode.size(data[:200])
        return decode.decode(data, "a"), decode.decode(data, "a", np.empty(600, np.uint8), lambda height, width: 2)

    return read


def image_folder(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        found = open_source(f"folder:{folder / name}", "train")
        return found.uniform_shape, found.fingerprint, [found.image(i) for i in range(min(len(found), 4))]

    return read


def shard_table(name: str, rows: Callable[..., Any]) -> Callable[[Path], object]:
    """The table of a shard, not kept; a damage in it is raised, as a source does."""

    def read(folder: Path) -> object:
        path, columns = folder / name, shard_rows.Columns()
        shard = Shard(name, str(path), path.stat().st_size, path.stat().st_mtime_ns, LocalFileSystem())
        table = shard_rows.table_of(rows(shard, columns), columns)
        if table.schema.metadata:
            raise TransferError(f"{path}: {table.schema.metadata[b'damage'].decode()}")
        return table.to_pylist()

    return read


def with_checksums(content: bytes) -> Files:
    """A damaged PNG whose chunks have the right checksum all the same."""
    data, position = bytearray(content), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return {"a.png": bytes(data)}


def with_tar_checksums(name: str) -> Callable[[bytes], Files]:
    """A damaged tar whose headers have the right checksum all the same."""

    def files(content: bytes) -> Files:
        data = bytearray(content)
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        return {name: bytes(data)}

    return files


def beside_model(name: str) -> Callable[[bytes], Files]:
    """The text `name` beside a weight file."""
    return lambda content: {"model.bin": b"weights", name: content}


def cifar_files(content: bytes) -> Files:
    return {"test_batch": content, "batches.meta": seeds.cifar_meta()[2]}


def cifar_names(content: bytes) -> Files:
    return {"test_batch": seeds.cifar_batch()[2], "batches.meta": content}


def cifar_binary_files(content: bytes) -> Files:
    return {"test_batch.bin": content, "batches.meta.txt": b"a\nb\nc\nd\ne\n"}


def mnist(content: bytes) -> Files:
    """A damaged file of images, packed and not by turns, beside labels."""
    name = "train-images-idx3-ubyte" + (".gz" if content.startswith(b"\x1f") else "")
    return {name: content, "train-labels-idx1-ubyte": seeds.idx_of(seeds.LABELS.astype(np.uint8))}


def npy_pair(content: bytes) -> Files:
    return {"x.npy": content, "y.npy": seeds.npy(seeds.LABELS)}


def images_h5(folder: Path) -> object:
    found = open_source(f"h5:{folder / 'a.h5'}")
    return found.fingerprint, [found.image(i) for i in range(len(found))]


def config_flags(folder: Path) -> object:
    """The command line, as `train.py` takes it."""
    from transfer import config
    from transfer.cli.config_flags import apply

    lines = (folder / "a.txt").read_bytes().decode("utf-8", "surrogateescape").splitlines()
    changed = config.default()
    apply(changed, ["train.py", *(f"--config.{line}" for line in lines if line)])
    config.check(changed)
    config.check_use(changed)
    return changed


def config_file(folder: Path) -> object:
    """The `config.json` of an earlier run in the same workdir."""
    from etils import epath

    from transfer import config
    from transfer.experiment import workdirs

    workdirs.bind_workdir(config.default(), epath.Path(folder))
    return None


def store(folder: Path) -> object:
    from transfer.store.store import FeatureStore

    found = FeatureStore.open(folder)
    return found.features[0], found.label_rows[-1], found.id_rows[:2], len(found)


def store_with(name: str) -> Callable[[bytes], Files]:
    """A store with one file damaged."""
    return lambda content: {**seeds.store(), name: content}


def resealed(content: bytes) -> Files:
    """A store whose damaged metadata have the right checksum all the same."""
    from transfer.store.format import seal

    try:
        group = json.loads(content)
        group["attributes"]["sha256"] = seal(group["attributes"])
        content = json.dumps(group).encode()
    except Exception:  # no JSON, or no group
        pass
    return {**seeds.store(), "zarr.json": content}


def of_store(name: str) -> seeds.Seeds:
    return lambda: [seeds.store()[name]]


def features_npz(content: bytes) -> Files:
    return {"a.npz": seeds.packed({"features.npy": content, "labels.npy": seeds.npy(seeds.LABELS)})}


def pth_with(content: bytes) -> Files:
    return {"a.bin": seeds.pth_with(content)}


def framed(content: bytes) -> Files:
    """A damaged record that has the right length and checksums all the same."""
    return {"a.tfrecord": seeds.tfrecord([content])}


pyarrow.array([0])  # imports pandas if it is there, which reads the time zones of the system
TAR_TABLE = shard_table("a.tar", wds.rows)
TFRECORD_TABLE = shard_table("a.tfrecord", functools.partial(records._rows, records._tf_records))
ARRAY_RECORD_TABLE = shard_table("a.array_record", functools.partial(records._rows, records._array_records))
cifar_folder, cifar_tar = source("cifar10", "", "test"), source("cifar10", "a.tar.gz", "test")
GROUP, ARRAY, CHUNK = "zarr.json", "features/pre_logits/zarr.json", "features/pre_logits/c/0/0"
TABLE = (
    # what people give each other, and readers written here
    Target("features .p", seeds.features, feature_file("a.p"), alone("a.p"), PICKLE_TOKENS, share=10),
    Target("features .p in a zip", seeds.feature_zip, feature_file("a.zip/a.p"), alone("a.zip"), ZIP_TOKENS),
    Target("features .npz", seeds.feature_npz, feature_file("a.npz"), alone("a.npz"), ZIP_TOKENS),
    Target("features .npz, array", seeds.npys, feature_file("a.npz"), features_npz, NPY_TOKENS),
    Target("features .safetensors", seeds.safetensors, feature_file("a.npz"), alone("a.npz"), JSON_TOKENS),
    Target("traffic signs", seeds.signs, source("pickle", "a.p"), alone("a.p"), PICKLE_TOKENS),
    Target("images .npz", seeds.image_npz, source("npz", "a.npz"), alone("a.npz"), ZIP_TOKENS),
    Target("table .csv", seeds.table_csv, table("a.csv"), with_images("a.csv"), TABLE_TOKENS),
    Target("table .jsonl", seeds.table_jsonl, table("a.jsonl"), with_images("a.jsonl"), JSON_TOKENS),
    Target("table .parquet", seeds.table_parquet, table("a.parquet"), with_images("a.parquet"), share=3, short=100),
    Target("images .h5", seeds.image_h5, in_forks(images_h5), alone("a.h5"), HDF5_TOKENS, share=3, short=30),
    Target("images .mat", seeds.image_mat, in_forks(source("mat", "a.mat")), alone("a.mat"), MAT_TOKENS, short=60),
    Target("MNIST .idx", seeds.idx, source("idx", "", "train"), mnist, (b"\xff\xff\xff\xff", b"\0\0\x08\x03")),
    Target("features .npy", seeds.npys, feature_file("x.npy"), npy_pair, NPY_TOKENS),
    Target(
        "features .h5", seeds.feature_h5, in_forks(feature_file("a.h5")), alone("a.h5"), HDF5_TOKENS, share=3, short=30
    ),
    Target("CIFAR binary", seeds.cifar_binary, cifar_folder, cifar_binary_files),
    Target("CIFAR batch", seeds.cifar_batch, cifar_folder, cifar_files, PICKLE_TOKENS),
    Target("CIFAR meta", seeds.cifar_meta, cifar_folder, cifar_names, PICKLE_TOKENS),
    Target("CIFAR tar", seeds.tars, cifar_tar, with_tar_checksums("a.tar.gz"), TAR_TOKENS),
    Target("CIFAR tar.gz", seeds.packed_tars, cifar_tar, alone("a.tar.gz")),
    Target("image folder .zip", seeds.image_zip, image_folder("a.zip"), alone("a.zip"), ZIP_TOKENS),
    Target("image folder .tar", seeds.image_tar, image_folder("a.tar"), with_tar_checksums("a.tar"), TAR_TOKENS),
    Target("WebDataset tar", seeds.sample_tar, TAR_TABLE, with_tar_checksums("a.tar"), TAR_TOKENS),
    Target("TFRecord", seeds.tfrecords, TFRECORD_TABLE, alone("a.tfrecord"), RECORD_TOKENS),
    Target("TFRecord, record", seeds.examples, TFRECORD_TABLE, framed, RECORD_TOKENS),
    Target("ArrayRecord", seeds.array_records, ARRAY_RECORD_TABLE, alone("a.array_record"), share=3, short=30),
    Target("JPEG", seeds.jpegs, picture(".jpg"), alone("a.jpg"), JPEG_TOKENS),
    Target("PNG", seeds.pngs, picture(".png"), with_checksums, PNG_TOKENS),
    Target("PPM", seeds.ppms, picture(".ppm"), alone("a.ppm"), PPM_TOKENS),
    Target("WebP", seeds.webps, picture(".webp"), alone("a.webp"), WEBP_TOKENS, share=3, short=100),
    Target("BMP", seeds.bmps, picture(".bmp"), alone("a.bmp"), BMP_TOKENS, share=3, short=100),
    Target("GIF", seeds.gifs, picture(".gif"), alone("a.gif"), GIF_TOKENS, share=3, short=100),
    Target("TIFF", seeds.tiffs, picture(".tiff"), alone("a.tiff"), TIFF_TOKENS, share=3, short=100),
    Target("JPEG 2000", seeds.jpegs2000, picture(".jp2"), alone("a.jp2"), JPEG2000_TOKENS, share=3, short=100),
    Target("AVIF", seeds.avifs, picture(".avif"), alone("a.avif"), BOXED_TOKENS, share=3, short=60),
    Target("HEIC", seeds.heics, picture(".heic"), alone("a.heic"), BOXED_TOKENS, share=3, short=60),
    Target(".pth", seeds.pth_zip, weights, alone("a.bin"), ZIP_TOKENS),
    Target(".pth, pickle", seeds.pth_pickle, weights, pth_with, PICKLE_TOKENS, share=10),
    Target(".pth, older format", seeds.pth_stream, weights, alone("a.bin"), PICKLE_TOKENS, share=10),
    Target("weights .safetensors", seeds.safetensors, described, alone("a.bin"), JSON_TOKENS),
    Target("index of shards", seeds.index, sharded, lambda index: {INDEX: index, **seeds.shards()}, TEXT_TOKENS),
    Target("config.json of a model", seeds.model_config, said_beside, beside_model(beside.CONFIG), TEXT_TOKENS),
    Target("preprocessor_config.json", seeds.processors, said_beside, beside_model(beside.PREPROCESSOR), TEXT_TOKENS),
    Target("weights .h5", seeds.hdf5, in_forks(weights), alone("a.bin"), HDF5_TOKENS, share=3, short=30),
    Target("weights .keras", seeds.keras, weights, alone("a.bin"), ZIP_TOKENS, share=0, short=4),
    Target("weights .keras, config", seeds.keras_config, keras_names, alone("config.json"), JSON_TOKENS),
    Target("weights .onnx", seeds.onnx, weights, alone("a.bin"), ONNX_TOKENS, share=3, short=30),
    # what we write ourselves, and what is typed
    Target("command line", seeds.overrides, config_flags, alone("a.txt"), FLAG_TOKENS, share=1, short=20),
    Target("config.json", seeds.config, config_file, alone("config.json"), JSON_TOKENS, share=1, short=20, writes=True),
    Target("store, metadata", of_store(GROUP), store, resealed, JSON_TOKENS, share=1, short=20),
    Target("store, array", of_store(ARRAY), store, store_with(ARRAY), JSON_TOKENS, share=1, short=20),
    Target("store, chunk", of_store(CHUNK), store, store_with(CHUNK), share=1, short=10),
)
TARGETS = {target.name: target for target in TABLE}


def write(folder: Path, files: Files) -> None:
    """In place of what is there."""
    for item in os.scandir(folder):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path)
        else:
            os.unlink(item.path)
    for name, content in files.items():
        path = folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
