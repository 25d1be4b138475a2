"""A graph that computes something else than the model is refused, whatever its tensors are called; one that computes
the same in other words is taken. ONNX Runtime says which of the two a graph is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import onnx_graphs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_changes import DIFFERENT, EQUAL, HELD, PREPROCESSING, after, centred, turned_channels, two_inputs
from onnx_surgery import (
    LENET,
    MODELS,
    NODE,
    OTHER,
    RESNET,
    SAME,
    Surgery,
    compiled,
    compiled_for,
    error,
    expected,
    images,
    load,
    onnx,
    put,
    run,
)

from transfer.__main__ import main
from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import create_model
from transfer.weights.create import convert_file


def called(value: Any) -> str:
    return getattr(value, "__name__", str(value)).replace(" ", "_")


@pytest.mark.slow
@pytest.mark.parametrize(("graph", "change"), DIFFERENT, ids=called)
def test_another_function_is_refused_by_the_nodes_name(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    assert error(run(g.sorted()), expected(graph)) > OTHER
    path = g.save(tmp_path / "model.onnx")
    with pytest.raises(TransferError, match=NODE) as raised:
        load(graph, path)
    assert str(raised.value).startswith(f"{path} does not fit {MODELS[graph][0]}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(("graph", "change"), EQUAL, ids=called)
def test_the_same_function_in_other_words_is_taken(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    got = run(g.sorted())
    assert error(got, expected(graph)) <= SAME
    assert error(compiled(graph)(load(graph, g.save(tmp_path / "model.onnx"))), got) <= SAME


@pytest.mark.parametrize(("graph", "change"), HELD, ids=called)
def test_what_the_models_weights_can_hold_is_taken_up(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    got = run(g.sorted())
    assert error(got, expected(graph)) > OTHER
    assert error(compiled(graph)(load(graph, g.save(tmp_path / "model.onnx"))), got) <= SAME


def test_a_graph_in_training_mode_is_refused(tmp_path: Path) -> None:
    g = Surgery(LENET)
    after("Gemm", 0, "Dropout", (0.5,), (True, bool))(g)
    with pytest.raises(TransferError, match=f"{NODE} .*is exported in training mode"):
        load(LENET, g.save(tmp_path / "model.onnx"))


def test_a_graph_that_takes_two_images_is_refused(tmp_path: Path) -> None:
    g = Surgery(RESNET)
    two_inputs(g)
    onnx.save(g.model, str(tmp_path / "model.onnx"))
    with pytest.raises(TransferError, match="it takes several images, the model one"):
        load(RESNET, tmp_path / "model.onnx")


# Whatever is done to a node: what is taken computes what the file does.

INSERTED: dict[str, Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    **{op: lambda draw: ((), {}) for op in ("Relu", "Tanh", "Sigmoid", "Identity", "Softmax", "Elu")},
    "Mul": lambda draw: ((draw(st.sampled_from((1.0, 2.0, -1.0))),), {}),
    "Add": lambda draw: ((draw(st.sampled_from((0.0, 1.0))),), {}),
    "MaxPool": lambda draw: ((), window(draw)),
    "AveragePool": lambda draw: ((), window(draw) | dict(count_include_pad=draw(st.integers(0, 1)))),
}


def window(draw: Any) -> dict[str, Any]:
    side = draw(st.integers(1, 3))
    pads = [draw(st.integers(0, side - 1)) for _ in range(4)]
    return dict(kernel_shape=[side, side], pads=pads, strides=[draw(st.integers(1, 2))] * 2)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_any_change_is_taken_up_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    graph = data.draw(st.sampled_from((LENET, RESNET)))
    g = Surgery(graph)
    if data.draw(st.booleans()):
        tensor = data.draw(st.sampled_from([g.image, *(node.output[0] for node in g.graph.node)]))
        op = data.draw(st.sampled_from(sorted(INSERTED)))
        constants, attributes = INSERTED[op](data.draw)
        g.behind(tensor, op, *map(g.constant, constants), **attributes)
    else:
        node = data.draw(st.sampled_from(g.all("Conv", "MaxPool", "AveragePool")))
        pads = [data.draw(st.integers(0, 3)) for _ in range(4)]
        strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
        put(
            node,
            **data.draw(st.sampled_from((dict(pads=pads), dict(strides=strides), dict(pads=pads, strides=strides)))),
        )
    try:
        got = run(g.sorted())
    except Exception:  # shapes that do not fit together
        assume(False)
    path = g.save(tmp_path_factory.getbasetemp() / "drawn.onnx")
    try:
        model = load(graph, path)
    except TransferError as refused:
        assert str(refused).startswith(f"{path} does not fit {MODELS[graph][0]}: ")
        return
    assert error(compiled(graph)(model), got) <= SAME


def test_an_open_size_is_compared_where_sizes_round(tmp_path: Path) -> None:
    """Padding before the map alone is enough at 224 pixels, and not at 257."""
    g = Surgery(RESNET)
    put(g.first("MaxPool"), pads=[1, 1, 0, 0])
    load(RESNET, g.save(tmp_path / "model.onnx"))
    for dim in g.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    with pytest.raises(TransferError, match=f"for images of 257x257 pixels: where the model has max_pool.*{NODE}"):
        load(RESNET, g.save(tmp_path / "model.onnx"))


# By names, for those who mean it.


def test_by_names_takes_what_the_graph_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Surgery(LENET)
    put(g.first("Conv"), pads=[1, 1, 3, 3])
    path, output = g.save(tmp_path / "model.onnx"), tmp_path / "ours.safetensors"
    with pytest.raises(TransferError, match=f"where the model has conv1 .*{NODE}.*by_names=True .*--by_names"):
        create_model("lenet5", path)
    assert main(["convert", str(path), "--model=lenet5", f"--output={output}"]) == 1
    assert NODE in capsys.readouterr().err and not output.exists()
    assert main(["convert", str(path), "--model=lenet5", f"--output={output}", "--by_names"]) == 0
    kernel = onnx_graphs.arrays(g.model)["conv2.weight"].transpose(2, 3, 1, 0)
    for model in (create_model("lenet5", path, by_names=True), create_model("lenet5", output)):
        np.testing.assert_array_equal(registry.flat_state(model)["conv2.kernel"], kernel)


def test_by_names_past_an_operator_that_is_not_known(tmp_path: Path) -> None:
    g = Surgery(LENET)
    g.first("Tanh").op_type = "Squash"
    path = tmp_path / "model.onnx"
    onnx.save(g.model, str(path))
    with pytest.raises(TransferError, match="'Squash' .* is not supported; its names fit: by_names=True"):
        create_model("lenet5", path)
    assert convert_file(path, "lenet5", tmp_path / "x.safetensors", by_names=True) == 10


def test_names_that_do_not_fit_are_not_advised(tmp_path: Path) -> None:
    g = Surgery(LENET)
    put(g.first("Conv"), pads=[1, 1, 3, 3])
    onnx_graphs.rename(g.model, lambda name: f"renamed {name}")
    onnx.save(g.model, str(tmp_path / "model.onnx"))
    with pytest.raises(TransferError) as raised:
        create_model("lenet5", tmp_path / "model.onnx")
    assert "by_names" not in str(raised.value)
    with pytest.raises(TransferError, match="by .* names|none of its"):
        create_model("lenet5", tmp_path / "model.onnx", by_names=True)


def test_tensors_under_exchanged_names_stay_where_the_graph_has_them(tmp_path: Path) -> None:
    """Two layers of one shape."""
    g = Surgery(RESNET)
    names = {"layer1.0.conv1.weight": "layer1.0.conv2.weight", "layer1.0.conv2.weight": "layer1.0.conv1.weight"}
    onnx_graphs.rename(g.model, lambda name: names.get(name, name))
    path = g.save(tmp_path / "model.onnx")
    assert error(compiled(RESNET)(load(RESNET, path)), expected(RESNET)) <= SAME


# Preprocessing inside the graph.


@pytest.mark.parametrize("most", [1, 255])
def test_the_records_own_preprocessing_in_the_graph(
    most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    g = Surgery(RESNET)
    g.behind(g.image, "Div", g.constant(most * np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)))
    g.behind(g.image, "Sub", g.constant(most * np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)))
    path = g.save(tmp_path / "model.onnx")
    with caplog.at_level("WARNING", logger="absl"):
        model = create_model("resnet18.tv", path, width=1 / 16)
    assert "normalises its images itself" in caplog.text and NODE in caplog.text
    assert error(compiled(RESNET)(model), expected(RESNET)) <= SAME


@pytest.mark.parametrize(("graph", "change", "numbers"), PREPROCESSING, ids=called)
def test_what_a_graph_does_to_its_images_becomes_the_models_preprocessing(
    graph: str,
    change: Callable[[Surgery], None],
    numbers: tuple[Any, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of pixels: what the graph makes of them is what the model makes of them by its preprocessing."""
    g = Surgery(graph)
    change(g)
    with caplog.at_level("INFO", logger="absl"):
        model: Any = load(graph, g.save(tmp_path / "model.onnx"))
    got = run(g.sorted())
    recipe, scale = model.preprocessing, numbers[0]
    np.testing.assert_allclose((recipe.scale, *recipe.mean, *recipe.std), (scale, *numbers[1], *numbers[2]), 1e-6)
    most = 255 if scale == 1 else 1
    assert f"takes them from 0 to {most}" in caplog.text and NODE in caplog.text
    shape = [each.dim_value or 1 for each in g.graph.input[0].type.tensor_type.shape.dim]
    assert recipe.image_size == tuple(shape[2:]) and recipe.channels == ("grey" if shape[1] == 1 else "rgb")
    # as a recipe does, but that the images of this test are no pixels
    given_images = images(tuple(shape)).transpose(0, 2, 3, 1) * (255 / most)
    made = (given_images * recipe.scale - np.array(recipe.mean)) / np.array(recipe.std)
    ours = np.asarray(compiled_for(graph)(model, np.asarray(made, np.float32)))
    assert error(ours, got) <= 10 * SAME


def test_preprocessing_other_than_the_records_is_refused(tmp_path: Path) -> None:
    g = Surgery(RESNET)
    centred(g)
    path = g.save(tmp_path / "model.onnx")
    numbers = r"images \* 2 \+ -1; the preprocessing makes images \* 0.01712 0.01751 0.01743 \+ .* of pixels"
    with pytest.raises(TransferError, match=rf"the graph has .*'{NODE} \d+' \({numbers}\); its names fit: by_names"):
        create_model("resnet18.tv", path, width=1 / 16)
    model: Any = create_model("resnet18.tv", path, width=1 / 16, by_names=True)
    assert model.preprocessing == model.record.preprocessing


def test_channels_that_the_first_kernel_takes_up_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    g = Surgery(RESNET)
    turned_channels(g)
    with caplog.at_level("INFO", logger="absl"):
        model: Any = load(RESNET, g.save(tmp_path / "model.onnx"))
    assert model.preprocessing is None
    assert f"the channels of its images are in the order that Gather '{NODE} 2' turns" in caplog.text
