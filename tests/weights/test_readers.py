"""Every file format as its own library writes it, and what damaged and hostile files end in."""

import pickle
import pickletools
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from golden import reading
from safetensors.numpy import save_file

from transfer.errors import TransferError
from transfer.weights import readers
from transfer.weights.readers import torch_file
from transfer.weights.readers.torch_file import state_dict

GOLDEN = reading.HERE
BASE = np.arange(24, dtype=np.float32)

# What `odd_tensors` of tests/golden/make_torchvision.py put into its files.
ODD = {
    "plain": BASE.reshape(2, 3, 4),
    "transposed": BASE.reshape(4, 6).T,
    "strided": BASE[1::3],
    "expanded": np.full((3, 4), 5, np.float32),
    "channels_last": BASE.reshape(1, 2, 3, 4),
    "shared": BASE[5:9],
    "parameter": np.arange(3, dtype=np.float32),
    "half": np.arange(4).astype(np.float16) / np.float16(3),
    "bfloat16": (np.arange(4).astype(np.float32) / 3).astype(ml_dtypes.bfloat16),
    "double": np.arange(4) / 3,
    "integers": np.arange(-2, 3),
    "bytes": np.arange(5, dtype=np.uint8),
    "flags": np.array([True, False]),
    "scalar": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("file", ["odd_tensors.pth", "odd_tensors_stream.pth"])
def test_pth_of_every_dtype_and_stride(file: str) -> None:
    tensors = readers.read(GOLDEN / file)
    assert list(tensors) == list(ODD)
    for name, expected in ODD.items():
        assert tensors[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(tensors[name], expected, err_msg=name)


def test_both_pth_formats_hold_the_same_state_dict() -> None:
    ours, older = (readers.read(GOLDEN / f"resnet18_slim{suffix}.pth") for suffix in ("", "_stream"))
    expected = reading.cases()["resnet18_slim"].state_dict()
    assert list(ours) == list(older) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(older[name], array)


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "odd_tensors.pth", tmp_path / "weights.h5")
    assert set(readers.read(tmp_path / "weights.h5")) == set(ODD)


def test_safetensors_with_bfloat16(tmp_path: Path) -> None:
    arrays = {"a.b": BASE.reshape(4, 6), "c": ODD["bfloat16"]}
    save_file(arrays, tmp_path / "x.safetensors")
    tensors = readers.read(tmp_path / "x.safetensors")
    assert set(tensors) == set(arrays) and tensors["c"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["a.b"], arrays["a.b"])


LAYERS = {
    "block1_conv1": {"kernel": BASE.reshape(1, 2, 3, 4), "bias": BASE[:4]},
    "bn": {name: BASE[i : i + 4] for i, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))},
}
EXPECTED = {f"{layer}/{name}": array for layer, variables in LAYERS.items() for name, array in variables.items()}
KERAS_1 = {"kernel": "W_1", "bias": "b_1", "moving_mean": "running_mean", "moving_variance": "running_std"}


def legacy_h5(path: Path, name: Callable[[str, str], str], split: bool = False, root: str = "/") -> Path:
    """A file as Keras 1 and 2 lay it out; `split` breaks the list of layers up, as Keras does with long ones."""
    with h5py.File(path, "w") as file:
        top = file.require_group(root)
        layers = [b"input_1", *(layer.encode() for layer in LAYERS)]
        for attribute, part in (("layer_names0", layers[:2]), ("layer_names1", layers[2:])) if split else ():
            top.attrs[attribute] = part
        if not split:
            top.attrs["layer_names"] = layers
        top.create_group("input_1").attrs["weight_names"] = []
        for layer, variables in LAYERS.items():
            group = top.create_group(layer)
            group.attrs["weight_names"] = [name(layer, variable).encode() for variable in variables]
            for variable, array in variables.items():
                group[name(layer, variable)] = array
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (lambda layer, variable: f"{layer}/{variable}:0", {}),
        (lambda layer, variable: f"{layer}_1/{layer}/{variable}:0", {}),
        (lambda layer, variable: f"{layer}_{KERAS_1.get(variable, variable)}:0", {}),
        (lambda layer, variable: f"{layer}/{variable}:0", {"split": True}),
        (lambda layer, variable: f"{layer}/{variable}", {"root": "model_weights"}),
    ],
    ids=["keras 2", "nested", "keras 1", "split list of layers", "full model"],
)
def test_legacy_h5(tmp_path: Path, name: Callable[[str, str], str], options: dict) -> None:
    tensors = readers.read(legacy_h5(tmp_path / "x.h5", name, **options))
    assert list(tensors) == list(EXPECTED)
    for key, array in EXPECTED.items():
        np.testing.assert_array_equal(tensors[key], array)


