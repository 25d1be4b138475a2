"""A whole Keras model, by its configuration, as the units that an ONNX graph is read as: one comparison serves both.

A layer is an operator of ONNX or a few. The configuration is data from anybody: no code in it is run, and what is not
known here, or makes no sense, leaves what follows it without a meaning.
"""

import functools
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, printable
from transfer.weights.onnx.images import View
from transfer.weights.onnx.operators import OPERATORS, SOFTMAX_LAST_AXIS, selected
from transfer.weights.onnx.reading import (
    AFTER_THE_LAST_LAYER,
    LARGEST_SIDE,
    OPEN_BATCH,
    Data,
    GraphUnits,
    ImageShape,
    OnnxNode,
    UnsupportedNode,
)
from transfer.weights.onnx.units import Unit, Units

# Models in models, and layers that are called, in one file.
DEEPEST, MOST_CALLS = 30, 20_000
# Keras' axes of a map where ONNX has channels first.
CHANNELS_LAST = (0, 2, 3, 1)
PADDING = {"valid": b"VALID", "same": b"SAME_UPPER"}
SHAPES = ("batch_shape", "batch_input_shape", "build_input_shape")
# Of a layer's arguments those that are values; the rest are names, types and modes.
VALUES = ("y", "x2", "bias", "slice_spec", "axis")
# Layers that do nothing to an image once trained.
IDLE = {"Identity", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization"}
IDLE |= {f"Random{what}" for what in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Shear")}
IDLE |= {f"Random{what}" for what in ("Height", "Width", "Crop", "Hue", "Saturation", "Sharpness", "Grayscale")}


class Layer(NamedTuple):
    """A layer that is called.

    Attributes:
      kind: its class, or the function that it stands for.
      path: the names of the models that it lies in, and its own.
      config: as in the file.
      variables: its weights by name.
    """

    kind: str
    path: tuple[str, ...]
    config: Mapping[str, Any]
    variables: Mapping[str, np.ndarray]

    @property
    def title(self) -> str:
        """The layer in messages: its name and its class."""
        return f"{printable(self.path[-1])} ({printable(self.kind)})"

    def weights(self, *names: str) -> list[np.ndarray]:
        """The weights of these names, which must be all."""
        if set(names) != self.variables.keys():
            there = ", ".join(map(printable, self.variables)) or "none"
            raise UnsupportedNode(f"{self.title} has the weights {there}, its configuration says {', '.join(names)}")
        return [self.variables[name] for name in names]


class KerasUnits(GraphUnits):
    """The units of a Keras model for images of one shape.

    Attributes:
      owners: of each unit, the layer that it is of.
      calls: layers in the order of their calls, with the unit that each gives; None where it has no meaning.
      end: position of the first output as it is; `outputs` are before a last softmax.
      activation: the function that the model ends with, empty if that is none of `AFTER_THE_LAST_LAYER`.
    """

    def __init__(self, model: Any, tensors: Mapping[str, np.ndarray], image_shape: ImageShape) -> None:
        Units.__init__(self)
        self.image_shape, self.version, self.taps, self.is_consistent = image_shape, SOFTMAX_LAST_AXIS, 0, True
        self.owners: list[Layer | None] = []
        self.calls: list[tuple[Layer, int | None]] = []
        self.weights: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in tensors.items():
            layer, _, variable = name.rpartition("/")
            self.weights.setdefault(layer, {})[variable] = tensor
        values = self._model(model, ())
        data = [value for value in values if isinstance(value, Data)]
        self.problem = next((value for value in values if isinstance(value, UnsupportedNode)), None)
        self.outputs, self.activation = [value.unit for value in data], ""
        self.end = self.outputs[0] if data else None
        while self.outputs and self.units[self.outputs[0]].op in AFTER_THE_LAST_LAYER:
            self.activation = self.units[self.outputs[0]].op
            self.outputs[0] = self.units[self.outputs[0]].inputs[0]

    def value(self, name: Any) -> Any:
        """The value itself: operators are given values here, not names."""
        return name

    def do(self, op: str, layer: Layer, *inputs: Any, **attributes: Any) -> Data:
        """The output of an operator of ONNX, which a layer is or has as a part."""
        given = [
            each if isinstance(each, Data) or each is None else functools.partial(np.asarray, each) for each in inputs
        ]
        return OPERATORS[op](OnnxNode(self, op, layer.title, given, attributes))  # type: ignore[return-value]

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
        height, width, channels = self.image_shape
        if shape is not None and len(shape) != 4:
            return UnsupportedNode(f"it takes {printable(config['name'])}, which is no image")
        sizes = dict(b=OPEN_BATCH, c=channels, h=height, w=width)
        unit = Unit("input", "the images", about=(channels,), parts=dict(view=View.of(channels)))
        return Data(self.add(unit), sizes)

    def _called(self, row: Mapping[str, Any], path: tuple[str, ...], arguments: Sequence[Any]) -> list[Any]:
        """The outputs of a layer, or of a model that is one."""
        config, kind = row["config"], str(row["class_name"])
        if isinstance(config, list) or "layers" in config:
            name = row.get("name") or (kind if isinstance(config, list) else config["name"])
            return self._model(row, (*path, str(name)), arguments)
        path = (*path, str(config["name"]))
        kind = FUNCTIONS.get(str(config["function"]), kind) if "function" in config else kind
        layer = Layer(kind, path, config, self._variables(path))
        problem = next((each for each in _flat(arguments) if isinstance(each, UnsupportedNode)), None)
        try:
            if problem is not None:
                raise problem
            if kind not in LAYERS:
                code = "holds code, which is not run" if kind == "Lambda" else "is of a class that is not known here"
                raise UnsupportedNode(f"{layer.title} {code}")
            if config.get("data_format") == "channels_first":
                raise UnsupportedNode(f"{layer.title} takes its channels first, no model here does that")
            value: Any = LAYERS[kind](self, layer, *arguments)
        except UnsupportedNode as error:
            value = error
        except DAMAGE_ERRORS as error:
            value = UnsupportedNode(f"{layer.title} has a configuration that makes no sense ({error_summary(error)})")
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


def _by_channel(layer: Layer, data: Data, value: Any) -> np.ndarray:
    """One number, or one for each channel, as ONNX's operators take it."""
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return array.reshape(())
    if array.ndim > len(data.axes) or array.size != array.shape[-1]:
        raise UnsupportedNode(f"{layer.title} takes numbers of shape {array.shape}, not one for each channel")
    return array.reshape(-1, *[1] * (len(data.axes) - 2))


def _arithmetic(op: str, units: KerasUnits, layer: Layer, *values: Any) -> Data:
    """A sum, difference, product or quotient of maps, or of a map and numbers."""
    first, *others = values[0] if isinstance(values[0], list) and len(values) == 1 else values
    for second in others:
        data = first if isinstance(first, Data) else second
        pair = [each if isinstance(each, Data) else _by_channel(layer, data, each) for each in (first, second)]
        first = units.do(op, layer, *pair)
    return first


def _activated(units: KerasUnits, layer: Layer, data: Data, function: Any = None) -> Data:
    function = layer.config.get("activation") if function is None else function
    function = function.get("config") if isinstance(function, Mapping) else function
    if function in (None, "linear"):
        return data
    name = str(function)
    known = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}
    return (
        units.do(known[name], layer, data) if name in known else OnnxNode(units, "", layer.title, [data], {}).step(name)
    )


def _convolution(units: KerasUnits, layer: Layer, data: Data) -> Data:
    config = layer.config
    kernel, *bias = layer.weights("kernel", *(["bias"] if config.get("use_bias", True) else []))
    groups = config.get("groups", 1)
    if layer.kind == "DepthwiseConv2D":
        height, width, groups, multiplier = kernel.shape
        kernel = kernel.reshape(height, width, 1, groups * multiplier)
    strides, dilations, padding = config["strides"], config.get("dilation_rate", (1, 1)), PADDING[config["padding"]]
    attributes = dict(strides=strides, dilations=dilations, group=groups, auto_pad=padding)
    value = units.do("Conv", layer, data, kernel.transpose(3, 2, 0, 1), *bias, **attributes)
    return _activated(units, layer, value)


def _dense(units: KerasUnits, layer: Layer, data: Data) -> Data:
    weights = layer.weights("kernel", *(["bias"] if layer.config.get("use_bias", True) else []))
    return _activated(units, layer, units.do("Gemm", layer, data, *weights))


def _batch_norm(units: KerasUnits, layer: Layer, data: Data) -> Data:
    config = layer.config
    _last_axis(layer, data, config.get("axis", -1))
    own = {"gamma": config.get("scale", True), "beta": config.get("center", True)}
    names = [name for name in own if own[name]] + ["moving_mean", "moving_variance"]
    given = dict(zip(names, layer.weights(*names), strict=True))
    mean = given["moving_mean"]
    scale, shift = given.get("gamma", np.ones_like(mean)), given.get("beta", np.zeros_like(mean))
    variance = given["moving_variance"]
    return units.do("BatchNormalization", layer, data, scale, shift, mean, variance, epsilon=float(config["epsilon"]))


def _last_axis(layer: Layer, data: Data, axis: Any) -> None:
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, len(data.axes) - 1):
        raise UnsupportedNode(f"{layer.title} works on axis {printable(axis)}, not on channels")


