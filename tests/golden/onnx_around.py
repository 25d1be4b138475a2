"""Small torch networks with what people put in front of a backbone, into it and behind it; drawn, and exported. Torch.

A `Plan` is what was drawn, as data; `module` makes the network of it, with seeded weights, and `export` the file.
"""

import dataclasses
import io
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import torch
import torchvision
from golden import seeded
from torch import nn
from torch.nn import functional

CLASSES = 7
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (103.939, 116.779, 123.68)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network of torchvision's with every channel count divided, and the fields of ours that make the same."""

    make: Callable[..., nn.Module]
    divisor: int
    side: int
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: str = ""


class LeNet(nn.Module):
    """The network of `make_onnx.lenet` for three channels, all of it modules."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        )
        self.avgpool = nn.Identity()
        self.classifier = nn.Sequential(
            *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, CLASSES))
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) -> (B, classes)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def torchvisions(name: str, **fields: Any) -> Callable[[], nn.Module]:
    """One of torchvision's, its weights yet without memory."""
    return lambda: getattr(torchvision.models, name)(num_classes=CLASSES, **fields)


QUICK = dict(init_weights=False)
TRANSFORMED = dict(transform_input=True)
BACKBONES = {
    "lenet5": Backbone(LeNet, 1, 32, dict(channels=3, image_size=32)),
    "alexnet": Backbone(torchvisions("alexnet"), 16, 224, record="alexnet.tv"),
    "vgg11": Backbone(torchvisions("vgg11", **QUICK), 16, 224, record="vgg11.tv"),
    "vgg11_bn": Backbone(torchvisions("vgg11_bn", **QUICK), 16, 224, record="vgg11_bn.tv"),
    "resnet18": Backbone(torchvisions("resnet18"), 16, 64, record="resnet18.tv"),
    "resnet50": Backbone(torchvisions("resnet50"), 16, 64, record="resnet50.tv1"),
    "resnext50_32x4d": Backbone(torchvisions("resnext50_32x4d"), 4, 64),
    "googlenet": Backbone(torchvisions("googlenet", aux_logits=False, **QUICK), 8, 64),
    "googlenet, transformed": Backbone(
        torchvisions("googlenet", aux_logits=False, **QUICK, **TRANSFORMED), 8, 64, TRANSFORMED, "googlenet.tv"
    ),
    "inception_v3": Backbone(torchvisions("inception_v3", aux_logits=False, **QUICK), 8, 107),
    "inception_v3, transformed": Backbone(
        torchvisions("inception_v3", aux_logits=False, **QUICK, **TRANSFORMED), 8, 107, TRANSFORMED, "inception_v3.tv"
    ),
}
# How often each is drawn: by how long its export takes.
OFTEN = {
    "legacy": dict(zip(BACKBONES, (24, 14, 8, 12, 30, 6, 1, 2, 2, 1, 1), strict=True)),
    "dynamo": dict(zip(BACKBONES, (60, 22, 6, 5, 7, 0, 0, 0, 0, 0, 0), strict=True)),
}
DYNAMO_SHARE = 0.1


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the function makes of them."""
        return self.function(images)


class Normalise(nn.Module):
    """`(images - mean) / std` with buffers."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], most: float = 1.0) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, most * torch.tensor(values).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images of 0 to 1, or to `most`."""
        return (images - self.mean) / self.std