def test_keras_own_formats_hold_the_same(tmp_path: Path) -> None:
    """A layer that is nested, unnamed or without scale included; an optimiser's state is left out."""
    keras = pytest.importorskip("keras")
    inner = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 3, name="inner")], name="nested")
    layers = [keras.Input((4, 4, 2)), inner, keras.layers.BatchNormalization(scale=False, name="bn")]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False, name="top")])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "full.h5")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    expected = {"/".join(v.path.split("/")[-2:]): np.asarray(v) for v in model.variables}
    for file in ("full.h5", "model.keras", "model.weights.h5"):
        tensors = readers.read(tmp_path / file)
        assert set(tensors) == set(expected), file
        for name, array in expected.items():
            np.testing.assert_array_equal(tensors[name], array, err_msg=f"{file} {name}")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_older_pth_by_other_protocols_of_pickle(tmp_path: Path, protocol: int) -> None:
    """`torch.save(…, pickle_protocol=4, _use_new_zipfile_serialization=False)`."""
    content = (GOLDEN / "odd_tensors_stream.pth").read_bytes()
    assert content.startswith(torch_file.MAGIC)
    magic = pickle.dumps(torch_file.MAGIC_NUMBER, protocol)
    (tmp_path / "x.pth").write_bytes(magic + content[len(torch_file.MAGIC) :])
    assert list(readers.read(tmp_path / "x.pth")) == list(ODD)


def test_whole_modules_are_refused_by_name() -> None:
    with pytest.raises(TransferError, match=r"whole_module\.pth: .* not here \(torch\.nn\.modules\.linear\.Linear\)"):
        readers.read(GOLDEN / "whole_module.pth")


def test_a_pth_that_would_run_code_is_refused(tmp_path: Path) -> None:
    made = tmp_path / "made"
    evil = b"\x80\x02cos\nmkdir\nX" + len(str(made)).to_bytes(4, "little") + str(made).encode() + b"\x85R."
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(GOLDEN / "odd_tensors.pth") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, evil if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(TransferError, match=r"evil\.pth: it holds no state dict but .*\(os\.mkdir\)"):
        readers.read(path)
    assert not made.exists()


def with_pickle(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """`odd_tensors.pth` with another pickle in it."""
    with zipfile.ZipFile(GOLDEN / "odd_tensors.pth") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # the storage of 24 elements, said to have 200; a view of 4 elements from the fifth on, from the 250th on
        (b"K\x18t", b"K\xc8t", "96 bytes for 200 elements"),
        (b"K\x05K\x04\x85", b"K\xfaK\x04\x85", "beyond its storage"),
    ],
)
def test_tensors_never_reach_beyond_their_storage(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    def change(pickled: bytes) -> bytes:
        assert old in pickled
        return pickled.replace(old, new, 1)

    with pytest.raises(TransferError, match=message):
        readers.read(with_pickle(tmp_path / "x.pth", change))


def test_a_view_cannot_start_before_its_storage() -> None:
    storage = torch_file.Storage(np.dtype("<f4"), 4)
    pid = ("storage", torch_file.StorageType(storage.dtype), "0", "cpu", 4, ("view", -1000, 4))
    with pytest.raises(TransferError, match="no count"):
        torch_file.resolve(pid, lambda *_: storage)


def test_state_set_on_a_checked_tensor_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN / "odd_tensors.pth") as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    reduced = [position + 1 for op, _, position in pickletools.genops(pickled) if op.name == "REDUCE"]
    messages = []
    for end in reduced:  # EMPTY_TUPLE, BUILD behind whatever was made there
        path = with_pickle(tmp_path / "x.pth", lambda whole, end=end: whole[:end] + b")b" + whole[end:])
        try:
            readers.read(path)
        except TransferError as error:
            messages.append(str(error))
    assert sum("state set on a tensor" in message for message in messages) >= 5


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    save_file({"a": BASE}, folder / "x.safetensors")
    legacy_h5(folder / "x.h5", lambda layer, variable: f"{layer}/{variable}:0")
    return {
        "zip": GOLDEN / "resnet18_slim.pth",
        "stream": GOLDEN / "resnet18_slim_stream.pth",
        "safetensors": folder / "x.safetensors",
        "h5": folder / "x.h5",
    }


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors", "h5"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97, 0.999])
def test_truncated_files(tmp_path: Path, good_files: dict[str, Path], kind: str, share: float) -> None:
    content = good_files[kind].read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TransferError, match=r"cut: (a damaged or truncated|a storage of|not a weight file)"):
        readers.read(path)


