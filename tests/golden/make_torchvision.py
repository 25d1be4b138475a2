"""Records what torchvision's and timm's own models compute, for the parity tests; writes the files beside it.

    pip install torch torchvision timm && python tests/golden/make_torchvision.py

The weights come from `seeded.py`, so only outputs are stored: `torchvision.npz` holds samples of every tap of the 13
architectures at a small size and at one that is odd and not square, computed in float64, and of a few models more
(timm's names; larger images). The `.pth` files are what PyTorch really writes, in both of its formats.
"""

import collections
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seeded
import timm
import torch
import torchvision
from timm.models.vgg import ConvMlp
from torch import nn

HERE = Path(__file__).parent
HIDDEN = (48, 40)
CLASSES = 20
SLIM_WIDTH = 1 / 16
SIZES = ((2, 64, 64, 3), (1, 75, 53, 3))
LARGER = ((1, 256, 232, 3),)  # more than 7x7 cells before the classifier

VGGS = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
RESNETS = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]


def vgg(arch: str) -> nn.Module:
    """torchvision's VGG with a narrow classifier, which keeps the test quick and its shape of flattening."""
    model = getattr(torchvision.models, arch)(init_weights=False)
    sizes = (512 * 49, *HIDDEN, CLASSES)
    for position, inputs, outputs in zip((0, 3, 6), sizes[:-1], sizes[1:], strict=True):
        model.classifier[position] = nn.Linear(inputs, outputs)
    return model


def timm_vgg(arch: str) -> nn.Module:
    """timm's VGG with a classifier as narrow."""
    model = timm.create_model(arch, num_classes=CLASSES)
    ratio = HIDDEN[0] / HIDDEN[1]
    model.pre_logits = ConvMlp(512, HIDDEN[1], 7, mlp_ratio=ratio, conv_layer=nn.Conv2d, act_layer=nn.ReLU)
    model.head.fc = nn.Linear(HIDDEN[1], CLASSES)
    return model


class SlimResNet(torchvision.models.ResNet):
    """torchvision's ResNet at a fraction of its width."""

    def __init__(self, block: Any, layers: Sequence[int], num_classes: int) -> None:
        super().__init__(block, layers)
        stem = round(64 * SLIM_WIDTH)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.fc = nn.Linear(round(512 * SLIM_WIDTH) * block.expansion, num_classes)

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = round(64 * SLIM_WIDTH)
        return super()._make_layer(block, round(planes * SLIM_WIDTH), *arguments, **options)


