"""Writes tiny data sets in the formats in which the real ones are published."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

SPLITS = {"train": 12, "test": 6}
CLASSES = ("cat", "dog", "eel")


def pixels(count, height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


class Python2Pickler(pickle._Pickler):
    """Writes strings and arrays with the opcodes of Python 2's cPickle, as the CIFAR batches have them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_text(self, value):
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def python2_pickle(content):
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(content)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def python3_pickle(content):
    """As Python 3 writes what it read from a Python 2 pickle with encoding="bytes"."""
    return pickle.dumps({key.encode(): value for key, value in content.items()}, 4)


def cifar_files(kind, write=python2_pickle):
    """(file name -> content, split -> (images, labels)) of a tiny CIFAR-10 or CIFAR-100."""
    classes = [f"class {i}" for i in range(10 if kind == "cifar10" else 100)]
    fields = {"cifar10": ("labels", "label_names"), "cifar100": ("fine_labels", "fine_label_names")}[kind]
    files = {"cifar10": "batches.meta", "cifar100": "meta"}[kind]
    contents, splits = {files: write({fields[1]: classes})}, {}
    names = {
        "cifar10": {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]},
        "cifar100": {"train": ["train"], "test": ["test"]},
    }[kind]
    for seed, (split, batches) in enumerate(names.items()):
        images = pixels(6 * len(batches), seed=seed)
        labels = [(7 * i + seed) % len(classes) for i in range(len(images))]
        for number, batch in enumerate(batches):
            rows = slice(6 * number, 6 * number + 6)
            data = images[rows].transpose(0, 3, 1, 2).reshape(6, 3072)
            contents[batch] = write({"data": data, fields[0]: labels[rows], "filenames": ["a.png"] * 6})
        splits[split] = (images, np.asarray(labels))
    return contents, splits