def step(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Step(function)


# In front of the first layer, by name: what takes images of 0 to 1 or of 0 to 255 …
NORMALISING: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "x / 255": (255, step(lambda x: x / 255)),
    "x * (1 / 255)": (255, step(lambda x: x * (1 / 255))),
    "(x - 0.5) / 0.5": (1, step(lambda x: (x - 0.5) / 0.5)),
    "2 * x - 1": (1, step(lambda x: 2 * x - 1)),
    "x / 127.5 - 1": (255, step(lambda x: x / 127.5 - 1)),
    "ImageNet": (1, lambda: Normalise(MEAN, STD)),
    "ImageNet of 255": (255, lambda: Normalise(MEAN, STD, 255.0)),
    "x / 255, ImageNet": (255, lambda: nn.Sequential(Step(lambda x: x / 255), Normalise(MEAN, STD))),
    "ImageNet, channels turned": (1, lambda: nn.Sequential(Normalise(MEAN, STD), Step(lambda x: x.flip(1)))),
    "channels turned, ImageNet": (1, lambda: nn.Sequential(Step(lambda x: x[:, [2, 1, 0]]), Normalise(MEAN, STD))),
    "Caffe": (255, lambda: nn.Sequential(Step(lambda x: x.flip(1)), Normalise(CAFFE, (1.0, 1.0, 1.0)))),
    "Caffe, divided": (255, lambda: nn.Sequential(Step(lambda x: x.flip(1)), Normalise(CAFFE, (57.0, 57.0, 58.0)))),
    "x - 0.5": (1, step(lambda x: x - 0.5)),
    "x - 117": (255, step(lambda x: x - 117)),
    "by the images": (1, step(lambda x: (x - x.mean((2, 3), keepdim=True)) / x.amax((2, 3), keepdim=True))),
    "x / 255, by rows": (255, step(lambda x: x / 255 - torch.linspace(0, 1, x.shape[2]).reshape(1, 1, -1, 1))),
}
# … and the rest.
BEFORE: dict[str, Callable[[], nn.Module]] = {
    "channels 2 1 0": step(lambda x: x[:, [2, 1, 0]]),
    "flip(1)": step(lambda x: x.flip(1)),
    "channels 1 2 0": step(lambda x: torch.roll(x, -1, 1)),
    "channels by cat": step(lambda x: torch.cat((x[:, 2:], x[:, 1:2], x[:, :1]), 1)),
    "channels 0 0 0": step(lambda x: x[:, [0, 0, 0]]),
    "grey": step(lambda x: x.mean(1, keepdim=True).repeat(1, 3, 1, 1)),
    "left to right": step(lambda x: x.flip(3)),
    "upside down": step(lambda x: x.flip(2)),
    "turned by 180": step(lambda x: torch.rot90(x, 2, (2, 3))),
    "rows for columns": step(lambda x: x.transpose(2, 3)),
    "crop": step(lambda x: x[:, :, 2:-2, 2:-2]),
    "crop of an edge": step(lambda x: x[:, :, :-1, 1:]),
    "every other pixel": step(lambda x: x[:, :, ::2, ::2]),
    "pad": lambda: nn.ZeroPad2d(1),
    "pad an edge": lambda: nn.ZeroPad2d((0, 1, 0, 1)),
    "reflected": lambda: nn.ReflectionPad2d(2),
    "replicated": lambda: nn.ReplicationPad2d(1),
    "average pool": lambda: nn.AvgPool2d(2),
    "average of 3": lambda: nn.AvgPool2d(3, 1, 1),
    "greatest of 3": lambda: nn.MaxPool2d(3, 1, 1),
    "resized": step(lambda x: functional.interpolate(x, scale_factor=0.5, mode="bilinear")),
    "resized to": step(lambda x: functional.interpolate(x, size=x.shape[2:], mode="nearest")),
    "greater": step(lambda x: functional.interpolate(x, scale_factor=2, mode="nearest")),
    "half": step(lambda x: x * 0.5),
    "shifted": step(lambda x: x + 0.1),
    "negative": step(lambda x: -x),
    "clamped": step(lambda x: x.clamp(-0.5, 0.5)),
    "rounded": step(lambda x: torch.round(x * 2) / 2),
    "batch norm": lambda: nn.BatchNorm2d(3),
    "a 1x1 convolution": lambda: nn.Conv2d(3, 3, 1),
    "a 3x3 convolution": lambda: nn.Conv2d(3, 3, 3, padding=1),
    "activated": lambda: nn.ReLU(),
}
# The same images again, in other words.
IDLE: dict[str, Callable[[], nn.Module]] = {
    "identity": lambda: nn.Identity(),
    "dropout": lambda: nn.Dropout(0.2),
    "times 1": step(lambda x: x * 1.0 + 0.0),
    "contiguous": step(lambda x: x.contiguous().clone()),
    "turned twice": step(lambda x: x.flip(1).flip(1)),
    "as floats": step(lambda x: x.float()),
    "all of it": step(lambda x: x[:, :3, :, :]),
    "to and from": step(lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)),
    "reshaped": step(lambda x: x.reshape(x.shape[0], 3, -1).reshape(x.shape)),
    "no padding": lambda: nn.ZeroPad2d(0),
}
# Behind the last layer.
AFTER: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: nn.Softmax(1),
    "log softmax": lambda: nn.LogSoftmax(-1),
    "sigmoid": lambda: nn.Sigmoid(),
    "colder": step(lambda x: x / 2),
    "shifted logits": step(lambda x: x + torch.arange(CLASSES)),
    "first classes": step(lambda x: x[:, :3]),
    "classes turned": step(lambda x: x.flip(1)),
    "unit length": step(lambda x: functional.normalize(x, dim=1)),
    "positive": lambda: nn.ReLU(),
    "idle dropout": lambda: nn.Dropout(0.5),
    "another layer": lambda: nn.Linear(CLASSES, CLASSES),
    "a batch norm behind": lambda: nn.BatchNorm1d(CLASSES),
    "clipped": step(lambda x: x.clamp(-1, 1)),
    "tempered softmax": lambda: nn.Sequential(Step(lambda x: x / 0.7), nn.Softmax(1)),
    "softmax over images": lambda: nn.Softmax(0),
    "centred": step(lambda x: x - x.mean(1, keepdim=True)),
}