def vgg_taps(model: nn.Module) -> dict[str, str]:
    """Tap -> torchvision module whose output it is."""
    pools = [f"features.{i}" for i, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
    dense = (
        ("pre_logits.act1", "pre_logits.act2", "head.fc")
        if hasattr(model, "pre_logits")
        else ("classifier.1", "classifier.4", "classifier.6")
    )
    names = [f"block{i}" for i in range(1, 6)] + ["fc1", "fc2", "logits"]
    return dict(zip(names, [*pools, *dense], strict=True))


def resnet_taps(model: nn.Module) -> dict[str, str]:
    """Tap -> torchvision module whose output it is."""
    stages = {f"stage{i}": f"layer{i}" for i in range(1, 5)}
    return {"stem": "maxpool", **stages, "logits": "fc"}


def outputs(model: nn.Module, taps: Mapping[str, str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tap, NHWC or (B, C), float64."""
    found: dict[str, np.ndarray] = {}

    def keep(tap: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            values = output.detach().clone().numpy()
            if values.ndim == 4 and values.shape[2:] == (1, 1) and tap.startswith("fc"):
                values = values[:, :, 0, 0]
            found[tap] = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(keep(tap)) for tap, name in taps.items()]
    with torch.inference_mode():
        model(torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2).copy()))
    for handle in handles:
        handle.remove()
    last = "block5" if "block5" in found else "stage4"
    found["pre_logits"] = found[last].mean(axis=(1, 2))
    return found


def fill(model: nn.Module) -> dict[str, list[int]]:
    """Puts the seeded weights into `model`; returns its state dict's names and shapes."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    model.eval()
    return shapes


class Golden:
    """Collects cases and writes them as one file: samples by case, and an index in JSON."""

    def __init__(self) -> None:
        self.samples: dict[str, np.ndarray] = {}
        self.index: dict[str, Any] = {}

    def add(
        self,
        case: str,
        model: nn.Module,
        taps: Mapping[str, str],
        sizes: Sequence[Sequence[int]],
        arch: str,
        library: str = "torchvision",
        **fields: Any,
    ) -> None:
        """Runs a model at every size and keeps samples, the largest absolute value and the norm of every tap."""
        shapes = fill(model)
        model.double()
        rows, pieces = [], []
        for size in sizes:
            for tap, values in outputs(model, taps, seeded.images(size)).items():
                pieces.append(seeded.sample(values))
                largest, norm = float(np.abs(values).max()), float(np.linalg.norm(values))
                rows.append(
                    dict(size=size, tap=tap, shape=values.shape, largest=largest, norm=norm, samples=pieces[-1].size)
                )
        self.samples[case] = np.concatenate(pieces)
        self.index[case] = dict(arch=arch, library=library, fields=fields, state=shapes, outputs=rows)
        print(case, {row["tap"]: round(row["largest"], 3) for row in rows})

    def write(self, path: Path) -> None:
        """Writes the file; the versions that it was made with go into the index."""
        made_with = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
        index = json.dumps({"made_with": made_with, "cases": self.index})
        np.savez_compressed(path, index=np.frombuffer(index.encode(), np.uint8), **self.samples)


def odd_tensors() -> dict[str, Any]:
    """A checkpoint with what state dicts may hold: every dtype, strides, shared storages, a parameter, a wrapper."""
    base = torch.arange(24, dtype=torch.float32)
    state = collections.OrderedDict(
        plain=base.reshape(2, 3, 4),
        transposed=base.reshape(4, 6).T,
        strided=base[1::3],
        expanded=torch.tensor([[5.0]]).expand(3, 4),
        channels_last=base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        shared=base[5:9],
        parameter=nn.Parameter(torch.arange(3.0)),
        half=torch.arange(4).half() / 3,
        bfloat16=torch.arange(4).bfloat16() / 3,
        double=torch.arange(4).double() / 3,
        integers=torch.arange(-2, 3),
        bytes=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
    )
    return {"epoch": 3, "lr": 0.1, "size": torch.Size([2, 3]), "state_dict": state}


def main() -> None:
    """Writes every golden file."""
    torch.manual_seed(0)
    golden = Golden()
    narrow = dict(num_classes=CLASSES, hidden=HIDDEN)
    for arch in VGGS:
        model = vgg(arch)
        golden.add(arch, model, vgg_taps(model), SIZES, arch, **narrow)
    for arch in RESNETS:
        model = getattr(torchvision.models, arch)(num_classes=CLASSES)
        golden.add(arch, model, resnet_taps(model), SIZES, arch, num_classes=CLASSES)
    model = vgg("vgg11")
    golden.add("vgg11 larger", model, vgg_taps(model), LARGER, "vgg11", **narrow)
    model = timm_vgg("vgg11_bn")
    golden.add("vgg11_bn timm", model, vgg_taps(model), SIZES[1:], "vgg11_bn", "timm", **narrow)
    model = timm.create_model("resnet18", num_classes=CLASSES)
    golden.add("resnet18 timm", model, resnet_taps(model), SIZES[1:], "resnet18", "timm", num_classes=CLASSES)

    block = torchvision.models.resnet.BasicBlock
    slim = SlimResNet(block, (2, 2, 2, 2), num_classes=10)
    fill(slim)
    for suffix, is_zip in (("", True), ("_stream", False)):
        torch.save(slim.state_dict(), HERE / f"resnet18_slim{suffix}.pth", _use_new_zipfile_serialization=is_zip)
        torch.save(odd_tensors(), HERE / f"odd_tensors{suffix}.pth", _use_new_zipfile_serialization=is_zip)
    torch.save(nn.Linear(2, 2), HERE / "whole_module.pth")
    golden.add("resnet18_slim", slim, resnet_taps(slim), SIZES, "resnet18", width=SLIM_WIDTH, num_classes=10)
    golden.write(HERE / "torchvision.npz")


if __name__ == "__main__":
    main()
