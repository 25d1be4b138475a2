"""ONNX files that compute for ever, or read elsewhere."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.campaigns.hostile_file import TERA, File, weights, written


def graph(nodes: Sequence[Any], initialisers: Sequence[Any], functions: Sequence[Any] = ()) -> bytes:
    """A model of one convolution, whose kernel `w` the nodes and initialisers make."""
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    convolution = helper.make_node("Conv", ["x", "w"], ["y"])
    made = helper.make_graph([*nodes, convolution], "g", [image], [output], list(initialisers))
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_model(made, functions=list(functions), opset_imports=versions).SerializeToString()


def case(name: str, *says: str, nodes: Any = (), tensors: Any = (), functions: Any = ()) -> File:
    """A model in a file."""
    return File(name, written("a.bin", graph(nodes, tensors, functions)), weights, says)


def tensor(dims: Sequence[int], **fields: Any) -> Any:
    """The initialiser `w`, however it says to be."""
    from onnx import TensorProto

    return TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": dims, **fields})


def elsewhere(location: str, dims: Sequence[int] = (4,), **more: str) -> Any:
    """A tensor in another file."""
    from onnx import TensorProto

    made = tensor(dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        made.external_data.add(key=key, value=value)
    return made


def whole(name: str, *values: int) -> Any:
    """Whole numbers."""
    from onnx import TensorProto, helper

    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def initialisers() -> Iterator[File]:
    """Tensors that are not there."""
    from onnx import TensorProto

    four = bytes(16)
    yield case("a tensor of a terabyte", "damaged", tensors=[tensor([TERA], raw_data=four)])
    yield case("a tensor of more than fits", "damaged", tensors=[tensor([TERA, TERA], raw_data=b"")])
    yield case("a tensor of a negative size", "no array", tensors=[tensor([-1, 4], raw_data=four)])
    yield case("a tensor of no type", "damaged", tensors=[tensor([4], data_type=99, raw_data=four)])
    words = tensor([1], data_type=TensorProto.STRING, string_data=[b"x"])
    yield case("a tensor of text", "no array", tensors=[words])
    for location in ("../secret", "/etc/passwd", "..\\secret", "a/../../secret", "\0", "."):
        yield case(f"numbers in {location!r}", "outside", "beside", tensors=[elsewhere(location)])
    yield case("a terabyte in the file itself", "damaged", tensors=[elsewhere("a.bin", [TERA])])
    yield case("sizes that wrap", "damaged", tensors=[elsewhere("a.bin", [1 << 32, 1 << 32])])
    yield case("a negative length", "no array", tensors=[elsewhere("a.bin", [-4], length="-16")])
    yield case("a negative offset", "damaged", tensors=[elsewhere("a.bin", offset="-8")])


def computed() -> Iterator[File]:
    """Constants that are small and make large ones."""
    from onnx import TensorProto, helper

    node = helper.make_node
    empty = helper.make_graph([], "b", [], [])
    huge, one = [whole("s", TERA)], [whole("s", 1)]
    steps = [whole("a", 0), whole("b", TERA), whole("c", 1)]
    endless = {
        "ConstantOfShape": (node("ConstantOfShape", ["s"], ["w"]), huge),
        "Expand": (node("Expand", ["s", "s"], ["w"]), huge),
        "Tile": (node("Tile", ["s", "s"], ["w"]), huge),
        "Range": (node("Range", ["a", "b", "c"], ["w"]), steps),
        "Loop": (node("Loop", ["s", ""], ["w"], body=empty), huge),
        "MatMul": (node("MatMul", ["s", "s"], ["w"]), one),
        "ImageDecoder": (node("ImageDecoder", ["s"], ["w"]), one),
        "RegexFullMatch": (node("RegexFullMatch", ["s"], ["w"], pattern="(a+)+$"), one),
    }
    for operator, (made, tensors) in endless.items():
        yield case(f"{operator} of constants", operator, nodes=[made], tensors=tensors)
    doubling = [node("Concat", [f"s{i}", f"s{i}"], [f"s{i + 1}"], axis=0) for i in range(60)]
    last = node("Identity", ["s60"], ["w"])
    yield case("doubling sixty times", "Concat", nodes=[*doubling, last], tensors=[whole("s0", 1)])
    zeros = np.zeros(10_000)
    row, column = (
        helper.make_tensor(name, TensorProto.FLOAT, dims, zeros)
        for name, dims in (("a", [1, len(zeros)]), ("b", [len(zeros), 1]))
    )
    yield case("a row and a column", "Add", nodes=[node("Add", ["a", "b"], ["w"])], tensors=[row, column])
    chain = [node("Identity", [f"c{i}"], [f"c{i + 1}"]) for i in range(20_000)]
    last = node("Identity", ["c20000"], ["w"])
    said = ("Recursion", "cannot compute")
    yield case("a chain of twenty thousand", *said, nodes=[*chain, last], tensors=[whole("c0", 1)])
    secret = elsewhere("/etc/passwd")
    yield case("a Constant that lies elsewhere", "not in it", nodes=[node("Constant", [], ["w"], value=secret)])


def functions() -> Iterator[File]:
    """Functions of the model's own that multiply."""
    from onnx import helper

    node, versions = helper.make_node, [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]

    def function(name: str, *nodes: Any) -> Any:
        return helper.make_function("f", name, ["i"], ["o"], list(nodes), versions)

    laughs = [function("f0", node("Identity", ["i"], ["o"]))]
    for level in range(60):
        below = f"f{level}"
        twice = (node(below, ["i"], ["m"], domain="f"), node(below, ["m"], ["o"], domain="f"))
        laughs.append(function(f"f{level + 1}", *twice))
    yield case("functions that laugh", "nodes", nodes=[node("f60", ["x"], ["w"], domain="f")], functions=laughs)
    selfish = function("g", node("g", ["i"], ["o"], domain="f"))
    use = [node("g", ["x"], ["w"], domain="f")]
    yield case("a function that calls itself", "calls itself", nodes=use, functions=[selfish])
    others = [function("g", node("h", ["i"], ["o"], domain="f")), function("h", node("g", ["i"], ["o"], domain="f"))]
    yield case("functions that call each other", "calls itself", nodes=use, functions=others)


def files() -> list[File]:
    """All of them."""
    return [*initialisers(), *computed(), *functions()]
