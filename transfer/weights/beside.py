"""What `config.json` and `preprocessor_config.json` beside a weight file say, as timm and transformers write them.

They name the network and its classes, and say how images are made. What they say is data from anybody: it is compared
with the model that the file's tensors fill (`transfer.weights.claims`), or makes the model where nothing else does.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from transfer.errors import TransferError
from transfer.models.resnet import SIZES, STAGE_CHANNELS, Bottleneck
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, MAX_CLASSES, error_summary, json_object, printable
from transfer.weights import native
from transfer.weights.readers import claims_in, safetensors_file

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LARGEST_SIDE, MOST_CHANNELS = 1 << 13, 1 << 12
# What is quoted of why images are made otherwise, and so many settings.
LONGEST, SHOWN = 200, 3

# timm's own values of what a `pretrained_cfg` leaves out.
TIMM = dict(input_size=(3, 224, 224), crop_pct=0.875, crop_mode="center", interpolation="bicubic")
TIMM |= dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Arguments of timm's models that change nothing of a trained network, or show in its tensors, or are compared.
TIMM_ARGUMENTS = {"num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate"}
TIMM_ARGUMENTS |= {"zero_init_last", "pretrained", "act_layer", "aa_layer", "output_stride", "global_pool"}
# Pillow's numbers of its filters.
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
PROCESSOR = re.compile(r"(ConvNext|ViT|CLIP|Bit)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")
# From this size on transformers' ConvNext processor takes the whole image.
CONVNEXT_WHOLE = 384


class Beside(NamedTuple):
    """The sayings of the files beside a weight file; empty where there are none.

    Attributes:
      config: where `config.json` is, or would be.
      says: key -> text or number (`readers.claims_in`).
      network: a name for the network, as its library has it; empty if it has none.
      fields: of our architecture, that follow.
      num_classes: of the classifier.
      label_names: of the classes, in their order; none, or as many as `num_classes`.
      recipes: how images are made, and where timm has another way for the best accuracy, that as a second one.
      unlike: why images are made in a way that is not known here; empty if they are not.
      odd: settings of the network that are not known here.
    """

    config: Path
    says: Mapping[str, Any] = {}
    network: str = ""
    fields: Mapping[str, Any] = {}
    num_classes: int | None = None
    label_names: tuple[str, ...] = ()
    recipes: tuple[Preprocessing, ...] = ()
    unlike: str = ""
    odd: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are made, None if that is not said or not known."""
        return self.recipes[0] if self.recipes else None


def read(file: Path) -> Beside:
    """What is said beside `file`. A text that cannot be read gets a line in the log.

    Our own files say all themselves; a `config.json` beside one is its run's, or of the file that it was made from.
    """
    config, metadata = file.with_name(CONFIG), safetensors_file.metadata(file)
    if metadata.get("format") == native.FORMAT:
        return Beside(config, label_names=_own_label_names(metadata))
    content, processor = _json(config), _json(file.with_name(PREPROCESSOR))
    inner = content.get("pretrained_cfg")
    dicts = (inner, content) if isinstance(inner, Mapping) else (content,)
    joined = {key: value for each in dicts for key, value in each.items() if value is not None}
    is_timm = len(dicts) > 1 or {"architecture", "mean"} <= content.keys()
    network, fields, odd = _network(joined)
    recipes, unlike = _recipes(joined if is_timm else None, processor)
    names = _label_names(joined.get("label_names") or joined.get("id2label") or joined.get("labels"))
    count = len(names) or joined.get("num_classes", joined.get("num_labels"))
    is_count = isinstance(count, int) and 0 <= count <= MAX_CLASSES
    return Beside(config, claims_in(content), network, fields, count if is_count else None, names, recipes, unlike, odd)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return json_object(path) if path.is_file() else {}
    except (OSError, TransferError) as error:
        logging.warning("%s: not looked at (%s)", path, error)
        return {}


def _own_label_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the classes in the metadata of a file of ours, which says them where it was trained for them."""
    try:
        return _label_names(json.loads(metadata.get(native.CLASSES_KEY, "[]")))
    except (ValueError, RecursionError):  # somebody has written in the file
        return ()


def _label_names(names: Any) -> tuple[str, ...]:
    """Names of the classes, from a list, or from a dict with all numbers from 0 on; as a terminal may show them."""
    if isinstance(names, Mapping):
        names = [names.get(str(number)) for number in range(len(names))]
    whole = isinstance(names, list) and len(names) <= MAX_CLASSES and all(isinstance(name, str) for name in names)
    return tuple(name if name.isprintable() else printable(name, len(name)) for name in names) if whole else ()


def _text(value: object) -> str:
    """A value as messages show it."""
    try:
        return printable(json.dumps(value), LONGEST)
    except RecursionError:
        return printable(value)


def _network(content: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The network's name, the fields that follow, and settings that are not known here."""
    name, kind = content.get("architecture"), content.get("model_type")
    arguments: Any = content.get("model_args")
    if isinstance(name, str):
        others = sorted(arguments.keys() - TIMM_ARGUMENTS)[:SHOWN] if isinstance(arguments, Mapping) else []
        return name[:LONGEST], {}, tuple(f"model_args.{printable(key)}={printable(arguments[key])}" for key in others)
    if kind == "resnet":
        return *_resnet(content), ()
    return (kind[:LONGEST] if isinstance(kind, str) else ""), {}, ()


