"""What ONNX files that do not fit, are damaged or ask for too much end in: one line, and nothing is written."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import onnx_graphs

from transfer.cli.main import guarded
from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import create_model, readers
from transfer.weights.create import convert_file

onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402

LENET = "lenet5.legacy"
LEFT_OUT = "num_classes=0 leaves the classifier out; by_names=True"
QUANTISED = ("QLinearConv", "ConvInteger", "QuantizeLinear", "DynamicQuantizeLinear", "QGemm", "MatMulNBits")


def save(model: Any, folder: Path) -> Path:
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def first(model: Any, op: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == op)


def attribute(node: Any, name: str) -> Any:
    return next(each for each in node.attribute if each.name == name)


# What is done to LeNet-5's graph, whose names are PyTorch's.


def unknown_operator(model: Any) -> None:
    first(model, "Tanh").op_type = "Squash"


def operator_of_another_domain(model: Any) -> None:
    first(model, "Conv").domain = "com.microsoft"


def without_an_initialiser(model: Any) -> None:
    model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == "fc2.weight"))


def too_few_numbers(model: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "fc2.weight")
    tensor.raw_data = tensor.raw_data[:-8]


def a_cycle(model: Any) -> None:
    first(model, "Conv").input[0] = first(model, "Gemm").output[0]


def without_nodes(model: Any) -> None:
    del model.graph.node[:]


def weights_from_the_images(model: Any) -> None:
    first(model, "Conv").input[1] = model.graph.input[0].name


def dense_the_other_way_round(model: Any) -> None:
    node = first(model, "Gemm")
    node.attribute.append(helper.make_attribute("transA", 1))


def before(model: Any, op: str, constant: Any, *, is_first: bool = False, **attributes: Any) -> None:
    """A node between the images and the first layer, with a constant."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constant), "number"))
    inputs = [model.graph.input[0].name, "number"]
    node = helper.make_node(op, inputs[::-1] if is_first else inputs, ["made"], name="strange", **attributes)
    first(model, "Conv").input[0] = "made"
    model.graph.node.append(node)
    without_names(model)


def divided_by_the_images(model: Any) -> None:
    before(model, "Div", np.float32(2), is_first=True)


def divided_by_zero(model: Any) -> None:
    before(model, "Div", np.zeros((1, 1, 1, 1), np.float32))


def rows_gathered(model: Any) -> None:
    before(model, "Gather", np.array([*range(3, 28), 0, 1, 2]), axis=2)


def rows_that_are_not_there(model: Any) -> None:
    before(model, "Gather", np.arange(28) + 1, axis=2)


def like_whole_numbers(model: Any) -> None:
    before(model, "CastLike", np.int32(0))


def not_a_number(model: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "conv2.bias")
    onnx_graphs.set_array(tensor, np.full(tensor.dims, np.nan, np.float32))


def other_function(model: Any) -> None:
    first(model, "Tanh").op_type = "Relu"
    without_names(model)


def other_stride(model: Any) -> None:
    attribute(first(model, "Conv"), "strides").ints[:] = [2, 2]
    without_names(model)


def padding_by_the_size(model: Any) -> None:
    node = first(model, "Conv")
    node.attribute.remove(attribute(node, "pads"))
    node.attribute.append(helper.make_attribute("auto_pad", "SAME_LOWER"))
    attribute(node, "strides").ints[:] = [2, 2]
    without_names(model)


def one_more_layer(model: Any) -> None:
    model.graph.node.append(helper.make_node("Tanh", [model.graph.output[0].name], ["more"], name="last"))
    model.graph.output[0].name = "more"
    without_names(model)


def ends_in_a_sigmoid(model: Any) -> None:
    one_more_layer(model)
    model.graph.node[-1].op_type = "Sigmoid"


def ends_in_two(model: Any) -> None:
    one_more_layer(model)
    model.graph.node.append(helper.make_node("Softmax", ["renamed more"], ["renamed end"], name="end"))
    model.graph.output[0].name = "renamed end"


