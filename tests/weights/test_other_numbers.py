"""Weight files of whole numbers, which are quantised or damaged, in every format: refused by the tensor's name."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from golden import onnx_graphs, reading
from keras_notop import keras_notop
from safetensors.numpy import save_file
from support.filled import from_tensors

from transfer import __main__ as command
from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import catalogue, create_model, native

WIDTH = 1 / 16
NAMES = ["conv1.weight", "layer3.1.bn2.running_var", "layer2.0.downsample.1.bias"]
GOLDEN = Path(reading.__file__).parent
KINDS = ["int8", "uint8", "int16", "int32", "int64", "uint16", "uint64", "bool", "complex64"]


def resnet() -> dict[str, np.ndarray]:
    return dict(reading.cases()["resnet18_slim"].state_dict())


@pytest.mark.parametrize("kind", [*map(np.dtype, KINDS), np.dtype(ml_dtypes.int4)], ids=str)
def test_one_tensor_without_floats_is_named(kind: np.dtype) -> None:
    name = NAMES[kind.num % len(NAMES)]
    tensors = resnet() | {name: np.ones(resnet()[name].shape, kind)}
    with pytest.raises(TransferError) as error:
        from_tensors("resnet18", tensors, width=WIDTH, file="x.pth")
    assert str(error.value) == (
        f"x.pth cannot be used for resnet18: 1 of its tensors holds no floats ({name} {kind}); if it is quantised, "
        "save the weights that it was made from, as float32"
    )


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_other_floats_are_taken(kind: type) -> None:
    tensors = {name: array.astype(kind) if array.ndim else array for name, array in resnet().items()}
    ours = registry.flat_state(from_tensors("resnet18", tensors, width=WIDTH))
    expected = tensors["conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(np.asarray(ours["stem.conv.kernel"]), expected)


def test_what_is_not_loaded_may_be_whole_numbers() -> None:
    counters = {name: array for name, array in resnet().items() if name.endswith("num_batches_tracked")}
    assert not counters or all(array.dtype == np.int64 for array in counters.values())
    from_tensors("resnet18", resnet() | {"bn1.num_batches_tracked": np.array(7)}, width=WIDTH)
    whole = {name: array.astype(np.int8) for name, array in resnet().items() if name.startswith("fc.")}
    with pytest.raises(TransferError, match=r"\(fc.bias int8, fc.weight int8\); num_classes=0 leaves the classifier"):
        from_tensors("resnet18", resnet() | whole, width=WIDTH)
    from_tensors("resnet18", resnet() | whole, num_classes=0, width=WIDTH)
    from_tensors("resnet18", resnet() | whole, num_classes=3, width=WIDTH)


def as_int32(pickled: bytes) -> bytes:
    """The pickle of a state dict whose float storages are said to be whole numbers of the same size."""
    assert b"FloatStorage" in pickled
    return pickled.replace(b"torch\nFloatStorage", b"torch\nIntStorage")


def zipped(folder: Path) -> tuple[Path, str]:
    with zipfile.ZipFile(GOLDEN / "resnet18_slim.pth") as good, zipfile.ZipFile(folder / "x.pth", "w") as whole:
        for name in good.namelist():
            content = good.read(name)
            whole.writestr(name, as_int32(content) if name.endswith("data.pkl") else content)
    return folder / "x.pth", "resnet18"


def stream(folder: Path) -> tuple[Path, str]:
    (folder / "x.pth").write_bytes(as_int32((GOLDEN / "resnet18_slim_stream.pth").read_bytes()))
    return folder / "x.pth", "resnet18"


def safetensors(folder: Path) -> tuple[Path, str]:
    whole = {name: array.astype(np.int8) for name, array in resnet().items()}
    save_file(whole, folder / "x.safetensors")
    return folder / "x.safetensors", "resnet18"


def our_own(folder: Path) -> tuple[Path, str]:
    arrays = registry.flat_state(registry.build("resnet18", seed=0, width=WIDTH))
    whole = {path: np.asarray(array).astype(np.int8) for path, array in arrays.items()}
    native.write(folder / "x.safetensors", whole, native.describe("resnet18", {"width": WIDTH}))
    return folder / "x.safetensors", "resnet18"


def keras_h5(folder: Path) -> tuple[Path, str]:
    fields = dict(catalogue.get("vgg16.keras").fields)
    keras_notop(folder / "x.h5", "vgg16", {**fields, "width": WIDTH}, np.int8)
    return folder / "x.h5", "vgg16.keras"


def onnx_initialiser(folder: Path) -> tuple[Path, str]:
    """LeNet-5 with a kernel of int8, cast to floats by the graph and not scaled."""
    model = onnx_graphs.model("lenet5.legacy")
    kernel = next(each for each in model.graph.initializer if each.name == "conv2.weight")
    whole = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(kernel).astype(np.int8), "conv2.weight")
    kernel.CopyFrom(whole)
    onnx.save(model, folder / "x.onnx")
    return folder / "x.onnx", "lenet5"


@pytest.mark.parametrize(
    "make", [zipped, stream, safetensors, our_own, keras_h5, onnx_initialiser], ids=lambda make: make.__name__
)
def test_every_format(make: Callable[[Path], tuple[Path, str]], tmp_path: Path) -> None:
    path, name = make(tmp_path)
    width = {} if name == "lenet5" else {"width": WIDTH}
    with pytest.raises(TransferError, match=rf"{re.escape(str(path))} cannot be used for {name}: .* floats? \(\S+ int"):
        create_model(name, weights=path, **width)


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, name = our_own(tmp_path)
    assert command.main(["convert", str(path), f"--model={name}", f"--output={tmp_path / 'out.safetensors'}"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path} cannot be used") and printed.err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