def _resnet(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """transformers' ResNet, by its sizes: one of ours at some width, or "resnet with …"."""
    usual = dict(depths=[3, 4, 6, 3], embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], layer_type="bottleneck")
    depths, first, widths, unit = ({**usual, **content}[key] for key in usual)
    expansion = Bottleneck.expansion if unit == "bottleneck" else 1
    is_number = isinstance(first, int) and 0 < first <= MOST_CHANNELS
    has_our_widths = is_number and widths == [first * expansion << i for i in range(4)]
    known = [name for name, size in SIZES.items() if [*size[0]] == depths and size[1] == (unit == "bottleneck")]
    if not known or not has_our_widths:
        sizes = _text([depths, first, widths])
        return f"resnet of {printable(unit)} layers with depths, embedding and hidden sizes {sizes}", {}
    width = {} if first == STAGE_CHANNELS[0] else {"width": first / STAGE_CHANNELS[0]}
    return known[0], {"stride_in_1x1": content.get("downsample_in_bottleneck") is True, **width}


def _recipes(of_timm: Mapping[str, Any] | None, processor: Mapping[str, Any]) -> tuple[tuple[Preprocessing, ...], str]:
    """How images are made, and else why that is not known here."""
    try:
        if of_timm is not None:
            cfg = {**TIMM, **of_timm}
            best = {key: cfg.get(f"test_{key}", cfg[key]) for key in ("input_size", "crop_pct")}
            return tuple(dict.fromkeys(map(_of_timm, (cfg, cfg | best)))), ""
        return ((_of_transformers(processor),), "") if processor else ((), "")
    except TransferError as error:
        return (), printable(str(error), LONGEST)
    except DAMAGE_ERRORS as error:
        return (), error_summary(error)


def _recipe(size: Any, resize_to: int | None, interpolation: Any, scale: float, mean: Any, std: Any) -> Preprocessing:
    recipe = Preprocessing(tuple(size), resize_to, str(interpolation), scale=float(scale), mean=mean, std=std)
    sides = (*size, resize_to or 1)
    is_whole = all(isinstance(side, int) and side <= LARGEST_SIDE for side in sides)
    if not is_whole or not all(map(math.isfinite, (recipe.scale, *recipe.mean, *recipe.std))):
        raise TransferError(f"sides of {max(sides)} pixels, or numbers that are none")
    if min(recipe.std) <= 0:
        raise TransferError(f"std={min(recipe.std)}")
    return recipe


def _of_timm(cfg: Mapping[str, Any]) -> Preprocessing:
    """timm's geometry: `timm.data.transforms_factory.transforms_imagenet_eval`."""
    (_, *size), crop_pct, mode = cfg["input_size"], cfg["crop_pct"], cfg["crop_mode"]
    resized = [math.floor(side / crop_pct) for side in size]
    is_whole = mode == "squash" and resized == size
    if not is_whole and (mode != "center" or resized[0] != resized[1]):
        sides = "x".join(map(printable, size))
        raise TransferError(f"crop_mode={printable(mode)} with crop_pct={printable(crop_pct)} at {sides} pixels")
    return _recipe(size, None if is_whole else resized[0], cfg["interpolation"], 1 / 255, cfg["mean"], cfg["std"])


def _of_transformers(processor: Mapping[str, Any]) -> Preprocessing:
    """The geometry of transformers' image processors that resize, perhaps crop, rescale and normalise."""
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    known = PROCESSOR.fullmatch(kind) if isinstance(kind, str) else None
    if known is None or processor.get("do_resize", True) is not True:
        raise TransferError(
            f"image_processor_type={printable(kind)}, do_resize={printable(processor.get('do_resize'))}"
        )
    size, crop = processor["size"], processor.get("crop_size") if processor.get("do_center_crop") else None
    if isinstance(size, int):  # as old versions wrote it
        size = {"height": size, "width": size} if known[1] == "ViT" else {"shortest_edge": size}
    if crop is not None:
        crop = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
    edge: Any = size.get("shortest_edge")
    image: tuple[Any, Any] | None
    resize_to = None
    if known[1] == "ConvNext":
        image = (edge, edge)
        resize_to = int(edge / processor.get("crop_pct", 224 / 256)) if edge < CONVNEXT_WHOLE else None
    elif edge is None:
        image = (size["height"], size["width"])
    else:
        image, resize_to = crop, edge
    if image is None or crop not in (None, image) or "longest_edge" in size:
        raise TransferError(f"size={_text(size)}, crop_size={_text(crop)}")
    values = processor["image_mean"], processor["image_std"]
    mean, std = values if processor.get("do_normalize", True) else ((0.0,), (1.0,))
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    return _recipe(image, resize_to, PILLOW[processor["resample"]], scale, mean, std)
