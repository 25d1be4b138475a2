"""Small valid files of every format that this package reads, for `tests.campaigns.fuzz` to damage."""

import functools
import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURES, LABELS = np.arange(12, dtype=np.float32).reshape(3, 1, 1, 4), np.array([0, 2, 1])
PIXELS = (np.arange(3 * 6 * 5 * 3) % 251).astype(np.uint8).reshape(3, 6, 5, 3)
CIFAR = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(2, 3072)
PICTURE = (np.add.outer(np.arange(13), np.arange(17)) * 7 % 256).astype(np.uint8)

Seeds = Callable[[], Sequence[bytes]]


def pickles(content: object) -> list[bytes]:
    """As every protocol writes it."""
    return [pickle.dumps(content, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def features() -> list[bytes]:
    lists = {"features": [[1.5, 2.5], [3.5, 4.5]], "labels": (0, 1)}
    shared = [FEATURES, FEATURES]
    return [*pickles({"features": FEATURES, "labels": LABELS}), *pickles(lists), pickle.dumps(shared, 4)]


def signs() -> list[bytes]:
    return pickles({"features": PIXELS, "labels": LABELS, "sizes": np.ones((3, 2))})


def cifar_batch() -> list[bytes]:
    return [*pickles({"data": CIFAR, "labels": [3, 1]})[:3], pickle.dumps({b"data": CIFAR, b"labels": [3, 1]}, 4)]


def cifar_meta() -> list[bytes]:
    return pickles({"label_names": [f"class {i}" for i in range(10)]})


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def npys() -> list[bytes]:
    arrays = (FEATURES, FEATURES.astype(">f8"), np.asfortranarray(FEATURES), LABELS)
    return [npy(array) for array in arrays] + [npy(FEATURES, (2, 0))]


def packed(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def both(members: Mapping[str, bytes]) -> list[bytes]:
    """A zip, packed and not."""
    return [packed(members, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def feature_npz() -> list[bytes]:
    return both({"features.npy": npy(FEATURES), "labels.npy": npy(LABELS)})


def feature_zip() -> list[bytes]:
    return [each for pickled in features()[3:5] for each in both({"a.p": pickled})]


def image_npz() -> list[bytes]:
    names = {"class_names.npy": npy(np.array(["a", "b", "c"]))}
    return both({"images.npy": npy(PIXELS), "labels.npy": npy(LABELS), **names})


TABLE = {"path": ["0.png", "1.png", "0.png"], "tags": ["a|b", "b", ""], "age": ["1.5", "2", "nan"]}


def table_csv() -> list[bytes]:
    rows = [list(TABLE), *map(list, zip(*TABLE.values(), strict=True))]
    plain = "\n".join(",".join(row) for row in rows)
    quoted = "\n".join(";".join(map(json.dumps, row)) for row in rows)
    return [plain.encode(), quoted.encode("utf-8-sig"), ("sep=;\r\n" + quoted).encode("utf-16")]


def table_jsonl() -> list[bytes]:
    rows = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    lists = [{**row, "tags": row["tags"].split("|"), "age": 1.5} for row in rows]
    return ["\n".join(map(json.dumps, each)).encode() for each in (rows, lists)]


def table_parquet() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    stream = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(TABLE), stream)
    return [stream.getvalue().to_pybytes()]


def image_h5() -> list[bytes]:
    chunked = {"chunks": (1, 6, 5, 3), "compression": "gzip", "shuffle": True}

    def fill(file: Any, **options: Any) -> None:
        file.create_dataset("images", data=PIXELS, **options)
        file["labels"] = LABELS

    return [h5(fill), h5(functools.partial(fill, **chunked)), h5(fill, libver="latest")]


def feature_h5() -> list[bytes]:
    return [h5(lambda file: file.update({"features": FEATURES, "labels": LABELS}))]


def image_mat() -> list[bytes]:
    from scipy.io import savemat

    made = []
    for compressed in (False, True):
        stream = io.BytesIO()
        savemat(stream, {"X": PIXELS.transpose(1, 2, 3, 0), "y": LABELS}, do_compression=compressed)
        made.append(stream.getvalue())
    return made


def idx_of(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx() -> list[bytes]:
    return [idx_of(PIXELS[..., 0]), gzip.compress(idx_of(PIXELS[..., 0]))]


def cifar_binary() -> list[bytes]:
    return [b"".join(bytes([label]) + row.tobytes() for label, row in zip((3, 1), CIFAR, strict=True))]


def safetensors() -> list[bytes]:
    from safetensors.numpy import save

    arrays = {"features": FEATURES, "labels": LABELS}
    fields = {"format": "transfer", "arch": "lenet5", "fields": json.dumps({"num_classes": 3})}
    return [save(arrays), save(arrays, metadata=fields), save({"a": FEATURES.astype(np.float16)})]


def tar(members: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tars() -> list[bytes]:
    small = pickle.dumps({"data": CIFAR[:1], "labels": [3]}, 2)
    names = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, 2)
    members = {"c/readme.html": b"x" * 600, "c/test_batch": small, "c/batches.meta": names}
    return [tar(members, form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def packed_tars() -> list[bytes]:
    return [gzip.compress(content) for content in tars()]


def pth_zip() -> list[bytes]:
    return [(GOLDEN / "odd_tensors.pth").read_bytes()]


def pth_pickle() -> list[bytes]:
    with zipfile.ZipFile(GOLDEN / "odd_tensors.pth") as archive:
        return [next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))]


def pth_with(pickled: bytes) -> bytes:
    """The archive of `pth_pickle` with another pickle in it."""
    with zipfile.ZipFile(GOLDEN / "odd_tensors.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return packed({name: pickled if name.endswith("data.pkl") else content for name, content in members.items()})


def pth_stream() -> list[bytes]:
    return [(GOLDEN / "odd_tensors_stream.pth").read_bytes()]


def h5(fill: Callable[[Any], object], **options: Any) -> bytes:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w", **options) as file:
        fill(file)
    return stream.getvalue()


def _legacy(names: Callable[[list[bytes]], object], **options: Any) -> Callable[[Any], None]:
    def fill(file: Any) -> None:
        file.attrs["layer_names"] = names([b"conv"])
        group = file.create_group("conv")
        group.attrs["weight_names"] = names([b"conv/kernel:0", b"conv/bias:0"])
        group.create_dataset("conv/kernel:0", data=np.ones((3, 3, 2, 4), np.float32), **options)
        group.create_dataset("conv/bias:0", data=np.ones(4, np.float32))

    return fill


def _version3(file: Any) -> None:
    for name in ("conv2d", "batch_normalization"):
        group = file.create_group(f"layers/{name}/vars")
        group.attrs["name"] = name
        for i in range(2 if name == "conv2d" else 4):
            group[str(i)] = np.ones(4, np.float32)


def hdf5() -> list[bytes]:
    chunked = _legacy(np.array, chunks=(3, 3, 1, 2), compression="gzip", shuffle=True)
    return [h5(_legacy(np.array)), h5(_legacy(list)), h5(chunked), h5(_version3), h5(_version3, libver="latest")]


def keras_config() -> list[bytes]:
    layers = [{"class_name": kind, "config": {"name": kind.lower()}} for kind in ("Conv2D", "BatchNormalization")]
    return [json.dumps({"class_name": "Functional", "config": {"name": "model", "layers": layers}}).encode()]


def keras_with(config: bytes) -> bytes:
    return packed({"config.json": config, "model.weights.h5": hdf5()[3]})


def keras() -> list[bytes]:
    return [keras_with(keras_config()[0])]


SHARDS = {"model-1.safetensors": {"a.weight": FEATURES}, "model-2.safetensors": {"b.bias": LABELS, "c": FEATURES}}


@functools.cache
def shards() -> Mapping[str, bytes]:
    from safetensors.numpy import save

    return {name: save(tensors) for name, tensors in SHARDS.items()}


def index() -> list[bytes]:
    """Of shards, as transformers writes it."""
    listed = {tensor: name for name, tensors in SHARDS.items() for tensor in tensors}
    return [
        json.dumps({"metadata": {"total_size": 184}, "weight_map": listed}, indent=indent).encode() for indent in (0, 2)
    ]


def model_config() -> list[bytes]:
    """`config.json` of a model, as timm writes it today and wrote it before, and as transformers does."""
    cfg = {"input_size": [3, 160, 160], "test_input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"}
    cfg |= {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "fixed_input_size": False,
        "crop_mode": "center",
    }
    names = {"num_classes": 3, "label_names": ["cat", "dog", "newt"]}
    timm = {"architecture": "resnet18", **names, "model_args": {"act_layer": "silu"}, "pretrained_cfg": cfg}
    resnet = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet", "layer_type": "basic"}
    resnet |= {"depths": [2, 2, 2, 2], "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "hidden_act": "relu"}
    resnet |= {"id2label": {"0": "cat", "1": "dog"}, "downsample_in_first_stage": False}
    return [json.dumps(each).encode() for each in (timm, {**cfg, "architecture": "resnet18"}, resnet)]


def processors() -> list[bytes]:
    """`preprocessor_config.json` of every kind that is known."""
    usual = {"do_resize": True, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True}
    edge, sides = {"shortest_edge": 224}, {"height": 96, "width": 96}
    kinds = [
        {"image_processor_type": "ConvNextImageProcessor", "size": edge, "crop_pct": 0.875},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 96},
        {"image_processor_type": "CLIPImageProcessor", "size": edge, "do_center_crop": True, "crop_size": sides},
    ]
    return [json.dumps(usual | kind).encode() for kind in kinds]


def onnx() -> list[bytes]:
    """A small graph of most of the operators that are known, with constants to compute."""
    from onnx import TensorProto, helper

    def numbers(name: str, *shape: int) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, shape, np.ones(shape).ravel())

    node = helper.make_node
    pads = helper.make_tensor("p", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 1])
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [0, -1])
    nodes = [
        node("Constant", [], ["pads"], value=pads),
        node("Constant", [], ["shape"], value=shape),
        node("Pad", ["x", "pads"], ["a"]),
        node("Conv", ["a", "k", "b"], ["c"], strides=[2, 2], pads=[0, 0, 0, 0], group=1),
        node("BatchNormalization", ["c", "b", "b", "b", "b"], ["d"], epsilon=1e-3),
        node("Clip", ["d", "low", "high"], ["e"]),
        node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Mul", ["b", "low"], ["scale"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Reshape", ["g", "shape"], ["h"]),
        node("Gemm", ["h", "w", "b2"], ["i"], transB=1),
        node("Add", ["i", "b2"], ["y"]),
    ]
    limits = {"low": 0.0, "high": 6.0}
    tensors = [numbers("k", 4, 3, 3, 3), numbers("b", 4), numbers("w", 2, 4), numbers("b2", 2)]
    tensors += [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in limits.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    made = helper.make_graph(nodes, "g", [image], [output], tensors)
    elsewhere = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    whole = elsewhere.SerializeToString()
    tensor = elsewhere.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "a.bin", "offset": "8", "length": "432"}.items():
        tensor.external_data.add(key=key, value=value)
    return [whole, elsewhere.SerializeToString()]


def image(mode: str, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = np.dstack([PICTURE, PICTURE.T[:13, :13].repeat(2, 1)[:, :17], PICTURE // 2])
    made = Image.fromarray(picture)
    if mode == "I;16":
        made = Image.fromarray(PICTURE.astype(np.uint16) * 257)
    made = made if mode in ("RGB", "I;16") else made.convert(mode)
    made.save(stream, kind, **options)
    return stream.getvalue()


def jpegs() -> list[bytes]:
    kinds = [("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("RGB", {"subsampling": 0})]
    return [image(mode, "JPEG", quality=60, **options) for mode, options in kinds]


def pngs() -> list[bytes]:
    return [image(mode, "PNG") for mode in ("RGB", "L", "P", "RGBA", "1", "LA", "I;16")]


def moving(kind: str, **options: Any) -> bytes:
    """Of two pictures."""
    first, second = (Image.fromarray(picture) for picture in (PICTURE, PICTURE[::-1]))
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=[second], **options)
    return stream.getvalue()


def webps() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    lossy = [image("RGB", "WEBP"), image("RGBA", "WEBP", exif=exif), moving("WEBP")]
    return [*lossy, image("RGB", "WEBP", lossless=True)]


def bmps() -> list[bytes]:
    packed = struct.pack("<2sIHHI", b"BM", 90, 0, 0, 62) + struct.pack(
        "<IiiHHIIiiII", 40, 8, 2, 1, 8, 1, 28, 0, 0, 2, 2
    )
    packed += bytes(4) + b"\xff" * 4 + b"\x08\x01\0\0" + b"\0\x02\x02\0\x04\x01\0\x01"
    return [*(image(mode, "BMP") for mode in ("RGB", "L", "P", "1", "RGBA")), packed]


def gifs() -> list[bytes]:
    return [image("P", "GIF"), image("L", "GIF"), moving("GIF")]


def tiffs() -> list[bytes]:
    ways = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    colours = [image("RGB", "TIFF", compression=way) for way in ways]
    others = [image(mode, "TIFF") for mode in ("L", "I;16", "CMYK", "P", "1")]
    return [
        *colours,
        *others,
        moving("TIFF"),
        image("1", "TIFF", compression="group4"),
        image("L", "TIFF", big_tiff=True),
    ]


def jpegs2000() -> list[bytes]:
    return [image("RGB", "JPEG2000"), image("L", "JPEG2000", no_jp2=True), image("RGBA", "JPEG2000", tile_size=(8, 8))]


def avifs() -> list[bytes]:
    return [image("RGB", "AVIF", speed=10), image("RGBA", "AVIF", speed=10), moving("AVIF", speed=10)]


def heics() -> list[bytes]:
    import pillow_heif

    pillow_heif.register_heif_opener()
    return [image("RGB", "HEIF"), image("L", "HEIF")]


def ppms() -> list[bytes]:
    text = b"P3\n# made by hand\n2 2\n15\n0 1 2 3 4 5 6 7 8 9 10 11\nP2 2 1 9 1 2 "
    odd = b"P6 3 1 100 " + bytes(range(9)), b"P5 2 2 1000 " + bytes(range(8)), b"P1 3 2 1 0 1 0 1 0", b"P4 9 1 ab"
    return [image(mode, "PPM") for mode in ("RGB", "L", "1", "I;16")] + [text, *odd]


def in_folders() -> Mapping[str, bytes]:
    """Images in class folders of a split, and another file."""
    folders = "/".join("n" * 60 for _ in range(2))
    members = {"train/a/1.png": pngs()[1], "train/b/2.jpg": jpegs()[1], "train/b/3.ppm": ppms()[1], "x.txt": b"x"}
    return {**members, f"train/a/{folders}.png": pngs()[0]}


def image_zip() -> list[bytes]:
    return both(in_folders())


def image_tar() -> list[bytes]:
    return [tar(in_folders(), form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def sample_tar() -> list[bytes]:
    """Of samples, one of which has a long name."""
    labels = {"a.cls": b"3", "b.json": b'{"label": "cat"}', "c" * 150 + ".txt": b"dog\n"}
    members = labels | {name.partition(".")[0] + ".png": b"image" for name in labels}
    return [tar(members, form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def example(**features: bytes | int | float) -> bytes:
    """A record of one image."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for name, value in features.items():
        kind = {bytes: "bytes_list", float: "float_list"}.get(type(value), "int64_list")
        getattr(message.features.feature[name], kind).value.append(value)
    return message.SerializeToString()


def examples() -> list[bytes]:
    """Records with labels of every kind."""
    return [example(image=b"image", label=label) for label in (3, b"cat", 0.5)]


def tfrecord(records: Sequence[bytes]) -> bytes:
    """A TFRecord file, written by TensorBoard."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    writer = RecordWriter(stream)
    for record in records:
        writer.write(record)
    return stream.getvalue()


def tfrecords() -> list[bytes]:
    return [tfrecord(examples())]


@functools.cache
def array_records() -> list[bytes]:
    """By its own writer, in groups of one and of several."""
    from array_record.python.array_record_module import ArrayRecordWriter

    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            writer = ArrayRecordWriter(f"{folder}/{size}", f"group_size:{size}")
            for record in examples():
                writer.write(record)
            writer.close()
            contents.append(Path(folder, str(size)).read_bytes())
    return contents


def overrides() -> list[bytes]:
    """Lines as they stand on the command line after `--config.`."""
    return [
        b"batch_size=32\nhead.epochs=3\nhead.learning_rate=1e-3\nmodel.name=lenet5\ntap=pre_logits",
        b"data.source=digits\ndata.validation_fraction=0.2\ndata.stratify=False\nseed=3\npreprocessing.mean=(1,2,3)",
        b"train=finetune\nfinetune.flip=true\nunfreeze='stage4'\nmodel.fields.num_classes=10\nmesh.data=2\nstream=false",
    ]


def config() -> list[bytes]:
    from transfer.config import default

    return [json.dumps(json.loads(default().to_json_best_effort())).encode()]


@functools.cache
def store() -> Mapping[str, bytes]:
    """The files of a small, finished store, by their paths in it."""
    from transfer.store.writer import StoreWriter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        settings: Any = dict(labels=np.arange(5) % 2, ids=[f"train/{i}" for i in range(5)], class_names=("a", "b"))
        about: Any = dict(data="digits", fingerprint={"model": "lenet5"}, batch_size=2, provenance={"device": "cpu"})
        with StoreWriter(folder, taps={"pre_logits": (3,)}, **settings, **about) as writer:
            for start in range(0, 5, 2):
                writer.write(start, {"pre_logits": np.ones((min(2, 5 - start), 3), np.float32)}, [])
            writer.finish()
        found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
