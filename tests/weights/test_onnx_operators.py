"""Operators of ONNX in the spelling of older and of newer versions: attributes that became inputs mean the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from transfer.weights.onnx.units import Unit
from transfer.weights.readers import onnx_file

KERNEL = np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3)
Node = tuple[str, dict[str, Any], tuple[Any, ...]]  # operator, attributes, constants that are its further inputs
CONVOLUTION: Node = ("Conv", {"kernel_shape": [3, 3]}, (KERNEL,))


def units(path: Path, version: int, *nodes: Node, side: int = 7) -> list[Unit]:
    """The units of a graph of nodes one after the other, from images (1, 3, side, side) on."""
    stored, made = [], []
    for number, (operator, attributes, constants) in enumerate(nodes):
        names = [f"c{number}_{i}" for i in range(len(constants))]
        stored += [numpy_helper.from_array(np.asarray(c), name) for c, name in zip(constants, names, strict=True)]
        inputs = [f"y{number}" if number else "images", *names]
        made.append(helper.make_node(operator, inputs, [f"y{number + 1}"], f"node{number}", **attributes))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])
    output = helper.make_tensor_value_info(f"y{len(nodes)}", TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "graph", [images], [output], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)]), path)
    read = onnx_file.read(path).graph
    assert read.problem is None, read.problem
    return read.units


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


# What is done -> its node in an older version and in a newer one, and the operation of the unit that it is.
SPELLINGS: dict[str, tuple[tuple[int, Node], tuple[int, Node], str]] = {
    "the order of channels": (
        (9, ("Slice", {"axes": [1], "starts": [1], "ends": [2]}, ())),
        (13, ("Slice", {}, (integers(1), integers(2), integers(1)))),
        "images",
    ),
    "every second row": (
        (9, ("Slice", {"axes": [2], "starts": [3], "ends": [4]}, ())),
        (13, ("Slice", {}, (integers(3), integers(4), integers(2), integers(1)))),
        "max_pool",
    ),
    "a mean": (
        (11, ("ReduceMean", {"axes": [2, 3], "keepdims": 1}, ())),
        (18, ("ReduceMean", {"keepdims": 1}, (integers(2, 3),))),
        "average",
    ),
    "limits from 0 to 6": (
        (6, ("Clip", {"min": 0.0, "max": 6.0}, ())),
        (13, ("Clip", {}, (np.float32(0), np.float32(6)))),
        "relu6",
    ),
}


@pytest.mark.parametrize(("older", "newer", "operation"), SPELLINGS.values(), ids=SPELLINGS)
def test_an_operator_means_the_same_in_both_spellings(older: Any, newer: Any, operation: str, tmp_path: Path) -> None:
    made = [units(tmp_path / "x.onnx", version, node) for version, node in (older, newer)]
    first, second = ([(unit.op, unit.inputs, unit.about) for unit in each] for each in made)
    assert first == second and first[-1][0] == operation


@pytest.mark.parametrize("groups", [1, 3])
def test_groups_of_a_convolution(groups: int, tmp_path: Path) -> None:
    kernel = np.zeros((6, 3 // groups, 3, 3), np.float32)
    unit = units(tmp_path / "x.onnx", 13, ("Conv", {"group": groups}, (kernel,)))[-1]
    assert unit.op == "conv" and unit.about[2] == groups


def padded_twice(path: Path, first: float, second: float) -> list[Unit]:
    """A pool behind rows put beside the map by two nodes, one at its top with one value, three around with another."""
    nodes = [
        ("Pad", {}, (integers(0, 0, low, 0, 0, 0, high, 0), np.float32(value)))
        for low, high, value in ((1, 0, first), (1, 2, second))
    ]
    return units(path, 13, *nodes, ("MaxPool", {"kernel_shape": [2, 2]}, ()))


@pytest.mark.parametrize("value", [0.0, -np.inf])
def test_values_that_are_put_beside_twice_are_one_padding(value: float, tmp_path: Path) -> None:
    once: Node = ("Pad", {}, (integers(0, 0, 2, 0, 0, 0, 2, 0), np.float32(value)))
    single = units(tmp_path / "x.onnx", 13, once, ("MaxPool", {"kernel_shape": [2, 2]}, ()))
    assert padded_twice(tmp_path / "x.onnx", value, value)[-1].about == single[-1].about


def test_two_values_beside_a_map_are_in_no_model(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Pad 'node1' crops, mirrors, or pads other than height and width"):
        padded_twice(tmp_path / "x.onnx", 0.0, -np.inf)


def test_channels_by_the_gather_of_pytorchs_newer_exporter(tmp_path: Path) -> None:
    """`x[:, [2, 1, 0]]`: the axes exchanged, positions with an axis of their own, and back."""
    turn: Node = ("Transpose", {"perm": [1, 0, 2, 3]}, ())
    nodes = (turn, ("GatherND", {}, (integers(2, 1, 0).reshape(3, 1),)), turn)
    unit = units(tmp_path / "x.onnx", 18, *nodes, CONVOLUTION)[-2]
    assert unit.op == "images" and list(unit.parts["view"].channels) == [2, 1, 0]
    for positions, attributes in ((integers(2, 1, 0).reshape(1, 3), {}), (integers(0), {})):
        with pytest.raises(AssertionError, match="GatherND 'node1' takes other than positions of one axis"):
            units(tmp_path / "x.onnx", 18, turn, ("GatherND", attributes, (positions,)), turn, CONVOLUTION)


@pytest.mark.parametrize(("version", "outputs"), [(9, 5), (13, 5), (14, 3)])
def test_a_batch_norm_in_training_mode(version: int, outputs: int, tmp_path: Path) -> None:
    """Before version 14 of the operators only the number of its outputs says it."""
    attributes = {"training_mode": 1} if version == 14 else {}
    names = ["y", *(f"more{i}" for i in range(1, outputs))]
    node = helper.make_node("BatchNormalization", ["images", *"abcd"], names, "norm", **attributes)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 7, 7])
    stored = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in "abcd"]
    graph = helper.make_graph([node], "graph", [images], [helper.make_empty_tensor_value_info("y")], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)]), tmp_path / "x.onnx")
    problem = onnx_file.read(tmp_path / "x.onnx").graph.problem
    assert str(problem) == "BatchNormalization 'norm' is exported in training mode"


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_constants_are_computed_by_the_files_version_of_the_operators(domain: str, tmp_path: Path) -> None:
    """Axes as an attribute, as before version 13."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], "gather"),
        helper.make_node("Unsqueeze", ["batch"], ["first"], "unsqueeze", axes=[0]),
        helper.make_node("Concat", ["first", "rest"], ["all"], "concat", axis=0),
        helper.make_node("Reshape", ["images", "all"], ["y"], "reshape"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [2, 3, 7, 7])
    stored = [
        numpy_helper.from_array(array, name) for array, name in ((np.int64(0), "zero"), (integers(3, 7, 7), "rest"))
    ]
    graph = helper.make_graph(nodes, "graph", [images], [helper.make_empty_tensor_value_info("y")], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 11)]), tmp_path / "x.onnx")
    assert onnx_file.read(tmp_path / "x.onnx").graph.problem is None
