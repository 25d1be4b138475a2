"""What a weight file says of its network beside the tensors, compared with the model that they were loaded into.

The same tensors may be those of two networks: timm's `resnetblur50` has all names and shapes of `resnet50`. A
checkpoint's `arch`, a `config.json` beside the file, or the layers of a whole Keras model often tell them apart.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from transfer.errors import TransferError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import error_summary, printable
from transfer.weights import catalogue, keras_front, native
from transfer.weights.names import family
from transfer.weights.readers import Described, claims_in, safetensors_file

CONFIG = "config.json"
LARGEST_CONFIG = 1 << 20

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
    r"(?:blur|aa|antialias(?:ed)?|dilated)\d*|os\d+|caffe"
    r"|silu|swish|hardswish|mish|gelu|elu|celu|selu|leaky(?:relu)?|prelu"
)
# Setting -> the values that say the usual, as nothing does; any other says another function.
USUAL: Mapping[str, tuple[str, ...]] = {
    "act_layer": ("relu",),
    "hidden_act": ("relu",),
    "aa_layer": ("none",),
    "output_stride": ("32",),
    "global_pool": ("avg", "avgpool", "fast", "none"),
}


def compare(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    arch: str,
    preprocessing: Preprocessing | None,
    *,
    name: str,
    by_names: bool = False,
) -> None:
    """Compares what a file says of its network with the model `name` of `arch`, whose images `preprocessing` makes.

    Raises TransferError where the file's network is another function. With `by_names` that is only worth a warning, as
    is a name of the network that nobody here knows.
    """
    described = tensors if isinstance(tensors, Described) else Described(tensors)
    for file, claimed in ((path, described.says), (path.with_name(CONFIG), _beside(path))):
        for keys, value in claimed.items():
            says, key = f"{file} says {printable(keys)}={printable(value)}", keys.rpartition(".")[2]
            if key in USUAL:
                if value and str(value).rpartition(".")[2].lower() not in USUAL[key]:  # torch.nn.ReLU
                    _refuse(f"{says}: {name} is another function of the same tensors", by_names)
            elif isinstance(value, str) and value:
                other = named(value, arch)
                if other == OTHER:
                    _refuse(f"{says}: not {name}, but another function of tensors with the same names", by_names)
                elif other != arch:
                    known = f"the name of {other}" if other else "an unknown name"
                    logging.warning("%s, %s; the tensors fit %s, so they are taken as %s", says, known, arch, name)
    problem = keras_front.problem(described.front, arch, preprocessing, name)
    if problem:
        _refuse(f"{path} does not fit {name}: {problem}", by_names)


def compare_fields(
    path: Path, arch: str, fields: Mapping[str, Any], chosen: Collection[str], *, name: str, by_names: bool = False
) -> None:
    """Compares the fields that a file of ours was written with and those of the model `name`, but for `chosen` ones.

    Raises TransferError where they differ; with `by_names` a warning.
    """
    written, usual = native.fields(path, arch), registry.defaults(arch)
    for field in {**written, **fields} if written else ():
        theirs, ours = (values.get(field, usual.get(field)) for values in (written, fields))
        if theirs != ours and field not in (*chosen, "num_classes"):
            _refuse(f"{path} was written with {field}={printable(theirs)}, and {name} has {field}={ours}", by_names)


def _refuse(message: str, by_names: bool) -> None:
    if not by_names:
        raise TransferError(f"{message}; by_names=True (convert: --by_names) takes the weights by their names")
    logging.warning("%s (loaded by its names, which fit)", message)


def _beside(file: Path) -> dict[str, Any]:
    """The claims of a `config.json` of timm or Hugging Face beside the file; none of one that is no such file.

    Our own files say all themselves; a `config.json` beside one is its run's, or of the file that it was made from.
    """
    if safetensors_file.metadata(file).get("format") == native.FORMAT:
        return {}
    path = file.with_name(CONFIG)
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
            return {}
        return claims_in(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        logging.warning("%s: not looked at (%s)", path, error_summary(error))
        return {}


def named(text: str, arch: str) -> str | None:
    """The architecture that a name from a file means, where `arch` is expected; `OTHER` for another with its tensors.

    None for a name that says nothing to us. Names of torchvision, timm, Keras and Hugging Face, of classes and of
    families, count: `vgg16_bn`, `VGG16`, `timm/resnet50.a1_in1k`, `tf_inception_v3`, `ResNetForImageClassification`.
    """
    last = re.split(r"[/:]", text.strip())[-1]
    record = catalogue.find(last)
    if record:
        return record.arch
    known = OTHER_NAMES | {_letters(name): name for name in registry.architectures()}
    parts = [words for part in last.split(".") if (words := _words(part))]
    for words in parts:
        if "".join(words) in known:
            return known["".join(words)]
    families = (_letters(family(arch).__name__.split(".")[-1]), _letters(arch))
    for words in parts:
        joined = "".join(words)
        if joined == families[0] or (joined.isalpha() and families[1].startswith(joined)):
            return arch  # `resnet`, `VGG`: a family, and this one
        usual = [word for word in words if not OTHER_FUNCTION.fullmatch(word)]
        member = OTHER_MEMBER.fullmatch(words[0])
        if (member and member[1] in families[1]) or (usual != words and "".join(usual) in known):
            return OTHER
    return None


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