def test_a_flipped_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "resnet18_slim.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(TransferError, match="damaged"):
        readers.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a weight file"),
        (b"hello" * 100, "not a weight file"),
        (pickle.dumps({"a": 1}), "not a weight file"),
        (None, "no such weight file"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(TransferError, match=message):
        readers.read(tmp_path / "x")


def older_pth(
    version: object = 1001,
    system: object = None,
    keys: object = ("0",),
    count: int = 2,
    kind: str = "Float",
    elements: np.ndarray = BASE[1:3],
) -> bytes:
    """A file of the older format with the tensor `a` of two elements, in pickles one after another."""
    owner = f"(X\x07\0\0\0storagectorch\n{kind}Storage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02Nt".encode()
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + owner + b"QK\x00K\x02\x85K\x01\x85\x89}tR"
    system = {"little_endian": True} if system is None else system
    pickles = [pickle.dumps(each, 2) for each in (version, system)]
    pickles += [b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"s.", pickle.dumps(keys, 2)]
    return torch_file.MAGIC + b"".join(pickles) + struct.pack("<q", count) + elements.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 1002}, "protocol 1002 of the older format is not known, only 1001"),
        ({"system": []}, "it does not say on which machine it was written"),
        ({"system": {"little_endian": False}}, "written on a big-endian machine, which is not supported"),
        ({"keys": ["1"]}, "it lists 1 as a storage, which no tensor has"),
        ({"keys": [0]}, "it lists 0 as a storage, which no tensor has"),
        ({"keys": [["0"]]}, "it lists a list as a storage, which no tensor has"),
        ({"keys": []}, "a tensor whose storage is not in the file"),
        ({"count": 3}, "a storage of 2 elements is said to have 3"),
        ({"count": 1}, "a storage of 2 elements is said to have 1"),
    ],
)
def test_the_older_pth_says_everything_once(tmp_path: Path, options: dict, message: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(older_pth())
    np.testing.assert_array_equal(readers.read(path)["a"], BASE[1:3])
    path.write_bytes(older_pth(**options))
    with pytest.raises(TransferError, match=f"x.pth: .*{message}"):
        readers.read(path)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("Half", "<f2"), ("Float", "<f4"), ("Double", "<f8"), ("BFloat16", ml_dtypes.bfloat16), ("Byte", "u1")),
        *(("Char", "i1"), ("Short", "<i2"), ("Int", "<i4"), ("Long", "<i8"), ("Bool", "?")),
        *(("ComplexFloat", "<c8"), ("ComplexDouble", "<c16")),
    ],
)
def test_storages_of_every_type(tmp_path: Path, kind: str, dtype: object) -> None:
    elements = np.array([0, 1]).astype(np.dtype(dtype))
    (tmp_path / "x.pth").write_bytes(older_pth(kind=kind, elements=elements))
    tensor = readers.read(tmp_path / "x.pth")["a"]
    assert tensor.dtype == elements.dtype
    np.testing.assert_array_equal(tensor, elements)