def _pool(op: str, units: KerasUnits, layer: Layer, data: Data) -> Data:
    size = layer.config["pool_size"]
    strides, padding = layer.config.get("strides") or size, PADDING[layer.config["padding"]]
    return units.do(op, layer, data, kernel_shape=size, strides=strides, auto_pad=padding)


def _global_pool(op: str, units: KerasUnits, layer: Layer, data: Data) -> Data:
    pooled = units.do(op, layer, data)
    return pooled if layer.config.get("keepdims") else units.do("Flatten", layer, pooled)


def _flatten(units: KerasUnits, layer: Layer, data: Data) -> Data:
    if len(data.axes) == 4:
        data = OnnxNode(units, "", layer.title, (), {}).turning(data, tuple(data.axes[i] for i in CHANNELS_LAST))
    return units.do("Flatten", layer, data)


def _zero_padding(units: KerasUnits, layer: Layer, data: Data) -> Data:
    (top, bottom), (left, right) = layer.config["padding"]
    return units.do("Pad", layer, data, pads=[0, 0, top, left, 0, 0, bottom, right])


def _concatenated(units: KerasUnits, layer: Layer, parts: Sequence[Data], axis: Any = None) -> Data:
    _last_axis(layer, parts[0], layer.config.get("axis", -1) if axis is None else axis)
    return units.do("Concat", layer, *parts, axis=1)