def write_tar(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def tar_bytes(files, kind="w", **options):
    """A tar of `files`, path -> bytes, in that order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=kind, **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def shard_files(images, labels, first=0):
    """The members of a WebDataset tar: images of one size that come back as they were, and their classes."""
    files = {}
    for row, (image, label) in enumerate(zip(images, labels, strict=True), first):
        files |= {f"{row:06d}.png": encoded(image), f"{row:06d}.cls": str(label).encode()}
    return files


def image_table(images, labels, names=CLASSES, image="image", label="label"):
    """A table of encoded images, with what `datasets` writes about it."""
    import pyarrow as pa

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(map(encoded, images))]
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([(image, kind), (label, pa.int64())], metadata=about)
    return pa.table([pa.array(rows, kind), pa.array(labels, pa.int64())], schema=schema)


def example(**features):
    """A record as TensorFlow writes it, by the message that TensorFlow Datasets has copied; `__` is a slash."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for name, values in features.items():
        feature = message.features.feature[name.replace("__", "/")]
        for value in values if isinstance(values, list) else [values]:
            kind = {bytes: "bytes_list", str: "bytes_list", float: "float_list"}.get(type(value), "int64_list")
            getattr(feature, kind).value.append(value.encode() if isinstance(value, str) else value)
    return message.SerializeToString()


def imagenet(image, label, **more):
    """A record as those of ImageNet are."""
    return example(image__encoded=image, image__class__label=label, image__class__text="a, b", image__height=8, **more)


def write_tfrecord(path, records):
    """By TensorBoard's writer of such files."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


def write_array_record(path, records, options="group_size:1"):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def write_files(root, files):
    """`files`: path below `root` -> bytes, or None for an empty folder."""
    for name, content in files.items():
        path = root / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return root


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name + ("/" if content is None else ""), content or b"")
    return path


def folder_files():
    """path -> bytes of class folders in two splits, all PNG so that pixels come back as they were."""
    files, splits = {}, {}
    for seed, (split, count) in enumerate(SPLITS.items()):
        images, rows = pixels(count, 9, 7, seed), []
        for i, image in enumerate(images):
            files[f"{split}/{CLASSES[i % 3]}/{i:02d}.png"] = encoded(image)
            rows.append((i % 3, i))
        order = [i for _, i in sorted(rows)]
        splits[split] = (images[order], np.asarray([i % 3 for i in order]))
    return files, splits


def prepare_tfds(root, images, feature, encode=lambda image: image):
    """Prepares "tiny_animals" under `root` without TensorFlow, which only encoding an Image would need."""
    import tensorflow_datasets as tfds

    class TinyAnimals(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = str(root)

        def _info(self):
            features = {"image": feature, "label": tfds.features.ClassLabel(names=CLASSES)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._examples(rows) for split, rows in images.items()}

        def _examples(self, rows):
            yield from ((i, {"image": encode(image), "label": i % 3}) for i, image in enumerate(rows))

        def _generate_examples(self):
            raise NotImplementedError

    TinyAnimals(data_dir=str(root), file_format="array_record").download_and_prepare()


def make_digits(root):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)
    return "digits", {None: (np.repeat(images[..., None], 3, -1), bunch.target)}


def make_folder(root):
    files, splits = folder_files()
    write_files(root, files)
    return f"folder:{root}", splits


def make_zip(root):
    files, splits = folder_files()
    return f"folder:{write_zip(root / 'a.zip', files)}", splits


def make_csv(root):
    files, splits = folder_files()
    write_files(root, files)
    lines = [f"{path},{path.split('/')[1]},{path.split('/')[0]}" for path in sorted(files)]
    (root / "images.csv").write_text("\n".join(["path,label,split", *lines]))
    return f"csv:{root / 'images.csv'}", splits


def make_npz(root):
    images = {split: pixels(count, 6, 5, count) for split, count in SPLITS.items()}
    arrays = {f"{split}_images": some for split, some in images.items()}
    arrays |= {f"{split}_labels": np.arange(len(some))[:, None] % 3 for split, some in images.items()}
    np.savez(root / "a.npz", class_names=np.array(CLASSES), **arrays)
    return f"npz:{root / 'a.npz'}", {split: (some, np.arange(len(some)) % 3) for split, some in images.items()}


def make_cifar10(root):
    files, splits = cifar_files("cifar10")
    write_files(root / "cifar-10-batches-py", files)
    return f"cifar10:{root}", splits


def make_cifar100(root):
    files, splits = cifar_files("cifar100")
    write_tar(root / "cifar-100-python.tar.gz", "cifar-100-python", files)
    return f"cifar100:{root / 'cifar-100-python.tar.gz'}", splits


def make_cifar100coarse(root):
    """The binary version."""
    names, images = [f"coarse_{i}" for i in range(20)], pixels(9)
    folder = root / "cifar-100-binary"
    folder.mkdir()
    (folder / "coarse_label_names.txt").write_text("\n".join(names) + "\n\n")
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine_{i}" for i in range(100)))
    splits = {"train": (images[:6], np.array([3, 19, 0, 3, 5, 4])), "test": (images[6:], np.array([1, 2, 3]))}
    for split, (some, labels) in splits.items():
        rows = [
            bytes([label, 99 - label]) + image.transpose(2, 0, 1).tobytes()
            for image, label in zip(some, labels, strict=True)
        ]
        (folder / f"{split}.bin").write_bytes(b"".join(rows))
    return f"cifar100coarse:{root}", splits


def make_h5(root):
    """A file with groups, one array chunked and packed."""
    import h5py

    images = {split: pixels(count, 6, 5, count) for split, count in SPLITS.items()}
    with h5py.File(root / "a.h5", "w") as file:
        for split, some in images.items():
            options = {"chunks": (4, 6, 5, 3), "compression": "gzip", "shuffle": True} if split == "train" else {}
            file.create_dataset(f"{split}/images", data=some, **options)
            file[f"{split}/labels"] = np.arange(len(some), dtype=">i4")[:, None] % 3
    return f"h5:{root / 'a.h5'}", {split: (some, np.arange(len(some)) % 3) for split, some in images.items()}


def make_mat(root):
    """As SVHN has them: a file for each split, images last, labels from 1 on."""
    from scipy import io

    splits = {split: (pixels(count, 6, 5, count), np.arange(count) % 3) for split, count in SPLITS.items()}
    for split, (images, labels) in splits.items():
        arrays = {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None].astype(np.uint8) + 1}
        io.savemat(root / f"{split}_32x32.mat", arrays, do_compression=split == "train")
    return f"mat:{root}", splits


def make_idx(root):
    """As MNIST is published, one packed and one not."""
    splits = {}
    for split, name, pack in (("train", "train", gzip.compress), ("test", "t10k", bytes)):
        images, labels = pixels(SPLITS[split], 6, 5, 1)[..., 0], np.arange(SPLITS[split], dtype=np.uint8) % 3
        for what, array in {"images-idx3": images, "labels-idx1": labels}.items():
            content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
            (root / f"{name}-{what}-ubyte{'.gz' if split == 'train' else ''}").write_bytes(pack(content))
        splits[split] = (np.repeat(images[..., None], 3, -1), labels)
    return f"idx:{root}", splits


def make_pickle(root):
    splits = {}
    for split, count in SPLITS.items():
        images, labels = pixels(count), np.arange(count, dtype=np.uint8) % 3
        content = {"features": images, "labels": labels, "sizes": np.ones((count, 2)), "coords": np.ones((count, 4))}
        (root / f"{split}.p").write_bytes(pickle.dumps(content, 2))
        splits[split] = (images, labels)
    return f"pickle:{root}", splits


def make_tfds(root):
    """TFDS shuffles when it writes: each image keeps its label, but the order is the file's."""
    import tensorflow_datasets as tfds

    images = {split: pixels(count, 9, 7, count) for split, count in SPLITS.items()}
    prepare_tfds(root, images, tfds.features.Tensor(shape=(9, 7, 3), dtype=np.uint8))
    return "tfds:tiny_animals", {split: (some, np.arange(len(some)) % 3) for split, some in images.items()}


def in_shards(write):
    """Gives the rows of every split to `write(split, shard, first row, images, labels)`, in two shards; all splits."""
    splits = {split: (pixels(count, 9, 7, count), np.arange(count) % 3) for split, count in SPLITS.items()}
    for split, (images, labels) in splits.items():
        for shard, rows in enumerate((slice(0, 4), slice(4, len(images)))):
            write(split, shard, rows.start, images[rows], labels[rows])
    return splits


def make_wds(root):
    def write(split, shard, first, images, labels):
        (root / f"{split}-{shard:06d}.tar").write_bytes(tar_bytes(shard_files(images, labels, first)))

    return f"wds:{root}", in_shards(write)


def make_tfrecord(root):
    """Named and filled as ImageNet's are."""

    def write(split, shard, _, images, labels):
        records = [imagenet(encoded(image), int(label)) for image, label in zip(images, labels, strict=True)]
        write_tfrecord(root / f"{split}-{shard:05d}-of-00002", records)

    return f"tfrecord:{root}", in_shards(write)


def make_arrayrecord(root):
    """Named and filled as TensorFlow Datasets does it."""

    def write(split, shard, _, images, labels):
        records = [example(image=encoded(image), label=int(label)) for image, label in zip(images, labels, strict=True)]
        write_array_record(root / f"{split}.array_record-{shard:05d}-of-00002", records)

    return f"arrayrecord:{root}", in_shards(write)


def make_parquet(root):
    import pyarrow.parquet

    def write(split, shard, _, images, labels):
        path = root / f"{split}-{shard:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(image_table(images, labels), path, row_group_size=3)

    return f"parquet:{root}", in_shards(write)


def make_hf(root):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    splits, saved = {}, {}
    for split, count in SPLITS.items():
        images, labels = pixels(count, 9, 7, count), np.arange(count) % 3
        splits[split] = (images, labels)
        rows = {"image": [{"bytes": encoded(image), "path": None} for image in images], "label": labels}
        saved[split] = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(saved).save_to_disk(root / "saved")
    return f"hf:{root}/saved", splits


# kind -> function(folder) -> (spec, split -> (images, labels)); "folder" is there twice
MAKERS = {
    "digits": make_digits,
    "folder": make_folder,
    "folder (zip)": make_zip,
    "csv": make_csv,
    "npz": make_npz,
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "cifar100coarse": make_cifar100coarse,
    "h5": make_h5,
    "mat": make_mat,
    "idx": make_idx,
    "pickle": make_pickle,
    "tfds": make_tfds,
    "wds": make_wds,
    "tfrecord": make_tfrecord,
    "arrayrecord": make_arrayrecord,
    "parquet": make_parquet,
    "hf": make_hf,
}
