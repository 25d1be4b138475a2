"""A whole Keras model, by its configuration, as the units that an ONNX graph is read as: one comparison serves both.

A layer is an operator of ONNX or a few, on maps whose channels come last. The configuration is data from anybody: no
code in it is run, and what is not known here, or makes no sense, leaves what follows it without a meaning.
"""

import dataclasses
import functools
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, printable
from transfer.weights.onnx.operators import OPERATORS, SOFTMAX_LAST_AXIS
from transfer.weights.onnx.reading import (
    CHANNELS_LAST,
    LARGEST_SIDE,
    Data,
    GraphUnits,
    ImageShape,
    OnnxNode,
    UnsupportedNode,
)

# Models in models, and layers that are called, in one file.
DEEPEST, MOST_CALLS = 30, 20_000
PADDING = {"valid": b"VALID", "same": b"SAME_UPPER"}
SHAPES = ("batch_shape", "batch_input_shape", "build_input_shape")
# Of a layer's arguments those that are values; the rest are names and modes.
VALUES = ("y", "x2", "bias", "slice_spec", "axis", "dtype")
# Operators that take channels first.
ON_MAPS = ("Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
# Layers that do nothing to an image once trained.
IDLE = {"Identity", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization"}
IDLE |= {f"Random{what}" for what in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Shear")}
IDLE |= {f"Random{what}" for what in ("Height", "Width", "Crop", "Hue", "Saturation", "Sharpness", "Grayscale")}


class Layer(NamedTuple):
    """A layer that is called.

    Attributes:
      graph: what it adds its units to.
      kind: its class, or the function that it stands for.
      path: the names of the models that it lies in, and its own.
      config: as in the file.
      variables: its weights by name.
    """

    graph: GraphUnits
    kind: str
    path: tuple[str, ...]
    config: Mapping[str, Any]
    variables: Mapping[str, np.ndarray]

    @property
    def title(self) -> str:
        """The layer in messages: its name and its class."""
        return f"{printable(self.path[-1])} ({printable(self.kind)})"

    def problem(self, text: str) -> UnsupportedNode:
        """The error of this layer, to be raised."""
        return UnsupportedNode(f"{self.title} {text}")

    def weights(self, **wanted: bool) -> Mapping[str, np.ndarray]:
        """The weights by name, which must be those that are `wanted`."""
        names = [name for name, is_wanted in wanted.items() if is_wanted]
        if set(names) != self.variables.keys():
            there = ", ".join(map(printable, self.variables)) or "none"
            raise self.problem(f"has the weights {there}, its configuration says {', '.join(names)}")
        return self.variables

    def do(self, op: str, *inputs: Any, **attributes: Any) -> Data:
        """The output of an operator of ONNX, which the layer is or has as a part; its axes are those of Keras."""
        if not any(isinstance(each, Data) for each in inputs):
            raise self.problem("takes what does not depend on the images")
        given: list[Any] = [each if isinstance(each, Data) or each is None else _constant(each) for each in inputs]
        if op not in ON_MAPS:
            return OPERATORS[op](OnnxNode(self.graph, op, self.title, given, attributes))  # type: ignore[return-value]
        batch, *sides, channels = given[0].axes
        given[0] = dataclasses.replace(given[0], axes=(batch, channels, *sides))
        value: Any = OPERATORS[op](OnnxNode(self.graph, op, self.title, given, attributes))
        batch, channels, *sides = value.axes
        return dataclasses.replace(value, axes=(batch, *sides, channels))


def _constant(value: Any) -> Callable[[], np.ndarray]:
    return functools.partial(np.asarray, value)


class KerasUnits(GraphUnits):
    """The units of a Keras model for images of one shape.

    Attributes:
      owners: of each unit, the layer that it is of.
      calls: layers in the order of their calls, with the unit that each gives; None where it has no meaning.
    """

    def __init__(self, model: Any, tensors: Mapping[str, np.ndarray], image_shape: ImageShape) -> None:
        super().__init__(image_shape, SOFTMAX_LAST_AXIS)
        self.owners: list[Layer | None] = []
        self.calls: list[tuple[Layer, int | None]] = []
        self.weights: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in tensors.items():
            layer, _, variable = name.rpartition("/")
            self.weights.setdefault(layer, {})[variable] = tensor
        self.end(self._model(model, ()))

    def _model(self, model: Mapping[str, Any], path: tuple[str, ...], inputs: Sequence[Any] = ()) -> list[Any]:
        """The outputs of a model that is called with `inputs`; none: with the images."""
        if len(path) > DEEPEST:
            raise TransferError(f"refused: models in models more than {DEEPEST} deep")
        config = model["config"]
        layers = config if isinstance(config, list) else config["layers"]  # a list in Keras 1
        if model.get("class_name") == "Sequential":
            for layer in layers:
                if layer["class_name"] != "InputLayer":
                    inputs = self._called(layer, path, inputs or [self._images(model)])
            return list(inputs)
        values: dict[tuple[str, int], list[Any]] = {}
        given = dict(zip((key for key, _ in references(config["input_layers"])), inputs, strict=False))
        calls: dict[tuple[str, int], Any] = {}
        shifted: set[str] = set()
        for layer in layers:
            if layer["class_name"] == "InputLayer":
                key = (layer["config"]["name"], 0)
                values[key] = [given[key] if key in given else self._images(layer)]
            inner = not isinstance(layer["config"], Mapping) or "layers" in layer["config"]
            nodes, name = layer["inbound_nodes"], str(layer.get("name") or layer["config"]["name"])
            # a model's own call, on its own images, counts in Keras 2 everywhere, and in Keras 3 among the outputs
            first = int(inner and all(isinstance(node, list) for node in nodes))
            shifted |= {name} if inner and not first and layer["class_name"] != "Sequential" else set()
            calls |= {(name, number): (layer, node) for number, node in enumerate(nodes, first)}
        order = graphlib.TopologicalSorter({key: {k for k, _ in references(node)} for key, (_, node) in calls.items()})
        for key in order.static_order():
            if key in calls and key not in values:
                layer, node = calls[key]
                values[key] = self._called(layer, path, _arguments(node, values))
        outputs = references(config["output_layers"])
        return [values[name, call - (name in shifted)][number] for (name, call), number in outputs]

    def _images(self, layer: Mapping[str, Any]) -> Data | UnsupportedNode:
        """The images; another kind of input has no meaning here."""
        config = layer["config"]
        shape = next((config[key] for key in SHAPES if key in config), None)
        if shape is not None and len(shape) != 4:
            return UnsupportedNode(f"it takes {printable(config['name'])}, which is no image")
        return self.images("the images", CHANNELS_LAST)

    def _called(self, row: Mapping[str, Any], path: tuple[str, ...], arguments: Sequence[Any]) -> list[Any]:
        """The outputs of a layer, or of a model that is one."""
        config, kind = row["config"], str(row["class_name"])
        if isinstance(config, list) or "layers" in config:
            name = row.get("name") or (kind if isinstance(config, list) else config["name"])
            return self._model(row, (*path, str(name)), arguments)
        path = (*path, str(config["name"]))
        kind = FUNCTIONS.get(str(config["function"]), kind) if "function" in config else kind
        layer = Layer(self, kind, path, config, self._variables(path))
        problem = next((each for each in _flat(arguments) if isinstance(each, UnsupportedNode)), None)
        try:
            if problem is not None:
                raise problem
            if kind not in LAYERS:
                raise layer.problem(
                    "holds code, which is not run" if kind == "Lambda" else "is of a class that is not known here"
                )
            if config.get("data_format") == "channels_first":
                raise layer.problem("takes its channels first, no model here does that")
            value: Any = LAYERS[kind](layer, *arguments)
        except UnsupportedNode as error:
            value = error
        except DAMAGE_ERRORS as error:
            value = layer.problem(f"has a configuration that makes no sense ({error_summary(error)})")
        self.calls.append((layer, value.unit if isinstance(value, Data) else None))
        self.owners += [layer] * (len(self.units) - len(self.owners))
        if len(self.calls) > MOST_CALLS:
            raise TransferError(f"refused: it calls layers more than {MOST_CALLS} times")
        return [value]

    def _variables(self, path: tuple[str, ...]) -> Mapping[str, np.ndarray]:
        """The weights of a layer: by its own name, or with those of the models that it lies in."""
        names = (path[-1], "/".join(path), f"{path[0]}/{path[-1]}")
        return next((self.weights[name] for name in names if name in self.weights), {})


def image_shape(model: Any) -> ImageShape:
    """(height, width, channels) of the first images that a model says it takes; 0 for what it leaves open."""
    for config in _configs(model, 0):
        for key in SHAPES:
            shape = config.get(key)
            if isinstance(shape, list) and len(shape) == 4:
                height, width, channels = (side if isinstance(side, int) and side > 0 else 0 for side in shape[1:])
                return min(height, LARGEST_SIDE), min(width, LARGEST_SIDE), channels
    return 0, 0, 0


def _configs(model: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    config = model.get("config") if isinstance(model, Mapping) else None
    layers = config.get("layers") if isinstance(config, Mapping) else config
    if isinstance(config, Mapping) and layers is None:
        yield config
    for layer in layers if isinstance(layers, list) and depth < DEEPEST else ():
        yield from _configs(layer, depth + 1)
    if isinstance(config, Mapping) and layers is not None:
        yield config


def _flat(value: Any) -> Iterator[Any]:
    """All that lies in lists in lists, and in the values of dicts."""
    if isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _flat(each)
    else:
        yield value


def references(value: Any) -> Iterator[tuple[tuple[str, int], int]]:
    """The outputs ((layer, call), number) that a node of a configuration takes, in their order."""
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and _are_counts(value[1:3]):
        yield (value[0], value[1]), value[2]
        value = value[3:]  # Keras 2 has the other arguments here
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from references(each)


def _are_counts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


def _arguments(node: Any, values: Mapping[tuple[str, int], Sequence[Any]]) -> list[Any]:
    """What a call is given: `values`, constants, and what says which part is taken."""

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(each) for each in value]
        kind = value.get("class_name") if isinstance(value, Mapping) else None
        if kind == "__keras_tensor__":
            ((key, number),) = references(value["config"]["keras_history"])
            return values[key][number]
        if kind in ("__tensor__", "__numpy__"):
            return np.asarray(value["config"]["value"], np.float64)
        if kind == "__ellipsis__":
            return ...
        if kind == "__tuple__":
            return read(value["items"])
        if kind == "__slice__" or (isinstance(value, Mapping) and value.keys() == {"start", "stop", "step"}):
            limits = value["config"] if kind else value
            return slice(limits["start"], limits["stop"], limits["step"])
        return value

    if isinstance(node, Mapping):  # Keras 3
        kept = [read(value) for name, value in node["kwargs"].items() if name in VALUES]
        return [read(value) for value in node["args"]] + kept
    inputs, kept = [], []
    for name, call, number, *more in node:
        inputs.append(values[name, call][number])
        kept += [read(value) for each in more for key, value in each.items() if key in VALUES]
    return [inputs if inputs[1:] else inputs[0], *kept]


def _arithmetic(op: str, layer: Layer, *values: Any) -> Data:
    """A sum, difference, product or quotient of maps, or of a map and numbers."""
    first, *others = values[0] if isinstance(values[0], list) and len(values) == 1 else values
    for second in others:
        first = layer.do(op, first, second)
    return first


def _activated(layer: Layer, data: Data, function: Any = None) -> Data:
    """What an activation makes of the output of a layer; one that no model has is a step with its name."""
    function = layer.config.get("activation") if function is None else function
    function = function.get("config") if isinstance(function, Mapping) else function
    if function in (None, "linear"):
        return data
    layer = layer._replace(path=(*layer.path[:-1], f"{function} of {layer.path[-1]}"))
    if function in ACTIVATIONS:
        op, *limits = ACTIVATIONS[function]
        return layer.do(op, data, *limits)
    return OnnxNode(layer.graph, "", layer.title, [data], {}).step(f"activation {function}")


def _convolution(layer: Layer, data: Data) -> Data:
    config = layer.config
    weights = layer.weights(kernel=True, bias=config.get("use_bias", True))
    kernel, groups = weights["kernel"], config.get("groups", 1)
    if layer.kind == "DepthwiseConv2D":
        height, width, groups, multiplier = kernel.shape
        kernel = kernel.reshape(height, width, 1, groups * multiplier)
    strides, dilations, padding = config["strides"], config.get("dilation_rate", (1, 1)), PADDING[config["padding"]]
    attributes = dict(strides=strides, dilations=dilations, group=groups, auto_pad=padding)
    return _activated(layer, layer.do("Conv", data, kernel.transpose(3, 2, 0, 1), weights.get("bias"), **attributes))


def _dense(layer: Layer, data: Data) -> Data:
    weights = layer.weights(kernel=True, bias=layer.config.get("use_bias", True))
    return _activated(layer, layer.do("Gemm", data, weights["kernel"], weights.get("bias")))


def _batch_norm(layer: Layer, data: Data) -> Data:
    config = layer.config
    _require_channels(layer, data)
    own = dict(gamma=config.get("scale", True), beta=config.get("center", True))
    weights = layer.weights(**own, moving_mean=True, moving_variance=True)
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    scale, shift = weights.get("gamma", np.ones_like(mean)), weights.get("beta", np.zeros_like(mean))
    return layer.do("BatchNormalization", data, scale, shift, mean, variance, epsilon=float(config["epsilon"]))


def _require_channels(layer: Layer, data: Data) -> None:
    """Raises UnsupportedNode for a layer that works on another axis than the last."""
    axes = layer.config.get("axis", -1)
    for axis in axes if isinstance(axes, list) else [axes]:
        if axis not in (-1, len(data.axes) - 1):
            raise layer.problem(f"works on axis {printable(axis)}, not on channels")


def _pool(op: str, layer: Layer, data: Data) -> Data:
    size = layer.config["pool_size"]
    strides, padding = layer.config.get("strides") or size, PADDING[layer.config["padding"]]
    return layer.do(op, data, kernel_shape=size, strides=strides, auto_pad=padding)


def _global_pool(op: str, layer: Layer, data: Data) -> Data:
    pooled = layer.do(op, data)
    return pooled if layer.config.get("keepdims") else layer.do("Flatten", pooled)


def _zero_padding(layer: Layer, data: Data) -> Data:
    (top, bottom), (left, right) = layer.config["padding"]
    return layer.do("Pad", data, pads=[0, top, left, 0, 0, bottom, right, 0])


def _joined(layer: Layer, parts: Sequence[Data], axis: Any = None) -> Data:
    """Parts joined along an axis, which is a new one of those that are stacked."""
    axis = layer.config.get("axis", -1) if axis is None else axis
    parts = [layer.do("Unsqueeze", part, [axis]) for part in parts] if layer.kind == "Stack" else parts
    return layer.do("Concat", *parts, axis=axis)


def _rescaled(layer: Layer, data: Data) -> Data:
    return layer.do("Add", layer.do("Mul", data, layer.config["scale"]), layer.config.get("offset", 0))


def _normalised(layer: Layer, data: Data) -> Data:
    """A Normalization, whose numbers are in its configuration or were learned."""
    if layer.config.get("invert"):
        raise layer.problem("is the inverse of one, no model here has that")
    _require_channels(layer, data)
    numbers: list[Any] = []
    for number, name in enumerate(("mean", "variance")):
        value = layer.config.get(name)
        numbers.append(layer.variables.get(name, layer.variables.get(str(number))) if value is None else value)
    mean, variance = numbers
    return layer.do("Div", layer.do("Sub", data, mean), np.maximum(np.sqrt(variance), 1e-7))


def _part(layer: Layer, data: Data, index: Any) -> Data:
    """A part of a map: `x[..., ::-1]`, `x[:, 1:-1]`, `x[..., 0]`."""
    index = index if isinstance(index, list) else [index]
    if ... in index:
        gap = index.index(...)
        index = index[:gap] + [slice(None)] * (len(data.axes) - len(index) + 1) + index[gap + 1 :]
    axis = 0
    for taken in index:
        positions = np.asarray(range(data.shape[axis])[taken])
        data = layer.do("Gather", data, positions, axis=axis)
        axis += positions.ndim
    return data


def _turned(layer: Layer, data: Data, axis: Any = None) -> Data:
    axis = layer.config.get("axis", axis)
    (axis,) = axis if isinstance(axis, list) else (axis,)
    return layer.do("Gather", data, range(data.shape[axis])[::-1], axis=axis)


def _cast(layer: Layer, data: Data, dtype: Any = None) -> Data:
    if "float" not in str(dtype or layer.config.get("dtype", "float")):
        raise layer.problem("makes whole numbers")
    return data


def _limited(layer: Layer, data: Data) -> Data:
    limits = [layer.config.get(name) or 0 for name in ("max_value", "negative_slope", "threshold")]
    plain = "relu" if limits == [0, 0, 0] else "relu6" if limits == [6, 0, 0] else None
    return _activated(layer, data, plain or f"relu of {limits}")


LAYERS: Mapping[str, Callable[..., Data]] = {
    **dict.fromkeys(IDLE, lambda layer, data, *rest: data),
    **dict.fromkeys(("Conv2D", "Convolution2D", "DepthwiseConv2D"), _convolution),
    **{name: functools.partial(_arithmetic, op) for name, op in (("Add", "Add"), ("Subtract", "Sub"))},
    **{name: functools.partial(_arithmetic, op) for name, op in (("Multiply", "Mul"), ("TrueDivide", "Div"))},
    "Divide": functools.partial(_arithmetic, "Div"),
    "Activation": _activated,
    "Softmax": lambda layer, data, *rest: layer.do("Softmax", data, axis=layer.config.get("axis", -1)),
    "ReLU": _limited,
    "AveragePooling2D": functools.partial(_pool, "AveragePool"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    **dict.fromkeys(("Concatenate", "Stack"), _joined),
    "Dense": _dense,
    "Flatten": lambda layer, data: layer.do("Flatten", data),
    "Flip": _turned,
    "GetItem": _part,
    "GlobalAveragePooling2D": functools.partial(_global_pool, "GlobalAveragePool"),
    "GlobalMaxPooling2D": functools.partial(_global_pool, "GlobalMaxPool"),
    "MaxPooling2D": functools.partial(_pool, "MaxPool"),
    "Normalization": _normalised,
    "Rescaling": _rescaled,
    "Reshape": lambda layer, data: layer.do("Reshape", data, [data.shape[0], *layer.config["target_shape"]]),
    "ZeroPadding2D": _zero_padding,
}
ACTIVATIONS: Mapping[str, tuple[Any, ...]] = {
    **{name: (name.capitalize(),) for name in ("relu", "sigmoid", "tanh", "softmax")},
    "relu6": ("Clip", 0.0, 6.0),
}
# Keras 2 writes TensorFlow's functions by their names.
FUNCTIONS = {"__operators__.getitem": "GetItem", "nn.bias_add": "Add", "cast": "Cast", "reverse": "Flip"}
FUNCTIONS |= {"stack": "Stack", "concat": "Concatenate", "math.truediv": "TrueDivide", "math.divide": "TrueDivide"}
FUNCTIONS |= {"math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply"}
FUNCTIONS |= {"__operators__.add": "Add", "__operators__.sub": "Subtract", "__operators__.mul": "Multiply"}
FUNCTIONS |= {"__operators__.truediv": "TrueDivide"}