# Into the network. Each changes the module and returns whether there was anything to change.
Change = Callable[[nn.Module, random.Random], bool]


def replaced(
    kinds: Any, make: Callable[[nn.Module], nn.Module | None], *, every: bool = False, place: float | None = None
) -> Change:
    """One layer of some kinds, or all of them, by what `make` makes of it; None: another one of them."""

    def change(model: nn.Module, chosen: random.Random) -> bool:
        places = [
            (parent, name, layer)
            for parent in model.modules()
            for name, layer in parent.named_children()
            if isinstance(layer, kinds)
        ]
        if place is None:
            chosen.shuffle(places)
        elif place:
            places.reverse()
        done = False
        for parent, name, layer in places:
            new = make(layer)
            if new is not None:
                setattr(parent, name, new)
                done = True
                if not every:
                    break
        return done

    return change


def conv(layer: nn.Conv2d, **other: Any) -> nn.Conv2d:
    """A convolution with some settings changed."""
    own = dict(
        **dict(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups),
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )
    return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **{**own, **other})


def has_kernel(least: int, **other: Any) -> Callable[[nn.Conv2d], nn.Conv2d | None]:
    return lambda layer: conv(layer, **other) if min(layer.kernel_size) >= least else None


def dilated(layer: nn.Conv2d) -> nn.Conv2d | None:
    if layer.kernel_size != (3, 3) or layer.stride != (1, 1):
        return None
    return conv(layer, dilation=2, padding=2)


def max_pool(layer: nn.MaxPool2d, **other: Any) -> nn.MaxPool2d:
    own = dict(stride=layer.stride, padding=layer.padding, ceil_mode=layer.ceil_mode, dilation=layer.dilation)
    return nn.MaxPool2d(**{"kernel_size": layer.kernel_size, **own, **other})


