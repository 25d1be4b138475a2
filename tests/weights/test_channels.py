"""Images of other channels than weights were trained on: the first kernel is summed or repeated, and that is said."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from flax import nnx
from golden import onnx_graphs, reading, seeded
from keras_notop import keras_notop
from safetensors.numpy import save_file
from support.filled import from_tensors

from transfer import config as config_module
from transfer.errors import TransferError, UsageError
from transfer.experiment.backbone import build_extractor, build_network
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import catalogue, channels, create_model, native
from transfer.weights.create import convert_file
from transfer.weights.verify import verify

GOLDEN = Path(reading.__file__).parent
WIDTH = 1 / 16
DIVISOR = 8  # of the channels of ONNX graphs
RESNET = catalogue.get("resnet18.tv")
# A member of each family; the others differ in depth.
MEMBERS = ("alexnet", "googlenet", "inception_v3", "lenet5", "resnet18", "resnet50v2", "vgg11", "vgg11_bn")
SIDES = {"lenet5": 28, "inception_v3": 75}


def sentences(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "kernel" in record.getMessage()]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def resnet() -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(each) for name, each in reading.cases()["resnet18_slim"].state_dict().items()}


def summed(tensors: dict[str, np.ndarray], name: str = "conv1.weight") -> dict[str, np.ndarray]:
    return tensors | {name: tensors[name].sum(1, keepdims=True)}


def answer(model: Any, images: np.ndarray) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(nnx.jit(lambda model, images: model(images)[0])(model, images))


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 6, 7])
def test_the_first_kernel_as_timm_adapts_it(inputs: int, wanted: int) -> None:
    with np.load(GOLDEN / "channels.npz") as kernels:
        kernel, expected = (kernels[name].transpose(2, 3, 1, 0) for name in (str(inputs), f"{inputs} to {wanted}"))
    ours = channels.adapted(kernel.astype(np.float32), wanted) if wanted != inputs else kernel
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_sums_of_half_precision_are_made_in_float32() -> None:
    kernel = np.array([2048, 1, 1], np.float16).reshape(1, 1, 3, 1)
    assert channels.adapted(kernel, 1).item() == 2050 and channels.adapted(kernel, 4).dtype == np.float32


@pytest.mark.parametrize(
    "arch",
    [arch if arch in MEMBERS else pytest.param(arch, marks=pytest.mark.slow) for arch in registry.architectures()],
)
def test_every_architecture_takes_images_of_other_channels(arch: str) -> None:
    fields = {} if arch == "lenet5" else {"width": 1 / 4 if "resnext" in arch else WIDTH}
    of_three = registry.build(arch, seed=None, channels=3, num_classes=5, **fields)
    shapes = {path: array.shape for path, array in registry.flat_state(of_three).items()}
    tensors = {path: np.broadcast_to(np.float32(1), shape) for path, shape in shapes.items()}
    first, side = channels.first_kernel(arch), SIDES.get(arch, 64)
    assert shapes[first][2] == 3
    for wanted in (1, 4):
        model: Any = from_tensors(arch, tensors, ["native"], in_channels=wanted, num_classes=5, **fields)
        found = registry.flat_state(model)
        assert found[first].shape == (*shapes[first][:2], wanted, shapes[first][3]) and model.in_channels == wanted
        np.testing.assert_allclose(found[first], 3 if wanted == 1 else 3 / 4)
        assert {path: array.shape for path, array in found.items() if path != first} == {
            path: shape for path, shape in shapes.items() if path != first
        }
        output = nnx.eval_shape(lambda model, images: model(images)[0], model, np.zeros((1, side, side, wanted), "f4"))
        assert output.shape == (1, 5)
        with pytest.raises(UsageError, match=rf"\(batch, height, width, {wanted}\).*got \(1, {side}, {side}, 3\)"):
            nnx.eval_shape(lambda model, images: model(images)[0], model, np.zeros((1, side, side, 3), "f4"))


@pytest.mark.parametrize("case", ["resnet18_slim", "vgg11_slim", "lenet5 28x28x3"])
def test_a_sum_takes_a_grey_image_for_one_of_three_equal_channels(case: str, caplog: Any) -> None:
    known = reading.cases()[case]
    fields = {name: value for name, value in known.fields.items() if name not in ("num_classes", "channels")}
    of_three = from_tensors(known.arch, known.state_dict(), **fields)
    of_one = from_tensors(known.arch, known.state_dict(), in_channels=1, name="x", file="y.pth", **fields)
    images = seeded.images((2, 28, 28, 1) if known.arch == "lenet5" else (2, 64, 64, 1))
    expected = answer(of_three, np.repeat(images, 3, -1))
    assert np.abs(answer(of_one, images) - expected).max() < 1e-5 * np.abs(expected).max()
    assert sentences(caplog)[-1] == "x: the first kernel of y.pth is summed to 1 channel"


def pth(folder: Path) -> tuple[Path, str, dict]:
    """PyTorch's own file with a kernel of 1 channel: the first third of the bytes of each output's."""
    with zipfile.ZipFile(GOLDEN / "resnet18_slim.pth") as good:
        members = {name: good.read(name) for name in good.namelist()}
    name, content = next(item for item in members.items() if item[0].endswith("data.pkl"))
    shape = b"(K\x04K\x03K\x07K\x07t"
    assert content.count(shape) == 1
    members[name] = content.replace(shape, shape.replace(b"K\x03", b"K\x01"))
    with zipfile.ZipFile(folder / "x.pth", "w") as grey:
        for name, content in members.items():
            grey.writestr(name, content)
    return folder / "x.pth", "resnet18", {"width": WIDTH}


def safetensors(folder: Path) -> tuple[Path, str, dict]:
    save_file(summed(resnet()), folder / "x.safetensors")
    return folder / "x.safetensors", "resnet18", {"width": WIDTH}


def our_own(folder: Path) -> tuple[Path, str, dict]:
    fields = {"width": WIDTH, "channels": 1}
    arrays = registry.flat_state(registry.build("resnet18", seed=0, **fields))
    native.write(folder / "x.safetensors", arrays, native.describe("resnet18", fields))
    return folder / "x.safetensors", "resnet18", {}


def keras_h5(folder: Path) -> tuple[Path, str, dict]:
    fields = {**dict(catalogue.get("vgg16.keras").fields), "width": WIDTH}
    keras_notop(folder / "x.h5", "vgg16", {**fields, "channels": 1})
    return folder / "x.h5", "vgg16", fields


@pytest.mark.parametrize("make", [pth, safetensors, our_own, keras_h5], ids=lambda make: make.__name__)
def test_a_file_of_other_channels_is_taken_as_it_is(make: Any, tmp_path: Path, caplog: Any) -> None:
    path, arch, fields = make(tmp_path)
    model: Any = create_model(arch, path, **fields)
    kernel = registry.flat_state(model)[channels.first_kernel(arch)]
    assert kernel.shape[2] == 1 and model.in_channels == 1
    said = f"{arch}: the first kernel of {path} takes images of 1 channel, so the model does"
    assert sentences(caplog) == [said]
    back: Any = create_model(arch, path, in_channels=3, **fields)
    third = registry.flat_state(back)[channels.first_kernel(arch)]
    np.testing.assert_allclose(third, np.repeat(kernel, 3, 2) / 3, rtol=1e-6)
    assert sentences(caplog)[-1] == f"{arch}: the first kernel of {path} is repeated and scaled to 3 channels"


def onnx_of_one(folder: Path) -> Path:
    """A graph of torch's exporter whose first convolution takes grey images."""
    model = onnx_graphs.model("resnet18.raw", DIVISOR)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    kernel = next(each for each in model.graph.initializer if each.name == first.input[1])
    grey = onnx.numpy_helper.to_array(kernel).sum(1, keepdims=True)
    kernel.CopyFrom(onnx.numpy_helper.from_array(grey, kernel.name))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(model, folder / "x.onnx")
    return folder / "x.onnx"


