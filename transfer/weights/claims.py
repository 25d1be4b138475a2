"""What a weight file says of its network beside the tensors, compared with the model that they were loaded into.

The same tensors may be those of two networks: timm's `resnetblur50` has all names and shapes of `resnet50`. A
checkpoint's `arch`, a `config.json` beside the file, or the layers of a whole Keras model often tell them apart.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from transfer.models import registry
from transfer.runtime.files.untrusted import printable
from transfer.weights import catalogue, recipes
from transfer.weights.asked import Asked, Told
from transfer.weights.maps import family

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


def problems(asked: Asked, told: Told) -> Iterator[str]:
    """What a file, and what is said beside it, make another function than the model that is asked for.

    A name of the network that nobody here knows is only worth a warning.
    """
    beside, name, ours = told.beside, asked.name, told.preprocessing
    for file, claimed in ((told.file, told.tensors.says), (beside.config, beside.says)):
        yield from _sayings(file, claimed, asked.arch, name)
    yield from _normalising(asked, told)
    for setting in beside.odd:
        yield f"{beside.config} says {setting}, which is not known here: {name} may be another function"
    differences = [recipes.differences(theirs, ours, name) for theirs in beside.recipes if ours]
    if differences and all(differences):
        yield f"{beside.config.parent} says that images are made with {', '.join(differences[0])}"
    if beside.unlike and ours:
        yield f"{beside.config.parent} says that images are made with {beside.unlike}, which is not known here"
    theirs = told.tensors.preprocessing
    if theirs and ours and (difference := recipes.difference(theirs, ours, name)):
        by_itself = f"the architecture by itself ({asked.arch}) is given images as the file is"
        yield f"{told.file} does not fit {name}: it makes {difference}, before its first layer; {by_itself}"
    if asked.record:
        yield from _other_fields(asked, told)


def _sayings(file: Path, claimed: Mapping[str, Any], arch: str, name: str) -> Iterator[str]:
    """The settings and names in a file that are those of another function."""
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


def _normalising(asked: Asked, told: Told) -> Iterator[str]:
    """The first problem with numbers by which the network in a file normalises its images itself."""
    for numbers, theirs in recipes.normalisers(told.tensors, asked.arch).items():
        does = f"normalises its images itself ({numbers})"
        difference = told.preprocessing and recipes.difference(theirs, told.preprocessing, asked.name)
        if difference:
            yield f"{told.file} {does} and makes {difference}"
            return
        if theirs != told.tensors.preprocessing:
            as_is = "as the preprocessing does" if told.preprocessing else "and no preprocessing is known"
            text = "%s: %s %s, %s: the model takes images that are preprocessed so"
            logging.warning(text, asked.name, told.file, does, as_is)


def _other_fields(asked: Asked, told: Told) -> Iterator[str]:
    """The fields, but for those that the caller sets, that a file was written with and the model has otherwise."""
    usual = registry.defaults(asked.arch)
    for field in {**told.written, **told.fields} if told.written else ():
        theirs, ours = (values.get(field, usual.get(field)) for values in (told.written, told.fields))
        if theirs != ours and field not in (*asked.chosen, "num_classes", "channels"):
            yield f"{told.file} was written with {field}={printable(theirs)}, and {asked.name} has {field}={ours}"


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
