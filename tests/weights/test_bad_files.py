"""Damaged and lying weight files: one clear line from every command, no traceback, nothing half-done."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from golden import reading

from transfer import __main__ as command
from transfer.errors import TransferError
from transfer.weights import create_model


def tensor(dtype: str = "F32", shape: tuple = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safetensors(header: object, data: int = 8, length: int | None = None) -> Callable[[Path], None]:
    """Writes a file with that header, `data` bytes behind it, and `length` in front of it (the true one if None)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)
    return lambda path: path.write_bytes(content) and None


def native(**fields: object) -> dict[str, Any]:
    described = {"format": "transfer", "arch": "resnet18", **{key: str(value) for key, value in fields.items()}}
    return {"__metadata__": described, "a": tensor()}


def hdf5(write: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            write(file)

    return make


def legacy_h5(layers: object, inside: Callable[[h5py.File], object] = lambda file: None) -> Callable[[Path], None]:
    def write(file: h5py.File) -> None:
        file.attrs["layer_names"] = layers
        inside(file)

    return hdf5(write)


def fc(fill: Callable[[h5py.Group], object]) -> Callable[[h5py.File], None]:
    def inside(file: h5py.File) -> None:
        group = file.create_group("fc")
        group.attrs["weight_names"] = [b"kernel:0"]
        fill(group)

    return inside


def cut(file: str, share: float) -> Callable[[Path], None]:
    content = (reading.HERE / file).read_bytes()
    return lambda path: path.write_bytes(content[: int(len(content) * share)]) and None


TWO = {"a": tensor(), "b": tensor()}
UNTIL_200 = {"a": tensor(offsets=(0, 800))}

# name of the file: (how it is made, what the message says of it)
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "past_the_end.safetensors": (safetensors(UNTIL_200), "damaged or truncated .safetensors"),
    "larger_shape.safetensors": (safetensors({"a": tensor(shape=(200,))}), "damaged or truncated .safetensors"),
    "overlap.safetensors": (safetensors({"a": tensor(), "b": tensor(offsets=(4, 12))}, 12), "offset for tensor"),
    "same_bytes.safetensors": (safetensors(TWO), "offset for tensor"),
    "hole.safetensors": (safetensors({"a": tensor(), "b": tensor(offsets=(16, 24))}, 24), "offset for tensor"),
    "bytes_left.safetensors": (safetensors({"a": tensor()}, 80), "damaged or truncated .safetensors"),
    "long_header.safetensors": (
        safetensors({"a": tensor()}, length=1 << 30),
        r"header|damaged or truncated .safetensors",
    ),
    "huge_header.safetensors": (
        safetensors({"a": tensor()}, length=1 << 60),
        r"header|damaged or truncated .safetensors",
    ),
    "unknown_type.safetensors": (safetensors({"a": tensor(dtype="Q7")}), "unknown variant `Q7`"),
    "small_floats.safetensors": (
        safetensors({"a": tensor("F8_E4M3", (8,))}),
        "a is of type F8_E4M3, .* save it as F16",
    ),
    "negative.safetensors": (safetensors({"a": tensor(shape=(-2,))}), "integer `-2`"),
    "overflow.safetensors": (safetensors({"a": tensor(shape=(1 << 40, 1 << 40))}), "overflow"),
    "no_json.safetensors": (safetensors(b'{"a": nonsense'), "invalid JSON"),
    "no_tensor.safetensors": (safetensors({}, 0), "without a single tensor"),
    "no_fields.safetensors": (safetensors(native(fields="nonsense")), "fields that resnet18 cannot be built with"),
    "list_of_fields.safetensors": (safetensors(native(fields=[1])), "fields that resnet18 cannot be built with"),
    "unknown_field.safetensors": (safetensors(native(fields='{"depth": 3}')), "has no field 'depth'"),
    "wrong_field.safetensors": (safetensors(native(fields='{"width": "x"}')), "fields that resnet18 cannot be built"),
    "empty.h5": (hdf5(lambda file: None), "not one that Keras writes"),
    "no_layer.h5": (legacy_h5([b"fc"]), "it lists fc as a layer, but does not hold it"),
    "no_variable.h5": (legacy_h5([b"fc"], fc(lambda group: None)), "it lists kernel:0 as a variable of layer fc, but"),
    "group.h5": (legacy_h5([b"fc"], fc(lambda g: g.create_group("kernel:0"))), "fc/kernel is a group, not numbers"),
    "layer_is_array.h5": (legacy_h5([b"fc"], lambda file: file.create_dataset("fc", data=np.ones(3))), "single tensor"),
    "number_of_layers.h5": (legacy_h5(3), "damaged or truncated Keras .h5"),
    "text.h5": (
        legacy_h5([b"fc"], fc(lambda group: group.create_dataset("kernel:0", data="text"))),
        "fc/kernel holds object, not numbers",
    ),
    "array_of_layers.h5": (hdf5(lambda file: file.create_dataset("layers", data=np.ones(3))), "damaged or truncated"),
    **{
        f"cut_{share}_{file}": (cut(file, share), "damaged or truncated|the file is truncated")
        for file in ("resnet18_slim.pth", "resnet18_slim_stream.pth")
        for share in (0.01, 0.5, 0.999)
    },
}


@pytest.fixture
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    make, message = FILES[request.param]
    path = tmp_path / request.param
    make(path)
    return path, message


@pytest.mark.slow
@pytest.mark.parametrize("bad_file", FILES, indirect=True)
def test_a_bad_file_is_one_clear_line(
    bad_file: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message = bad_file
    with pytest.raises(TransferError, match=message) as error:
        create_model("resnet18", weights=path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))

    output = tmp_path / "out.safetensors"
    assert command.main(["convert", str(path), "--model", "resnet18", "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {path}") and captured.err.count("\n") == 1 and captured.out == ""
    assert re.search(message, captured.err)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    assert command.main(["weights", "verify", "resnet18.tv", "--weights", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: hash: {path} is not a file of resnet18.tv: SHA-256 ")
    assert captured.err.count("\n") == 1 and captured.out == ""