def quantised(op: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        before(model, op, np.float32(1))

    change.__name__ = op
    return change


def without_names(model: Any) -> None:
    onnx_graphs.rename(model, lambda name: f"renamed {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_operator, "ONNX operator 'Squash' \\(node '/Tanh'\\) is not supported"),
        (operator_of_another_domain, "ONNX operator 'Conv' of 'com.microsoft' \\(node '/conv1/Conv'\\)"),
        (without_an_initialiser, "nothing in the ONNX graph makes 'fc2.weight': an initialiser or a node is missing"),
        (too_few_numbers, "the data of initialiser 'fc2.weight' are damaged"),
        (a_cycle, "a cycle in the ONNX graph"),
        (without_nodes, "a damaged or truncated ONNX file"),
        (weights_from_the_images, "Conv '/conv1/Conv': its input 'input.1' is computed from the images"),
        (dense_the_other_way_round, "Gemm '/fc1/Gemm' is no dense layer"),
        (not_a_number, "NaN"),
        (other_function, "does not fit lenet5: where the model has tanh of the model, the graph has Relu '/Tanh'"),
        (
            other_stride,
            "the model has conv1 .*stride 1x1, padding 2\\+2 2\\+2, .*, the graph has Conv '/conv1/Conv' .*2x2",
        ),
        (padding_by_the_size, "the graph has Conv '/conv1/Conv' .*stride 2x2, padding 2\\+1 2\\+1"),
        (divided_by_the_images, "Div '.*strange' divides by the images' values"),
        (divided_by_zero, "Div '.*strange' divides by zero"),
        (rows_gathered, "the graph has Gather '.*strange' \\(to 28x28 pixels\\)"),
        (rows_that_are_not_there, "Gather '.*strange' takes positions that are not there, or none"),
        (like_whole_numbers, "CastLike '.*strange' makes other than real numbers of the images' values"),
        (one_more_layer, f"it ends in Tanh '.*last': another function than a softmax; {LEFT_OUT}"),
        (ends_in_a_sigmoid, f"it ends in Sigmoid '.*last': the classes do not exclude each other; {LEFT_OUT}"),
        (ends_in_two, f"it ends in Tanh '.*last' and Softmax 'end': another function than a softmax; {LEFT_OUT}"),
        *(
            (quantised(op), f"a quantised network .{op} '.*strange'.: export the float model it was made")
            for op in QUANTISED
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_line_and_nothing_written(
    change: Callable[[Any], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_graphs.model(LENET)
    change(model)
    path = save(model, tmp_path)
    with pytest.raises(TransferError, match=message) as raised:
        convert_file(path, "lenet5", tmp_path / "x.safetensors")
    assert str(raised.value).startswith(str(path)) or "NaN" in message
    assert guarded(lambda: convert_file(path, "lenet5", tmp_path / "x.safetensors"), False) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_classifier_of_other_functions_is_left_out_or_new(tmp_path: Path) -> None:
    model = onnx_graphs.model(LENET)
    expected = registry.flat_state(create_model("lenet5", save(model, tmp_path)))
    ends_in_two(model)
    path = save(model, tmp_path)
    for options in ({"num_classes": 0}, {"num_classes": 3}, {"new_classifier": True}):
        arrays = registry.flat_state(create_model("lenet5", path, **options))
        np.testing.assert_array_equal(arrays["conv2.kernel"], expected["conv2.kernel"])
        assert ("logits.bias" in arrays) == (options != {"num_classes": 0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "name", "message"),
    [
        ("resnet18.raw", "resnet34", "the model has stage1.unit3.conv1 .*, the graph has Conv 'node_conv2d_7'"),
        (
            "resnet50.legacy",
            "resnet50.keras",
            "the model has stage2.unit1.conv1 .*stride 2x2.*, the graph has .*stride 1",
        ),
        ("resnet50.keras", "resnet50.tv1", "the model has stage2.unit1.conv1 .*stride 1x1.*, the graph has .*stride 2"),
        ("resnet50.legacy", "resnet50v2.keras", "the model has .*, the graph has Relu"),
        ("vgg16.keras", "vgg19.keras", "the model has block3.conv4 .*, the graph has MaxPool"),
        ("resnet18.unfolded", "vgg16", "the model has block1.conv1 .*, the graph has Conv '/conv1/Conv' \\(7x7"),
        ("googlenet.legacy", "inception_v3.tv", "the model has stem.conv1.conv .*, the graph has Conv"),
    ],
)
def test_another_architecture_is_said_to_part(graph: str, name: str, message: str, tmp_path: Path) -> None:
    path = save(onnx_graphs.model(graph, 8), tmp_path)
    with pytest.raises(TransferError, match=f"model.onnx does not fit {name}: where {message}"):
        create_model(name, weights=path, width=1 / 8)


@pytest.mark.slow
def test_a_graph_says_what_it_looks_like(tmp_path: Path) -> None:
    path = save(onnx_graphs.model("resnet18.unfolded"), tmp_path)
    with pytest.raises(TransferError, match="where the model has .*; its convolutions are those of resnet18"):
        create_model("vgg11_bn", weights=path)


@pytest.mark.slow
def test_layers_of_other_widths_are_shown(tmp_path: Path) -> None:
    path = save(onnx_graphs.model("resnet18.raw", 8), tmp_path)
    with pytest.raises(TransferError, match=r"stem.conv \(7x7, 3 -> 64,.*, the graph has .*7x7, 3 -> 8,"):
        create_model("resnet18", weights=path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = save(onnx_graphs.model(LENET), tmp_path).read_bytes()
    generator = random.Random(0)
    for length in (3, 10, *(generator.randrange(20, len(whole)) for _ in range(30)), len(whole) - 1):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        with pytest.raises(TransferError, match="cut.onnx: a damaged or truncated ONNX file"):
            readers.read(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"\x08", " of a supported format .*ONNX"),
        (b"<html>404</html>", "a web page"),
        (b"\x08\x09\xff\xff" + bytes(100), " of a supported format .*ONNX"),
    ],
)
def test_something_else_called_onnx(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(TransferError, match=f"x.onnx: not a weight file(: )?{said}"):
        readers.read(tmp_path / "x.onnx")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(onnx_graphs.model(LENET), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(TransferError, match=r"model.onnx: .*pip install -e '\.\[onnx\]'"):
        readers.read(path)


# Weights in a second file, as everything above 2 GB has.


@pytest.fixture
def with_external_data(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(
        onnx_graphs.model(LENET),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return folder / "model.onnx"


def test_external_data(with_external_data: Path, tmp_path: Path) -> None:
    assert with_external_data.stat().st_size < 10_000
    expected = registry.flat_state(create_model("lenet5", weights=save(onnx_graphs.model(LENET), tmp_path)))
    found = registry.flat_state(create_model("lenet5", weights=with_external_data))
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array)


def test_external_data_missing_or_cut(with_external_data: Path) -> None:
    data = with_external_data.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(TransferError, match="model.onnx.data has .* bytes, which do not hold initialiser"):
        readers.read(with_external_data)
    data.unlink()
    with pytest.raises(TransferError, match="are in model.onnx.data, which is not beside the file"):
        readers.read(with_external_data)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "sub/../../secret", ""])
def test_external_data_outside_the_folder(with_external_data: Path, location: str) -> None:
    (with_external_data.parent.parent / "secret").write_bytes(bytes(1_000_000))
    (with_external_data.parent / "link").symlink_to("../secret")
    model = onnx.load(str(with_external_data), load_external_data=False)
    for tensor in model.graph.initializer:
        entry = next(each for each in tensor.external_data if each.key == "location")
        entry.value = location
    path = with_external_data.with_name("evil.onnx")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TransferError, match="evil.onnx: initialiser .* outside the model's folder"):
        readers.read(path)