@pytest.mark.parametrize(
    ("options", "is_read"),
    [
        ({"chunks": (4,)}, True),
        ({"compression": "gzip"}, True),
        ({"compression": "gzip", "shuffle": True, "fletcher32": True}, True),
        ({"compression": "lzf"}, False),
        ({"compression": "lzf", "shuffle": True}, False),
        ({"scaleoffset": 3}, False),
    ],
    ids=str,
)
def test_an_h5_is_unpacked_by_what_hdf5_itself_can_do(tmp_path: Path, options: dict, is_read: bool) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"fc"]
        group = file.create_group("fc")
        group.attrs["weight_names"] = [b"kernel:0"]
        group.create_dataset("kernel:0", data=BASE, **options)
    if is_read:
        np.testing.assert_array_equal(readers.read(tmp_path / "x.h5")["fc/kernel"], BASE)
    else:
        with pytest.raises(TransferError, match="x.h5: refused: fc/kernel is compressed in a way that is not supp"):
            readers.read(tmp_path / "x.h5")


def test_an_h5_that_is_not_keras(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = BASE
    with pytest.raises(TransferError, match="not one that Keras writes"):
        readers.read(tmp_path / "x.h5")


def test_files_of_early_keras_3_take_the_names_from_the_archives_config(tmp_path: Path) -> None:
    """They lack the names of layers; made here from today's by taking the names out."""
    keras = pytest.importorskip("keras")
    convolutions = [keras.layers.Conv2D(2, 1, name=name) for name in ("second", "first")]
    model = keras.Sequential([keras.Input((4, 4, 2)), *convolutions, keras.layers.BatchNormalization(name="bn")])
    model.save(tmp_path / "now.keras")
    model.save_weights(tmp_path / "x.weights.h5")
    expected = readers.read(tmp_path / "now.keras")

    def strip(file: h5py.File) -> None:
        groups = []
        file.visititems(lambda name, item: groups.append(item) if "name" in item.attrs else None)
        assert groups
        for group in groups:
            del group.attrs["name"]

    with zipfile.ZipFile(tmp_path / "now.keras") as now, zipfile.ZipFile(tmp_path / "then.keras", "w") as then:
        (tmp_path / "model.weights.h5").write_bytes(now.read("model.weights.h5"))
        with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
            strip(file)
        then.write(tmp_path / "model.weights.h5", "model.weights.h5")
        then.writestr("config.json", now.read("config.json"))
    tensors = readers.read(tmp_path / "then.keras")
    assert set(tensors) == set(expected) > {"second/kernel", "first/kernel", "bn/gamma"}
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)
    with pytest.raises(TransferError, match="leaves out the names of layers; save it as .keras"):
        readers.read(tmp_path / "model.weights.h5")


def test_bfloat16_in_keras_files(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="top", dtype="bfloat16")])
    model.save_weights(tmp_path / "x.weights.h5")
    kernel = readers.read(tmp_path / "x.weights.h5")["top/kernel"]
    assert kernel.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(kernel.astype(np.float32), np.asarray(model.layers[-1].kernel, np.float32))


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"a.weight": BASE},
        {"state_dict": {"a.weight": BASE}, "epoch": 3, "optimizer": {"state": {0: BASE}}},
        {"model": {"a.weight": BASE}},
        {"net": {"a.weight": BASE}},
        {"model": {"state_dict": BASE}, "state_dict": {"a.weight": BASE}},
        {"model_state_dict": {"a.weight": BASE}},
        {"epoch": 3, "state_dict": {"a.weight": BASE, "version": 2}},
    ],
)
def test_checkpoints_are_unwrapped(checkpoint: dict) -> None:
    assert list(state_dict(checkpoint)) == ["a.weight"]


def test_a_pth_that_is_no_state_dict() -> None:
    with pytest.raises(
        TransferError, match="holds a list and no tensors under their names, as a state dict has them; save"
    ):
        state_dict([BASE])


def test_an_h5_that_points_at_another_file_is_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = np.ones(3, np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"fc"]
        group = file.create_group("fc")
        group.attrs["weight_names"] = [b"kernel:0"]
        group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "values")
    with pytest.raises(TransferError, match="lies in another file or place"):
        readers.read(tmp_path / "x.h5")