def test_an_onnx_graph_of_grey_images(tmp_path: Path, caplog: Any) -> None:
    path = onnx_of_one(tmp_path)
    model: Any = create_model("resnet18", path, width=1 / DIVISOR)
    assert model.in_channels == 1 and "takes images of 1 channel, so the model does" in sentences(caplog)[-1]


@pytest.mark.parametrize("name", [name for name, record in catalogue.records().items() if record.preprocessing])
def test_the_recipe_of_grey_images_has_the_average_of_mean_and_deviation(name: str) -> None:
    of_three = catalogue.get(name).preprocessing
    grey = channels.recipe(of_three, 1)
    assert grey.channels == "grey" and grey.input_shape == (*of_three.image_size, 1)
    np.testing.assert_allclose(
        (grey.mean, grey.std), (np.mean(of_three.mean, keepdims=True), np.mean(of_three.std, keepdims=True))
    )
    assert (grey.resize_to, grey.scale, grey.interpolation) == (
        of_three.resize_to,
        of_three.scale,
        of_three.interpolation,
    )
    assert channels.recipe(of_three, 3) is of_three and channels.recipe(grey, 1) is grey
    assert channels.recipe(of_three, 4) is None and channels.recipe(None, 1) is None
    assert channels.recipe(grey, 3).mean == grey.mean * 3 and channels.recipe(grey, 3).channels == "rgb"


