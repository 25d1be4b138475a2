"""The models of torchvision and timm that golden files come from, each with the modules whose outputs our taps equal.

Classifiers are narrow, which keeps files and tests small and the way a feature map is flattened the same. Torch only.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timm.models.vgg import ConvMlp
from torch import nn

HIDDEN = (48, 40)
CLASSES = 20
SLIM_RESNET = 1 / 16
SLIM_VGG = 1 / 4
NARROW = dict(num_classes=CLASSES, hidden=HIDDEN)
TRANSFORMED = dict(num_classes=CLASSES, transform_input=True)

Size = tuple[int, int, int, int]
Taps = Mapping[str, str]


def batches(published: tuple[int, int], odd: tuple[int, int], channels: int = 3) -> tuple[Size, ...]:
    """One image and three, at the published size and at an odd one that is not square."""
    return tuple((batch, *size, channels) for size in (published, odd) for batch in (1, 3))


SIZES = batches((224, 224), (75, 53))
# Where the smallest side allowed is larger: 63 pixels in AlexNet, 75 in Inception v3.
SIZES_OF = {"alexnet": batches((224, 224), (91, 67)), "inception_v3": batches((299, 299), (107, 83))}
LARGER: tuple[Size, ...] = ((1, 256, 232, 3),)  # more than 7x7 cells before the classifier
SLIM_SIZES: tuple[Size, ...] = ((2, 64, 64, 3), (1, 75, 53, 3))

VGGS = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
RESNETS = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
RESNETS += ["wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"]

ALEXNET_TAPS = {f"conv{i}": f"features.{position}" for i, position in enumerate((2, 5, 7, 9, 12), 1)}
ALEXNET_TAPS |= {"fc1": "classifier.2", "fc2": "classifier.5", "logits": "classifier.6"}
RESNET_TAPS = {"stem": "maxpool", **{f"stage{i}": f"layer{i}" for i in range(1, 5)}, "logits": "fc"}
GOOGLENET_BLOCKS = [f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
GOOGLENET_TAPS = {"stem": "maxpool2", **{name: name for name in GOOGLENET_BLOCKS}, "logits": "fc"}
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
INCEPTION_TAPS = {"stem": "maxpool2", **{f"mixed{i}": f"Mixed_{name}" for i, name in enumerate(MIXED)}, "logits": "fc"}


class Case(NamedTuple):
    """A model to record: the name of our architecture and its fields, how theirs is made, taps and sizes."""

    arch: str
    make: Callable[[], nn.Module]
    taps: Taps
    fields: Mapping[str, Any]
    library: str = "torchvision"
    sizes: Sequence[Size] = SIZES


def _narrow(classifier: nn.Sequential, positions: Sequence[int]) -> None:
    """Puts narrow linear layers into a classifier of torchvision's."""
    sizes = (classifier[positions[0]].in_features, *HIDDEN, CLASSES)
    for position, inputs, outputs in zip(positions, sizes[:-1], sizes[1:], strict=True):
        classifier[position] = nn.Linear(inputs, outputs)


def vgg(arch: str) -> nn.Module:
    """torchvision's VGG with a narrow classifier."""
    model = getattr(torchvision.models, arch)(init_weights=False)
    _narrow(model.classifier, (0, 3, 6))
    return model


def alexnet() -> nn.Module:
    """torchvision's AlexNet with a narrow classifier."""
    model = torchvision.models.alexnet()
    _narrow(model.classifier, (1, 4, 6))
    return model


def with_auxiliary_heads(arch: str) -> nn.Module:
    """torchvision's GoogLeNet or Inception v3 as its weight files are: auxiliary heads, input normalised again."""
    return getattr(torchvision.models, arch)(
        num_classes=CLASSES, init_weights=False, aux_logits=True, transform_input=True
    )


def resnet(arch: str) -> nn.Module:
    """torchvision's ResNet, Wide ResNet or ResNeXt."""
    return getattr(torchvision.models, arch)(num_classes=CLASSES)


def timm_model(arch: str) -> nn.Module:
    """timm's model of that name."""
    return timm.create_model(arch, num_classes=CLASSES)


def timm_vgg(arch: str) -> nn.Module:
    """timm's VGG with a narrow classifier."""
    model = timm_model(arch)
    ratio = HIDDEN[0] / HIDDEN[1]
    model.pre_logits = ConvMlp(512, HIDDEN[1], 7, mlp_ratio=ratio, conv_layer=nn.Conv2d, act_layer=nn.ReLU)
    model.head.fc = nn.Linear(HIDDEN[1], CLASSES)
    return model


class SlimResNet(torchvision.models.ResNet):
    """torchvision's ResNet at a fraction of its width."""

    def __init__(self, block: Any, layers: Sequence[int], num_classes: int) -> None:
        super().__init__(block, layers)
        stem = round(64 * SLIM_RESNET)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.fc = nn.Linear(round(512 * SLIM_RESNET) * block.expansion, num_classes)

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = round(64 * SLIM_RESNET)
        return super()._make_layer(block, round(planes * SLIM_RESNET), *arguments, **options)


def slim_resnet() -> nn.Module:
    """A ResNet-18 small enough that its weight files lie in the repository."""
    return SlimResNet(torchvision.models.resnet.BasicBlock, (2, 2, 2, 2), num_classes=10)