def _rescaled(units: KerasUnits, layer: Layer, data: Data) -> Data:
    scaled = units.do("Mul", layer, data, _by_channel(layer, data, layer.config["scale"]))
    return units.do("Add", layer, scaled, _by_channel(layer, data, layer.config.get("offset", 0)))


def _normalised(units: KerasUnits, layer: Layer, data: Data) -> Data:
    """A Normalization, whose numbers are in its configuration or were learned."""
    if layer.config.get("invert"):
        raise UnsupportedNode(f"{layer.title} is the inverse of one, no model here has that")
    _last_axis(layer, data, layer.config.get("axis", -1))
    numbers = []
    for number, name in enumerate(("mean", "variance")):
        value = layer.config.get(name)
        numbers.append(layer.variables.get(name, layer.variables.get(str(number))) if value is None else value)
    mean, variance = (_by_channel(layer, data, value) for value in numbers)
    return units.do("Div", layer, units.do("Sub", layer, data, mean), np.maximum(np.sqrt(variance), 1e-7))


def _part(units: KerasUnits, layer: Layer, data: Data, index: Any) -> Data:
    """A part of a map: `x[..., ::-1]`, `x[:, 1:-1]`, `x[..., 0]`."""
    index = index if isinstance(index, list) else [index]
    if ... in index:
        gap = index.index(...)
        index = index[:gap] + [slice(None)] * (len(data.axes) - len(index) + 1) + index[gap + 1 :]
    node, gone = OnnxNode(units, "", layer.title, (), {}), []
    if len(data.axes) != 4:
        raise node.problem("takes a part of what is no map")
    for axis, taken in zip(CHANNELS_LAST, index, strict=False):
        positions = range(data.shape[axis])[taken]
        gone += [] if isinstance(taken, slice) else [axis]
        data = selected(node, data, axis, list(positions) if isinstance(positions, range) else [positions])
    return node.turning(data, tuple(axis for i, axis in enumerate(data.axes) if i not in gone))


