"""Records the ONNX graphs that exporters write, without their weights: `onnx_graphs.zip` beside this file.

    pip install torch torchvision timm keras onnx onnxscript && python tests/golden/make_onnx.py

An export is 100 to 500 MB, nearly all of it weights, so initialisers keep their names, types and shapes only;
`onnx_graphs.py` fills them with seeded numbers. The models are seeded before they are exported, since exporters store
arrays that are equal once and leave out biases of zeros.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import seeded
import timm
import torch
import torchvision
from torch import nn

HERE = Path(__file__).parent
CLASSES = 20


def seeded_module(make: Callable[..., nn.Module], **fields: Any) -> nn.Module:
    """A PyTorch model in inference mode, with the seeded weights in it."""
    model = make(**fields)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    return model.eval()


def lenet() -> nn.Module:
    """PyTorch's tutorial network in the tanh and average-pool form of ours."""
    layers = dict(conv1=nn.Conv2d(1, 6, 5, padding=2), conv2=nn.Conv2d(6, 16, 5))
    layers |= dict(fc1=nn.Linear(400, 120), fc2=nn.Linear(120, 84), fc3=nn.Linear(84, 10))

    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in (self.conv1, self.conv2):
                x = nn.functional.avg_pool2d(torch.tanh(layer(x)), 2)
            x = torch.tanh(self.fc2(torch.tanh(self.fc1(x.flatten(1)))))
            return self.fc3(x)

    return LeNet()


def legacy(model: nn.Module, shape: tuple[int, ...], path: str, **options: Any) -> None:
    """The TorchScript exporter: batch norm folded, and numbers for names where it did."""
    torch.onnx.export(model, (torch.zeros(shape),), path, dynamo=False, **options)


def unfolded(model: nn.Module, shape: tuple[int, ...], path: str) -> None:
    """The same without constant folding: batch norm as it is, the state dict's names."""
    legacy(model, shape, path, do_constant_folding=False)


def dynamo(model: nn.Module, shape: tuple[int, ...], path: str, **options: Any) -> None:
    """The exporter of today: batch norm folded into weights that keep their names."""
    torch.onnx.export(model, (torch.zeros(shape),), path, dynamo=True, external_data=False, verbose=False, **options)


def raw(model: nn.Module, shape: tuple[int, ...], path: str) -> None:
    """The same without its optimiser: every constant is computed in the graph."""
    dynamo(model, shape, path, optimize=False)


def of_keras(model: Any, shape: tuple[int, ...], path: str) -> None:
    """Keras' own export on its PyTorch backend (channels last, so transposed round every layer)."""
    for variable in model.variables:
        variable.assign(seeded.tensor(f"{variable.path}.running_var", variable.shape))
    model(np.zeros(shape, np.float32))
    model.export(path, format="onnx", verbose=False)


def torch_model(name: str, **fields: Any) -> Callable[[], nn.Module]:
    """One of torchvision's; with `dropout` and auxiliary classifiers as they come."""
    return lambda: seeded_module(getattr(torchvision.models, name), **fields)


def keras_model(name: str, side: int) -> Callable[[], Any]:
    """One of Keras' with its softmax."""
    return lambda: getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=CLASSES)


FEW = dict(num_classes=CLASSES)
INCEPTION = dict(**FEW, transform_input=True, init_weights=False)
# name of the graph: (the model, the exporter, the shape of the images)
EXPORTS: dict[str, tuple[Callable[[], Any], Callable[..., None], tuple[int, ...]]] = {
    "vgg16.legacy": (torch_model("vgg16", **FEW), legacy, (1, 3, 224, 224)),
    "vgg11_bn.legacy": (torch_model("vgg11_bn", **FEW), legacy, (1, 3, 224, 224)),
    "vgg11_bn.dynamo": (torch_model("vgg11_bn", **FEW), dynamo, (1, 3, 224, 224)),
    "vgg11_bn.timm": (
        lambda: seeded_module(timm.create_model, model_name="vgg11_bn", **FEW),
        legacy,
        (1, 3, 224, 224),
    ),
    "alexnet.dynamo": (torch_model("alexnet", **FEW), dynamo, (1, 3, 224, 224)),
    "resnet18.raw": (torch_model("resnet18", **FEW), raw, (1, 3, 64, 64)),
    "resnet18.unfolded": (torch_model("resnet18", **FEW), unfolded, (1, 3, 64, 64)),
    "resnet50.legacy": (torch_model("resnet50", **FEW), legacy, (1, 3, 224, 224)),
    "resnet50.unfolded": (torch_model("resnet50", **FEW), unfolded, (1, 3, 224, 224)),
    "resnet50.dynamo": (torch_model("resnet50", **FEW), dynamo, (1, 3, 224, 224)),
    "resnext50_32x4d.legacy": (torch_model("resnext50_32x4d", **FEW), legacy, (1, 3, 64, 64)),
    "googlenet.legacy": (torch_model("googlenet", **INCEPTION), legacy, (1, 3, 224, 224)),
    "inception_v3.legacy": (torch_model("inception_v3", **INCEPTION), legacy, (1, 3, 299, 299)),
    "inception_v3.dynamo": (torch_model("inception_v3", **INCEPTION), dynamo, (1, 3, 299, 299)),
    "lenet5.legacy": (lambda: seeded_module(lenet), legacy, (1, 1, 28, 28)),
    "vgg16.keras": (keras_model("VGG16", 224), of_keras, (1, 224, 224, 3)),
    "resnet50.keras": (keras_model("ResNet50", 224), of_keras, (1, 224, 224, 3)),
    "resnet50v2.keras": (keras_model("ResNet50V2", 224), of_keras, (1, 224, 224, 3)),
    "inception_v3.keras": (keras_model("InceptionV3", 299), of_keras, (1, 299, 299, 3)),
}


def stripped(path: Path) -> bytes:
    """The model of a file without the numbers of its weights, its comments and its shapes of values between."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1:
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for field in ("value_info", "metadata_props", "doc_string"):
        model.graph.ClearField(field)
    model.ClearField("metadata_props")
    return model.SerializeToString()


def main() -> None:
    """Writes the zip."""
    warnings.filterwarnings("ignore")
    with zipfile.ZipFile(HERE / "onnx_graphs.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, (make, export, shape) in EXPORTS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                export(make(), shape, str(path))
                content = stripped(path)
            # a fixed date, so that the same graphs make the same file
            archive.writestr(zipfile.ZipInfo(f"{name}.onnx"), content, zipfile.ZIP_DEFLATED, 9)
            print(name, len(content), flush=True)


if __name__ == "__main__":
    main()