class SlimVGG(nn.Module):
    """The layers of torchvision's `vgg11_bn` at a quarter of its width; one linear layer on the pooled features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        config = [c if c == "M" else round(c * SLIM_VGG) for c in torchvision.models.vgg.cfgs["A"]]
        self.features = torchvision.models.vgg.make_layers(config, batch_norm=True)
        self.classifier = nn.Sequential(nn.Linear(config[-2], num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, classes)."""
        return self.classifier(self.features(images).mean((2, 3)))


class LeNet5(nn.Module):
    """LeCun et al. 1998 as it is taught today: tanh, average pools, full connections; written from the paper."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=(32 - image_size) // 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.pool1, self.pool2 = nn.AvgPool2d(2), nn.AvgPool2d(2)
        self.tanh1, self.tanh2 = nn.Tanh(), nn.Tanh()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, side, side) -> (B, 10)."""
        x = self.pool1(torch.tanh(self.conv1(images)))
        x = self.pool2(torch.tanh(self.conv2(x)))
        x = self.tanh1(self.fc1(x.flatten(1)))
        return self.fc3(self.tanh2(self.fc2(x)))


LENET_TAPS = {"block1": "pool1", "block2": "pool2", "fc1": "tanh1", "fc2": "tanh2", "logits": "fc3"}


def vgg_taps(model: nn.Module) -> Taps:
    """Tap -> module whose output it is: the pools, and the dense layers after their activation."""
    pools = [f"features.{i}" for i, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
    blocks = {f"block{i}": pool for i, pool in enumerate(pools, 1)}
    if hasattr(model, "pre_logits"):
        return blocks | {"fc1": "pre_logits.act1", "fc2": "pre_logits.act2", "logits": "head.fc"}
    if len(model.classifier) == 1:
        return blocks | {"logits": "classifier.0"}
    return blocks | {"fc1": "classifier.1", "fc2": "classifier.4", "logits": "classifier.6"}


def _vgg_case(arch: str, make: Callable[[str], nn.Module] = vgg, **options: Any) -> Case:
    return Case(arch, lambda: make(arch), vgg_taps(make(arch)), NARROW, **options)


def _torchvision_cases() -> dict[str, Case]:
    plain = dict(num_classes=CLASSES)
    found = {arch: _vgg_case(arch) for arch in VGGS}
    found |= {arch: Case(arch, partial(resnet, arch), RESNET_TAPS, plain) for arch in RESNETS}
    found["alexnet"] = Case("alexnet", alexnet, ALEXNET_TAPS, NARROW, sizes=SIZES_OF["alexnet"])
    for arch, taps in (("googlenet", GOOGLENET_TAPS), ("inception_v3", INCEPTION_TAPS)):
        make = partial(with_auxiliary_heads, arch)
        found[arch] = Case(arch, make, taps, TRANSFORMED, sizes=SIZES_OF.get(arch, SIZES))
    found["vgg11 larger"] = _vgg_case("vgg11", sizes=LARGER)
    return found


def _timm_cases() -> dict[str, Case]:
    """One image at the published size, three at the odd one."""
    sizes = ((1, 224, 224, 3), (3, 75, 53, 3))
    found = {arch: _vgg_case(arch, timm_vgg, library="timm", sizes=sizes) for arch in VGGS}
    plain = dict(num_classes=CLASSES)
    for arch in RESNETS:
        side = 288 if arch.startswith("resnet") else 224
        sizes = ((1, side, side, 3), (3, 75, 53, 3))
        found[arch] = Case(arch, partial(timm_model, arch), RESNET_TAPS, plain, "timm", sizes)
    sizes = ((1, 299, 299, 3), (3, 107, 83, 3))
    taps = INCEPTION_TAPS | {"stem": "Pool2"}
    found["inception_v3"] = Case("inception_v3", partial(timm_model, "inception_v3"), taps, plain, "timm", sizes)
    return {f"{arch} timm": case for arch, case in found.items()}


def _small_cases() -> dict[str, Case]:
    """What ships with the package or lies in the repository, and LeNet-5, which no library has."""
    vgg_fields = dict(width=SLIM_VGG, hidden=(), num_classes=10)
    slim_vgg, sizes = partial(SlimVGG, 10), batches((48, 48), (75, 53))
    resnet_fields = dict(width=SLIM_RESNET, num_classes=10)
    found = {
        "vgg11_slim": Case("vgg11_bn", slim_vgg, vgg_taps(slim_vgg()), vgg_fields, sizes=sizes),
        "resnet18_slim": Case("resnet18", slim_resnet, RESNET_TAPS, resnet_fields, sizes=SLIM_SIZES),
    }
    for channels, side in itertools.product((1, 3), (28, 32)):
        lenet_fields = dict(channels=channels, image_size=side, num_classes=10)
        lenet_sizes = [(batch, side, side, channels) for batch in (1, 3)]
        make = partial(LeNet5, channels, side)
        found[f"lenet5 {side}x{side}x{channels}"] = Case("lenet5", make, LENET_TAPS, lenet_fields, sizes=lenet_sizes)
    return found


def cases() -> dict[str, Case]:
    """Every case by its name, which for a plain one is the architecture's."""
    return _torchvision_cases() | _timm_cases() | _small_cases()