def _stacked(units: KerasUnits, layer: Layer, parts: Sequence[Data], axis: Any = None) -> Data:
    if layer.config.get("axis", axis) not in (-1, 3) or any(len(part.axes) != 3 for part in parts):
        raise UnsupportedNode(f"{layer.title} makes no channels, no model here has that")
    node = OnnxNode(units, "", layer.title, (), {})
    return units.do(
        "Concat", layer, *(node.turning(each, (each.axes[0], (), *each.axes[1:])) for each in parts), axis=1
    )


def _turned(units: KerasUnits, layer: Layer, data: Data, axis: Any = None) -> Data:
    axis = layer.config.get("axis", axis)
    (axis,) = axis if isinstance(axis, list) else (axis,)
    axis = CHANNELS_LAST[axis]
    return selected(OnnxNode(units, "", layer.title, (), {}), data, axis, list(reversed(range(data.shape[axis]))))


def _cast(units: KerasUnits, layer: Layer, data: Data, *rest: Any) -> Data:
    if "float" not in str(layer.config.get("dtype", "float")):
        raise UnsupportedNode(f"{layer.title} makes whole numbers")
    return data


def _limited(units: KerasUnits, layer: Layer, data: Data) -> Data:
    limits = [layer.config.get(name) or 0 for name in ("max_value", "negative_slope", "threshold")]
    plain = "relu" if limits == [0, 0, 0] else "relu6" if limits == [6, 0, 0] else None
    return _activated(units, layer, data, plain or f"relu of {limits}")


LAYERS: Mapping[str, Callable[..., Data]] = {
    **dict.fromkeys(IDLE, lambda units, layer, data, *rest: data),
    **dict.fromkeys(("Conv2D", "Convolution2D", "DepthwiseConv2D"), _convolution),
    **{name: functools.partial(_arithmetic, op) for name, op in (("Add", "Add"), ("Subtract", "Sub"))},
    **{name: functools.partial(_arithmetic, op) for name, op in (("Multiply", "Mul"), ("TrueDivide", "Div"))},
    "Divide": functools.partial(_arithmetic, "Div"),
    "Activation": _activated,
    "Softmax": lambda units, layer, data, *rest: _activated(units, layer, data, "softmax"),
    "ReLU": _limited,
    "AveragePooling2D": functools.partial(_pool, "AveragePool"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concatenate": _concatenated,
    "Dense": _dense,
    "Flatten": _flatten,
    "Flip": _turned,
    "GetItem": _part,
    "GlobalAveragePooling2D": functools.partial(_global_pool, "GlobalAveragePool"),
    "GlobalMaxPooling2D": functools.partial(_global_pool, "GlobalMaxPool"),
    "MaxPooling2D": functools.partial(_pool, "MaxPool"),
    "Normalization": _normalised,
    "Rescaling": _rescaled,
    "Stack": _stacked,
    "ZeroPadding2D": _zero_padding,
}
# Keras 2 writes TensorFlow's functions by their names.
FUNCTIONS = {"__operators__.getitem": "GetItem", "nn.bias_add": "Add", "cast": "Cast", "reverse": "Flip"}
FUNCTIONS |= {"stack": "Stack", "concat": "Concatenate", "math.truediv": "TrueDivide", "math.divide": "TrueDivide"}
FUNCTIONS |= {"math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply"}
FUNCTIONS |= {"__operators__.add": "Add", "__operators__.sub": "Subtract", "__operators__.mul": "Multiply"}
FUNCTIONS |= {"__operators__.truediv": "TrueDivide"}
