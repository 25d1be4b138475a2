"""Writes tiny data sets in the formats in which the real ones are published."""

import io
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


# kind -> function(folder) -> (spec, split -> (images, labels)); "folder" is there twice
MAKERS = {
    "digits": make_digits,
    "folder": make_folder,
    "folder (zip)": make_zip,
    "npz": make_npz,
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "pickle": make_pickle,
    "tfds": make_tfds,
}