@pytest.mark.parametrize("wanted", [None, 1, 2, 4])
def test_a_record_and_its_preprocessing(wanted: int | None, tmp_path: Path) -> None:
    save_file(resnet() if wanted else summed(resnet()), tmp_path / "x.safetensors")
    model: Any = create_model("resnet18.tv", tmp_path / "x.safetensors", width=WIDTH, in_channels=wanted)
    assert model.in_channels == (wanted or 1) and model.record is RESNET
    assert model.preprocessing == channels.recipe(RESNET.preprocessing, wanted or 1)
    random: Any = create_model("resnet18.tv", False, width=WIDTH, in_channels=wanted)
    assert random.in_channels == (wanted or 3)
    assert random.preprocessing == channels.recipe(RESNET.preprocessing, wanted or 3)


@pytest.mark.parametrize("name", ["inception_v3.tv", "googlenet.tv"])
@pytest.mark.parametrize("wanted", [1, 4])
def test_transform_input_is_for_three_channels(name: str, wanted: int) -> None:
    words = f"transform_input=True is for images of 3 channels, not {wanted}; take a set of weights without it"
    with pytest.raises(UsageError, match=words):
        create_model(name, False, in_channels=wanted)
    create_model(name, False, in_channels=wanted, transform_input=False, width=1 / 32, num_classes=0)


@pytest.mark.parametrize("wanted", [0, -1])
def test_no_channels_at_all(wanted: int) -> None:
    with pytest.raises(UsageError, match=f"in_channels={wanted} must be at least 1"):
        create_model("resnet18.tv", False, in_channels=wanted)


def test_other_misfits_are_still_refused(tmp_path: Path) -> None:
    tensors = summed(resnet()) | {"layer1.0.conv1.weight": np.zeros((4, 4, 5, 5), np.float32)}
    with pytest.raises(TransferError, match="1 misshapen .layer1.0.conv1.weight"):
        from_tensors("resnet18", tensors, in_channels=1, width=WIDTH)
    inner = resnet() | {"layer1.0.conv1.weight": np.zeros((4, 1, 3, 3), np.float32)}
    with pytest.raises(TransferError, match="1 misshapen .layer1.0.conv1.weight"):
        from_tensors("resnet18", inner, width=WIDTH)
    with pytest.raises(TransferError, match="NaN or infinity in 1 of its tensors .conv1.weight"):
        from_tensors("resnet18", resnet() | {"conv1.weight": np.full((4, 3, 7, 7), np.nan)}, in_channels=1, width=WIDTH)


