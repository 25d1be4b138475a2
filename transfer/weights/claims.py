"""What a weight file says of its network beside the tensors, compared with the model that they were loaded into.

The same tensors may be those of two networks: timm's `resnetblur50` has all names and shapes of `resnet50`. A
checkpoint's `arch`, a `config.json` beside the file, or the layers of a whole Keras model often tell them apart.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import printable
from transfer.weights import catalogue
from transfer.weights.beside import Beside
from transfer.weights.maps import family
from transfer.weights.readers import Described

# Words around the name of an architecture that leave it what it is: who trained it, where it lies, on what.
PLAIN = {"tv", "tf", "torchvision", "timm", "keras", "gluon", "ssl", "swsl", "ig", "fb", "adv", "microsoft", "google"}
PLAIN |= {"in1k", "imagenet", "imagenet1k", "weights", "pretrained", "model", "a1", "a2", "a3"}
# Names of an architecture that are neither the catalogue's nor made of the same letters and digits.
OTHER_NAMES = {
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "wideresnet50": "wide_resnet50_2",
    "wideresnet101": "wide_resnet101_2",
    "inceptionv1": "googlenet",
    "lenet": "lenet5",
    "resnet50v1b": "resnet50",
    "resnet101v1b": "resnet101",
    "resnet152v1b": "resnet152",
}
OTHER = "another function"
# What makes another function of the same tensors: resnetblur50, resnetaa101; resnet50_silu, resnet50-dilated8.
OTHER_MEMBER = re.compile(r"(resnet|resnext|vgg|inception|alexnet|googlenet|lenet)[a-z]+\d{2,3}[a-z]*")
OTHER_FUNCTION = re.compile(
    r"(?:blur|aa|antialias(?:ed)?|dilated)\d*|os\d+|caffe|msra"
    r"|silu|swish|hardswish|mish|gelu|elu|celu|selu|leaky(?:relu)?|prelu"
)
# Setting -> the values that say the usual, as nothing does; any other says another function.
USUAL: Mapping[str, tuple[str, ...]] = {
    "act_layer": ("relu",),
    "hidden_act": ("relu",),
    "aa_layer": ("none",),
    "output_stride": ("32",),
    "global_pool": ("avg", "avgpool", "fast", "none"),
    "gp": ("avg", "avgpool", "fast", "none"),  # timm's training script
    "bn_eps": ("1e-05",),
    "downsample_in_first_stage": ("false",),
}

# What networks that normalise their images call the mean -> the deviation (robustness, detectron2, …).
DEVIATIONS = {"new_mean": "new_std", "mean": "std", "pixel_mean": "pixel_std", "image_mean": "image_std"}
GEOMETRY = ("image_size", "resize_to", "interpolation")
PIXELS = np.array([[0.0], [255.0]])


def problems(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    beside: Beside,
    arch: str,
    preprocessing: Preprocessing | None,
    name: str,
) -> Iterator[str]:
    """What a file, and what is said `beside` it, make another function than the model `name` of `arch`.

    `preprocessing` makes the model's images. A name of the network that nobody here knows is only worth a warning.
    """
    described = tensors if isinstance(tensors, Described) else Described(tensors)
    for file, claimed in ((path, described.says), (beside.config, beside.says)):
        for keys, value in claimed.items():
            says, key = f"{file} says {printable(keys)}={printable(value)}", keys.rpartition(".")[2]
            if key in USUAL:
                if value and str(value).rpartition(".")[2].lower() not in USUAL[key]:  # torch.nn.ReLU
                    yield f"{says}: {name} is another function of the same tensors"
            elif isinstance(value, str) and value:
                other = named(value, arch)
                if other == OTHER:
                    yield f"{says}: not {name}, but another function of tensors with the same names"
                elif other != arch:
                    known = f"the name of {other}" if other else "an unknown name"
                    logging.warning("%s, %s; the tensors fit %s, so they are taken as %s", says, known, arch, name)
    normaliser = normaliser_problem(tensors, preprocessing, path, name)
    if normaliser:
        yield normaliser
    for setting in beside.odd:
        yield f"{beside.config} says {setting}, which is not known here: {name} may be another function"
    differences = [_differences(recipe, preprocessing, name) for recipe in beside.recipes if preprocessing]
    if differences and all(differences):
        yield f"{beside.config.parent} says that images are made with {', '.join(differences[0])}"
    if beside.unlike and preprocessing:
        yield f"{beside.config.parent} says that images are made with {beside.unlike}, which is not known here"
    own = described.preprocessing
    if own and preprocessing and (difference := _difference(_made(own), preprocessing, name, own.channels)):
        ours = f"the architecture by itself ({arch}) is given images as the file is"
        yield f"{path} does not fit {name}: it makes {difference}, before its first layer; {ours}"


def other_fields(
    path: Path, written: Mapping[str, Any], arch: str, fields: Mapping[str, Any], chosen: Collection[str], name: str
) -> Iterator[str]:
    """The fields, but for `chosen` ones, that a file was `written` with and the model `name` has otherwise."""
    usual = registry.defaults(arch)
    for field in {**written, **fields} if written else ():
        theirs, ours = (values.get(field, usual.get(field)) for values in (written, fields))
        if theirs != ours and field not in (*chosen, "num_classes", "channels"):
            yield f"{path} was written with {field}={printable(theirs)}, and {name} has {field}={ours}"


def architecture(text: str) -> str | None:
    """The architecture that a name from a file means by itself; None for a name of none, or of one that is not ours."""
    record = catalogue.find(_last(text))
    known = OTHER_NAMES | {_letters(name): name for name in registry.architectures()}
    joined = map("".join, _parts(text))
    return record.arch if record else next((known[letters] for letters in joined if letters in known), None)


def _last(text: str) -> str:
    return re.split(r"[/:]", text.strip())[-1]


def _parts(text: str) -> list[list[str]]:
    return [words for part in _last(text).split(".") if (words := _words(part))]


def named(text: str, arch: str) -> str | None:
    """The architecture that a name from a file means, where `arch` is expected; `OTHER` for another with its tensors.

    None for a name that says nothing to us. Names of torchvision, timm, Keras and Hugging Face, of classes and of
    families, count: `vgg16_bn`, `VGG16`, `timm/resnet50.a1_in1k`, `tf_inception_v3`, `ResNetForImageClassification`.
    """
    if other := architecture(text):
        return other
    families = (_letters(family(arch).name), _letters(arch))
    for words in _parts(text):
        joined = "".join(words)
        if joined == families[0] or (joined.isalpha() and families[1].startswith(joined)):
            return arch  # `resnet`, `VGG`: a family, and this one
        usual = [word for word in words if not OTHER_FUNCTION.fullmatch(word)]
        member = OTHER_MEMBER.fullmatch(words[0])
        if (member and member[1] in families[1]) or (usual != words and architecture("".join(usual))):
            return OTHER
    return None


def look_at_name(path: Path, arch: str, name: str) -> None:
    """Warns of a file that is called by the name of another function, with a hash behind it or not."""
    if named(re.sub(r"-[0-9a-f]{8,}$", "", path.stem), arch) == OTHER:
        text = "%s is called as another function of the same tensors is; if it is one, it is not %s"
        logging.warning(text, path, name)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _words(part: str) -> list[str]:
    """The words of a name in lower case, without those around it that leave an architecture what it is."""
    part = re.sub(r"(?:For[A-Z]\w*|Model|Backbone)$", "", part)  # ResNetForImageClassification
    words = [word for word in re.split(r"[^a-z0-9]+", part.lower()) if word]
    while words and words[-1] in PLAIN:
        words.pop()
    while words and words[0] in PLAIN:
        words.pop(0)
    return words


def normaliser_problem(
    tensors: Mapping[str, np.ndarray], preprocessing: Preprocessing | None, path: Path, name: str
) -> str:
    """The problem with a mean and a deviation of images among a file's tensors; empty if there is none.

    A network beside them has normalised its images itself; the model takes images that are.
    """
    said = set()
    for mean in tensors:
        before, _, last = mean.rpartition(".")
        std = f"{before}.{DEVIATIONS.get(last)}" if before else DEVIATIONS.get(last, "")
        if std not in tensors or not tensors[mean].size == tensors[std].size == 3:
            continue
        center, spread = (np.asarray(tensors[tensor], np.float64).reshape(3) for tensor in (mean, std))
        if (pair := (*center, *spread)) in said:
            continue
        said.add(pair)
        with np.errstate(all="ignore"):
            values = (PIXELS / (PIXELS.max() if center.max() <= 1 else 1) - center) / spread
        numbers = f"{printable(mean)} {_numbers(center)}, {DEVIATIONS[last]} {_numbers(spread)}"
        does = f"normalises its images itself ({numbers})"
        difference = _difference(values, preprocessing, name) if preprocessing else ""
        if difference:
            return f"{path} {does} and makes {difference}"
        as_is = "as the preprocessing does" if preprocessing else "and no preprocessing is known"
        logging.warning("%s: %s %s, %s: the model takes images that are preprocessed so", name, path, does, as_is)
    return ""


def _difference(values: np.ndarray, preprocessing: Preprocessing, name: str, order: str = "rgb") -> str:
    """The `values` that black and white become, and ours where they are others; empty if they are the same."""
    wanted = _made(preprocessing)
    same = values.shape[1] in (1, wanted.shape[1]) and np.allclose(
        values, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max()
    )
    if preprocessing.channels == order and same:
        return ""
    ours = f"{_range(wanted)} in {preprocessing.channels}"
    return (
        f"{_range(values)}{'' if order == 'rgb' else f' in {order}'} of pixels from 0 to 255, where {name} has {ours}"
    )


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _differences(theirs: Preprocessing, ours: Preprocessing, name: str) -> list[str]:
    """`interpolation=bicubic where resnet50.tv1 has bilinear`, …: what two recipes make otherwise of an image."""
    keys = [key for key in GEOMETRY if getattr(theirs, key) != getattr(ours, key)]
    texts = [f"{key}={getattr(theirs, key)} where {name} has {getattr(ours, key)}" for key in keys]
    return [*texts, *filter(None, [_difference(_made(theirs), ours, name)])]


def _made(preprocessing: Preprocessing) -> np.ndarray:
    """The values (2, channels) that a preprocessing makes of black pixels and of white ones."""
    return (PIXELS * preprocessing.scale - np.array(preprocessing.mean)) / np.array(preprocessing.std)


def _range(values: np.ndarray) -> str:
    low, high = (_numbers(np.unique(row)) for row in values)
    return f"{low} to {high}"