class Blur(nn.Module):
    """A pool of stride 1, blurred and thinned out (Zhang 2019)."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = max_pool(pool, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), and half of it."""
        kernel = torch.tensor([1.0, 2.0, 1.0])
        kernel = (kernel[:, None] * kernel / 16).expand(x.shape[1], 1, 3, 3)
        return functional.conv2d(self.pool(x), kernel, stride=2, padding=1, groups=x.shape[1])


class Scale(nn.Module):
    """A number for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W)."""
        return x * self.weight.reshape(1, -1, 1, 1)


def stride_in_1x1(model: nn.Module, chosen: random.Random) -> bool:
    """Caffe's ResNet-50: the first convolution of a bottleneck carries the stride."""
    blocks = [block for block in model.modules() if isinstance(block, torchvision.models.resnet.Bottleneck)]
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return bool(blocks)


def average_with(layer: nn.Module) -> Callable[[nn.Module], nn.Module]:
    return lambda old: layer


MaxPool, Average = nn.MaxPool2d, (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
ACTIVATIONS = (nn.ReLU, nn.Tanh)
OTHER_ACTIVATIONS = {
    "leaky ReLU": lambda: nn.LeakyReLU(0.1),
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "ReLU6": nn.ReLU6,
    "hard swish": nn.Hardswish,
    "ELU": nn.ELU,
    "sigmoids": nn.Sigmoid,
    "PReLU": nn.PReLU,
    "none": nn.Identity,
}
INSIDE: dict[str, Change] = {
    **{
        f"{name}, {'all' if every else 'one'}": replaced(ACTIVATIONS, lambda old, make=make: make(), every=every)
        for name, make in OTHER_ACTIVATIONS.items()
        for every in (False, True)
    },
    "max pool: no padding": replaced(MaxPool, lambda old: max_pool(old, padding=0) if old.padding else None),
    "max pool: other ceil_mode": replaced(MaxPool, lambda old: max_pool(old, ceil_mode=not old.ceil_mode)),
    "max pool: dilation": replaced(MaxPool, lambda old: max_pool(old, dilation=2, padding=old.padding)),
    "max pool: kernel 2": replaced(MaxPool, lambda old: MaxPool(2, old.stride)),
    "max pool: kernel 3": replaced(MaxPool, lambda old: MaxPool(3, old.stride, 1)),
    "max pool: average": replaced(MaxPool, lambda old: nn.AvgPool2d(old.kernel_size, old.stride, old.padding)),
    "max pool: all average": replaced(
        MaxPool, lambda old: nn.AvgPool2d(old.kernel_size, old.stride, old.padding), every=True
    ),
    "max pool: convolution": replaced(MaxPool, lambda old: Step(lambda x: x[:, :, ::2, ::2])),
    "max pool: padded with zeros": replaced(
        MaxPool, lambda old: nn.Sequential(nn.ZeroPad2d(1), max_pool(old, padding=0)) if old.padding == 1 else None
    ),
    "max pool: blurred": replaced(MaxPool, Blur),
    "average: to 2x2": replaced(Average, average_with(nn.AdaptiveAvgPool2d(2)), place=1),
    "average: to one": replaced(Average, average_with(nn.AdaptiveAvgPool2d(1)), place=1),
    "average: the greatest": replaced(Average, average_with(nn.AdaptiveMaxPool2d(1)), place=1),
    "average: by mean": replaced(
        nn.AdaptiveAvgPool2d,
        lambda old: Step(lambda x: x.mean((2, 3), keepdim=True)) if old.output_size in (1, (1, 1)) else None,
    ),
    "average: by sum": replaced(
        nn.AdaptiveAvgPool2d,
        lambda old: Step(lambda x: x.sum((2, 3), keepdim=True) / 4) if old.output_size in (1, (1, 1)) else None,
    ),
    "average: mean and greatest": replaced(
        nn.AdaptiveAvgPool2d,
        lambda old: (
            Step(lambda x: x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True))
            if old.output_size in (1, (1, 1))
            else None
        ),
    ),
    "average: padded": replaced(nn.AvgPool2d, lambda old: nn.AvgPool2d(old.kernel_size, old.stride, 1)),
    "average: of a corner": replaced(
        nn.AdaptiveAvgPool2d, lambda old: nn.Sequential(Step(lambda x: x[:, :, :-1, :-1]), old)
    ),
    "average: of it turned": replaced(
        (*Average, nn.Identity), lambda old: nn.Sequential(old, Step(lambda x: x.transpose(2, 3)))
    ),
    "average: of it mirrored": replaced(Average, lambda old: nn.Sequential(old, Step(lambda x: x.flip(3)))),
    "average: channels last": replaced(
        nn.Flatten, lambda old: nn.Sequential(Step(lambda x: x.permute(0, 2, 3, 1)), nn.Flatten(1))
    ),
    "dilation": replaced(nn.Conv2d, dilated),
    "all dilated": replaced(nn.Conv2d, dilated, every=True),
    "reflecting": replaced(nn.Conv2d, lambda old: conv(old, padding_mode="reflect") if any(old.padding) else None),
    "wrapping": replaced(nn.Conv2d, lambda old: conv(old, padding_mode="circular") if any(old.padding) else None),
    "first: other padding": replaced(nn.Conv2d, has_kernel(3, padding=2), place=0),
    "first: no stride": replaced(nn.Conv2d, has_kernel(3, stride=1), place=0),
    "first: stride": replaced(nn.Conv2d, has_kernel(3, stride=3), place=0),
    "grouped": replaced(nn.Conv2d, lambda old: conv(old, groups=2) if not old.in_channels % 2 else None),
    "biased": replaced(nn.Conv2d, lambda old: conv(old, bias=True) if old.bias is None else None),
    "all biased": replaced(nn.Conv2d, lambda old: conv(old, bias=True) if old.bias is None else None, every=True),
    "not biased": replaced(nn.Conv2d, lambda old: conv(old, bias=False) if old.bias is not None else None),
    "padded by a layer": replaced(
        nn.Conv2d,
        lambda old: nn.Sequential(nn.ZeroPad2d(old.padding[0]), conv(old, padding=0)) if any(old.padding) else None,
    ),
    "scaled": replaced(nn.Conv2d, lambda old: nn.Sequential(old, Scale(old.out_channels))),
    "norm: other epsilon": replaced(nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, eps=0.1)),
    "norm: left out": replaced(nn.BatchNorm2d, lambda old: nn.Identity()),
    "norm: all left out": replaced(nn.BatchNorm2d, lambda old: nn.Identity(), every=True),
    "norm: no numbers": replaced(nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, affine=False)),
    "norm: by image": replaced(nn.BatchNorm2d, lambda old: nn.InstanceNorm2d(old.num_features, affine=True)),
    "norm: by group": replaced(nn.BatchNorm2d, lambda old: nn.GroupNorm(1, old.num_features)),
    "norm: of a batch": replaced(
        nn.BatchNorm2d, lambda old: nn.BatchNorm2d(old.num_features, track_running_stats=False)
    ),
    "norm: twice": replaced(nn.BatchNorm2d, lambda old: nn.Sequential(old, nn.BatchNorm2d(old.num_features))),
    "dropped": replaced(ACTIVATIONS, lambda old: nn.Sequential(old, nn.Dropout(0.3)), every=True),
    "doubled activation": replaced(ACTIVATIONS, lambda old: nn.Sequential(old, old)),
    "halved": replaced(ACTIVATIONS, lambda old: nn.Sequential(old, Step(lambda x: x * 0.5))),
    "last: with dropout": replaced(nn.Linear, lambda old: nn.Sequential(nn.Dropout(0.4), old), place=1),
    "last: no bias": replaced(nn.Linear, lambda old: nn.Linear(old.in_features, old.out_features, False), place=1),
    "last: two of them": replaced(
        nn.Linear, lambda old: nn.Sequential(nn.Linear(old.in_features, 9), nn.Linear(9, old.out_features)), place=1
    ),
    "last: hidden": replaced(
        nn.Linear,
        lambda old: nn.Sequential(nn.Linear(old.in_features, 9), nn.ReLU(), nn.Linear(9, old.out_features)),
        place=1,
    ),
    "last: none": replaced(nn.Linear, lambda old: nn.Identity(), place=1),
    "last: three classes": replaced(nn.Linear, lambda old: nn.Linear(old.in_features, 3), place=1),
    "first of the head: normalised": replaced(
        nn.Linear, lambda old: nn.Sequential(nn.LayerNorm(old.in_features), old), place=0
    ),
    "first of the head: shuffled": replaced(
        nn.Linear, lambda old: nn.Sequential(Step(lambda x: x.flip(1)), old), place=0
    ),
    "stride in 1x1": stride_in_1x1,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was drawn.

    Attributes:
      before: names in `NORMALISING`, `BEFORE` and `IDLE`; `inside`, `after` those in the tables of these names.
      seed: of which of several layers is changed.
      exporter: "legacy" or "dynamo"; `options` of it.
      is_open: what of the images' shape the file leaves open: "", "batch" or "size".
      way: how the file is loaded: "architecture" or "record"; `fields` of ours beside those of the backbone.
    """

    backbone: str
    before: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    seed: int = 0
    exporter: str = "legacy"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_open: str = ""
    channels_last: bool = False
    is_half: bool = False
    way: str = "architecture"
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def most(self) -> int | None:
        """How large the values of images are that the network is given, where it normalises them."""
        return next((NORMALISING[name][0] for name in self.before if name in NORMALISING), None)

    def case(self) -> dict[str, Any]:
        """What is to be known of the file to judge what is made of it, as JSON."""
        base = BACKBONES[self.backbone]
        fields = {"width": 1 / base.divisor, **base.fields, **self.fields}
        name = base.record if self.way == "record" else self.backbone.partition(",")[0]
        return dict(
            **dict(name=name, arch=self.backbone.partition(",")[0], fields=fields, side=base.side, most=self.most),
            **dict(channels_last=self.channels_last, is_open=self.is_open, is_half=self.is_half),
            pieces=[*self.before, *self.inside, *self.after],
        )


def draw(chosen: random.Random) -> Plan:
    """A plan, most with one or two pieces that are not in the backbone itself."""
    exporter = "dynamo" if chosen.random() < DYNAMO_SHARE else "legacy"
    names, weights = zip(*OFTEN[exporter].items(), strict=True)
    backbone = chosen.choices(names, weights)[0]
    before, inside, after = [], [], []
    where = chosen.choices(("nowhere", "normalised", "before", "inside", "after", "twice"), (15, 20, 17, 30, 8, 10))[0]
    if where in ("normalised", "twice"):
        before.append(chosen.choice(list(NORMALISING)))
    if where == "before" or (where == "twice" and chosen.random() < 0.4):
        before.insert(chosen.randrange(len(before) + 1), chosen.choice(list(BEFORE)))
    if chosen.random() < 0.25:
        before.insert(chosen.randrange(len(before) + 1), chosen.choice(list(IDLE)))
    if where == "inside" or (where == "twice" and chosen.random() < 0.5):
        inside.append(chosen.choice(list(INSIDE)))
    if where == "after" or chosen.random() < 0.15:
        after.append(chosen.choice(list(AFTER)))
    if exporter == "dynamo":
        options: dict[str, Any] = dict(optimize=chosen.random() < 0.7)
    else:
        options = dict(opset_version=chosen.choice((11, 13, 14, 17)), do_constant_folding=chosen.random() < 0.7)
        training = chosen.choices(("EVAL", "PRESERVE", "TRAINING"), (85, 8, 7))[0]
        options |= {} if training == "EVAL" else dict(training=training)
    return Plan(
        backbone,
        tuple(before),
        tuple(inside),
        tuple(after),
        chosen.randrange(1 << 16),
        exporter,
        options,
        is_open=chosen.choices(("", "batch", "size"), (70, 15, 15) if exporter == "legacy" else (80, 20, 0))[0],
        channels_last=chosen.random() < 0.07,
        is_half=chosen.random() < 0.04,
        way="record" if BACKBONES[backbone].record and chosen.random() < 0.3 else "architecture",
        fields=dict(stride_in_1x1=True) if backbone == "resnet50" and chosen.random() < 0.3 else {},
    )


def narrow(module: nn.Module, divisor: int) -> nn.Module:
    """Layers with a fraction of the channels in place of those that have no memory."""
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            sizes = (layer.in_channels if layer.in_channels == 3 else layer.in_channels // divisor,)
            new: nn.Module = nn.Conv2d(
                *(*sizes, layer.out_channels // divisor, layer.kernel_size, layer.stride, layer.padding),
                *(layer.dilation, layer.groups, layer.bias is not None),
            )
        elif isinstance(layer, nn.BatchNorm2d):
            new = nn.BatchNorm2d(layer.num_features // divisor, layer.eps)
        elif isinstance(layer, nn.Linear):
            features = layer.out_features if layer.out_features == CLASSES else layer.out_features // divisor
            new = nn.Linear(layer.in_features // divisor, features)
        else:
            new = narrow(layer, divisor)
        setattr(module, name, new)
    return module


class ChannelsLast(nn.Module):
    """Images as (B, H, W, C)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As (B, C, H, W)."""
        return images.permute(0, 3, 1, 2)


def module(plan: Plan) -> nn.Module | None:
    """The network of a plan, in inference mode; None where a piece has no place in it."""
    base = BACKBONES[plan.backbone]
    if base.divisor == 1:
        network = base.make()
    else:
        with torch.device("meta"):
            network = base.make()
        network = narrow(network, base.divisor)
    chosen = random.Random(plan.seed)
    if not all([INSIDE[name](network, chosen) for name in plan.inside]):
        return None
    front = [NORMALISING[name][1]() if name in NORMALISING else (BEFORE | IDLE)[name]() for name in plan.before]
    layout = [ChannelsLast()] if plan.channels_last else []
    whole = nn.Sequential(*layout, *front, network, *(AFTER[name]() for name in plan.after))
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    whole.load_state_dict({name: torch.from_numpy(array) for name, array in seeded.state_dict(shapes).items()})
    return whole.eval().half() if plan.is_half else whole.eval()


def export(plan: Plan, path: str) -> bool:
    """Writes the file of a plan; whether there is one: not where pieces do not fit together or are not exported."""
    side = BACKBONES[plan.backbone].side
    shape = (1, side, side, 3) if plan.channels_last else (1, 3, side, side)
    images = torch.zeros(shape, dtype=torch.float16 if plan.is_half else torch.float32)
    rows = 1 if plan.channels_last else 2
    is_open = {"": {}, "batch": {0: "batch"}, "size": {0: "batch", rows: "height", rows + 1: "width"}}[plan.is_open]
    options = dict(plan.options)
    if "training" in options:
        options["training"] = getattr(torch.onnx.TrainingMode, options["training"])
    if plan.exporter == "legacy":
        options |= dict(dynamo=False, input_names=["images"], dynamic_axes={"images": is_open} if is_open else None)
    else:
        options |= dict(dynamo=True, external_data=False, verbose=False)
        options |= dict(dynamic_shapes=({0: torch.export.Dim("batch")},)) if is_open else {}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            network = module(plan)
            if network is None:
                return False
            network(images)
            torch.onnx.export(network, (images,), path, **options)
        except Exception:  # whatever torch raises of sizes that do not fit and of operators that have no counterpart
            return False
    return True