def test_a_converted_file_keeps_its_channels(tmp_path: Path) -> None:
    path, arch, fields = keras_h5(tmp_path)
    output = tmp_path / "out.safetensors"
    arrays = registry.flat_state(registry.build("resnet18", seed=0, width=WIDTH, channels=1))
    native.write(tmp_path / "grey.safetensors", arrays, native.describe("resnet18", {"width": WIDTH, "channels": 1}))
    convert_file(tmp_path / "grey.safetensors", "resnet18", output)
    assert native.fields(output, "resnet18") == {"width": WIDTH, "channels": 1, "num_classes": 1000}
    model: Any = create_model("resnet18.tv", output, width=WIDTH)
    assert model.in_channels == 1 and model.preprocessing == channels.recipe(RESNET.preprocessing, 1)


def test_verify_takes_no_grey_file_for_the_records(tmp_path: Path) -> None:
    record = catalogue.get("vgg11_slim.cifar10")
    fields = {**dict(record.fields), "channels": 1, "num_classes": 10}
    arrays = registry.flat_state(registry.build(record.arch, seed=0, **fields))
    native.write(tmp_path / "grey.safetensors", arrays, native.describe(record.arch, fields))
    with pytest.raises(
        TransferError, match="load: its images have 1 channels, so .*grey.safetensors is none of vgg11_"
    ):
        verify(record.name, tmp_path / "grey.safetensors")


def config_of(**changes: Any) -> Any:
    config = config_module.default()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def test_a_run_takes_grey_images_and_has_another_fingerprint(tmp_path: Path) -> None:
    extractors = [build_extractor(config_of(**{"model.in_channels": wanted})) for wanted in (None, 1, 3)]
    colour, grey, same = (extractor.fingerprint() for extractor in extractors)
    assert same == colour and grey["preprocessing"]["channels"] == "grey"
    assert all(grey[key] != colour[key] for key in ("parameters", "preprocessing"))
    assert grey["structure"] == colour["structure"]
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (2, 40, 30, 1), np.uint8), 3, -1)
    ours, theirs = (extractor(images) for extractor in extractors[:2])
    assert ours.shape == theirs.shape == (2, 128) and np.abs(ours - theirs).max() < 0.2 * np.abs(ours).max()


@pytest.mark.parametrize("own", [{}, {"scale": 1 / 255, "mean": (0.5,), "std": (0.5,)}])
def test_an_architecture_by_itself_takes_grey_images_of_one_channel(own: dict, tmp_path: Path) -> None:
    save_file(summed(resnet()), tmp_path / "x.safetensors")
    changes = {"model.name": "resnet18", "model.weights": str(tmp_path / "x.safetensors"), "model.fields.width": WIDTH}
    config = config_of(**changes, image_size=32, **{f"preprocessing.{key}": value for key, value in own.items()})
    if not own:
        with pytest.raises(UsageError, match="has no preprocessing of its own"):
            build_extractor(config)
        return
    assert build_extractor(config).preprocessing == Preprocessing((32, 32), channels="grey", **own)


def test_a_network_that_is_trained_says_its_channels() -> None:
    config = config_of(**{"model.in_channels": 1, "finetune.new_head": True})
    model: Any = build_network(config, 4)
    arch, fields = model.arch, dict(model.fields)
    assert (arch, fields["channels"], fields["num_classes"]) == ("vgg11_bn", 1, 4)
    built = registry.flat_state(registry.build(arch, seed=None, **fields))
    assert {path: array.shape for path, array in built.items()} == {
        path: array.shape for path, array in registry.flat_state(model).items()
    }


@pytest.mark.parametrize("wanted", [2, 4])
def test_a_run_has_no_images_of_other_channels(wanted: int) -> None:
    words = f"config.model: in_channels={wanted} is for Python; a run's images have 3 channels, grey ones 1"
    with pytest.raises(UsageError, match=words):
        build_extractor(config_of(**{"model.in_channels": wanted}))
