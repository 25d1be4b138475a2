"""What `config.json` and `preprocessor_config.json` say of images, classes and networks, and what of it is believed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import reading
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from transfer.errors import TransferError
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import beside, catalogue, claims, create_model, native

WIDTH = 1 / 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear", "mean": MEAN, "std": STD}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "size": {"shortest_edge": 224}}
NUMBERS = {"resample": 3, "image_mean": MEAN, "image_std": STD}


def recipe(size: Any, resize_to: int | None, interpolation: str = "bicubic", **own: Any) -> Preprocessing:
    return Preprocessing(size, resize_to, interpolation, **{"scale": 1 / 255, "mean": MEAN, "std": STD, **own})


def said(folder: Path, config: Any = None, processor: Any = None) -> beside.Beside:
    for name, content in ((beside.CONFIG, config), (beside.PREPROCESSOR, processor)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    (folder / "model.bin").touch()
    return beside.read(folder / "model.bin")


def of_timm(**own: Any) -> dict[str, Any]:
    return {"architecture": "resnet18", "pretrained_cfg": {**TIMM, **own}}


HALF = {"mean": (0.5,), "std": (0.5,)}
OF_TIMM: list[tuple[dict, list[Preprocessing]]] = [
    ({}, [recipe(224, 256, "bilinear")]),
    ({"crop_pct": 0.95, "interpolation": "bicubic"}, [recipe(224, 235)]),
    ({"crop_pct": 0.965}, [recipe(224, 232, "bilinear")]),
    ({"crop_pct": None, "interpolation": None, "mean": None, "std": None}, [recipe(224, 256)]),
    ({"crop_pct": 1.0, "crop_mode": "squash"}, [recipe(224, None, "bilinear")]),
    ({"input_size": [3, 160, 192], "crop_pct": 1, "crop_mode": "squash"}, [recipe((160, 192), None, "bilinear")]),
    ({"input_size": [3, 299, 299], "mean": [0.5], "std": [0.5]}, [recipe(299, 341, "bilinear", **HALF)]),
    ({"test_input_size": [3, 288, 288]}, [recipe(224, 256, "bilinear"), recipe(288, 329, "bilinear")]),
    ({"test_crop_pct": 1.0}, [recipe(224, 256, "bilinear"), recipe(224, 224, "bilinear")]),
]  # fmt: skip


@pytest.mark.parametrize(("own", "recipes"), OF_TIMM)
def test_how_timm_makes_images(own: dict, recipes: list, tmp_path: Path) -> None:
    read = said(tmp_path, of_timm(**own))
    assert read.recipes == tuple(recipes) and read.preprocessing == recipes[0] and not read.unlike
    older = said(tmp_path, {"architecture": "resnet18", **TIMM, **own})  # one dict
    assert older.recipes == tuple(recipes)


# Of transformers' processors; None for a geometry that is not here.
OF_TRANSFORMERS: list[tuple[dict, Preprocessing]] = [
    (CONVNEXT, recipe(224, 256)),
    ({"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224}, recipe(224, 256)),
    (CONVNEXT | {"size": {"shortest_edge": 383}}, recipe(383, 437)),
    (CONVNEXT | {"size": {"shortest_edge": 384}}, recipe(384, None)),
    (CONVNEXT | {"image_processor_type": "ConvNextImageProcessorFast", "resample": 2}, recipe(224, 256, "bilinear")),
    ({"image_processor_type": "ViTImageProcessor", "size": {"height": 96, "width": 64}}, recipe((96, 64), None)),
    ({"image_processor_type": "ViTFeatureExtractor", "size": 96, "resample": 0}, recipe(96, None, "nearest")),
    (
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 232},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "resample": 1,
        },
        recipe(224, 232, "lanczos"),
    ),
    (CONVNEXT | {"rescale_factor": 1 / 127.5}, recipe(224, 256, scale=1 / 127.5)),
    (CONVNEXT | {"do_rescale": False, "do_normalize": False}, recipe(224, 256, scale=1, mean=(0.0,), std=(1.0,))),
]


@pytest.mark.parametrize(("processor", "expected"), OF_TRANSFORMERS)
def test_how_transformers_makes_images(processor: dict, expected: Preprocessing, tmp_path: Path) -> None:
    read = said(tmp_path, {"model_type": "resnet"}, NUMBERS | processor)
    assert read.recipes == (expected,) and not read.unlike


UNLIKE = [
    (of_timm(crop_mode="border"), None, "crop_mode=border with crop_pct=0.875 at 224x224 pixels"),
    (of_timm(crop_mode="squash"), None, "crop_mode=squash with crop_pct=0.875 at 224x224 pixels"),
    (of_timm(input_size=[3, 224, 192]), None, "crop_mode=center with crop_pct=0.875 at 224x192 pixels"),
    (of_timm(interpolation="random"), None, "interpolation='random' is not one of bilinear, bicubic"),
    (of_timm(interpolation="x" * 10_000), None, "interpolation='xxx"),
    (of_timm(interpolation="\x1b\n"), None, "interpolation='\\\\x1b"),
    (of_timm(std=[0, 0, 0]), None, "std=0.0"),
    (of_timm(mean=[float("nan")] * 3), None, "sides of 256 pixels, or numbers that are none"),
    (of_timm(input_size=[3, 10**9, 10**9]), None, "sides of 1142857142 pixels"),
    (of_timm(input_size=[3, -1, -1]), None, "image_size=-1x-1 must be at least one pixel"),
    (of_timm(input_size=[3, 160.5, 160.5]), None, "sides of 183 pixels, or numbers that are none"),
    (of_timm(mean="no"), None, "mean='no' must be numbers"),
    (None, NUMBERS | {"image_processor_type": "LevitImageProcessor"}, "image_processor_type=LevitImageProcessor"),
    (None, NUMBERS | CONVNEXT | {"do_resize": False}, "do_resize=False"),
    (None, NUMBERS | CONVNEXT | {"do_center_crop": True, "crop_size": 200}, "crop_size=[200, 200]"),
    (None, CONVNEXT, "KeyError: 'image_mean'"),
    (None, NUMBERS | CONVNEXT | {"resample": 5}, "KeyError: 5"),
    (None, NUMBERS | {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 9}}, "crop_size=null"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "processor", "words"), UNLIKE)
def test_images_made_in_a_way_that_is_not_here(config: Any, processor: Any, words: str, tmp_path: Path) -> None:
    read = said(tmp_path, config, processor)
    assert read.recipes == () and words in read.unlike and len(read.unlike) <= 201
    assert read.unlike.isprintable()


@pytest.mark.parametrize(
    ("config", "count", "names"),
    [
        ({"architecture": "resnet18", "num_classes": 7}, 7, ()),
        ({"num_classes": 2, "label_names": ["a", "b"]}, 2, ("a", "b")),
        ({"pretrained_cfg": {"label_names": ["a", "b"], "num_classes": 2}}, 2, ("a", "b")),
        ({"id2label": {"1": "b", "0": "a"}}, 2, ("a", "b")),
        ({"id2label": {"1": "b", "2": "c"}}, None, ()),
        ({"label_names": ["Blüte", "it's", "\x1b[2J\n", "\ud800"]}, 4, ("Blüte", "it's", "\\x1b[2J\\n", "\\ud800")),
        ({"label_names": [], "id2label": {"0": "a"}, "num_classes": 2}, 1, ("a",)),
        ({"label_names": ["a", 1]}, None, ()),
        ({"num_classes": -1}, None, ()),
        ({"num_classes": "7"}, None, ()),
        ({"num_classes": 1 << 40}, None, ()),
    ],
)
def test_classes(config: dict, count: int | None, names: tuple, tmp_path: Path) -> None:
    read = said(tmp_path, config)
    assert (read.num_classes, read.label_names) == (count, names)


BASIC = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]}


@pytest.mark.parametrize(
    ("config", "arch", "fields"),
    [
        ({"architecture": "resnet50", "model_type": "timm_wrapper"}, "resnet50", {}),
        ({"architecture": "tf_inception_v3"}, "inception_v3", {}),
        ({"architecture": "vgg16_bn"}, "vgg16_bn", {}),
        ({"architecture": "resnet50_gn"}, None, {}),
        ({"architecture": "resnet50d"}, None, {}),
        ({"model_type": "resnet"}, "resnet50", {"stride_in_1x1": False}),
        ({"model_type": "resnet", "downsample_in_bottleneck": True}, "resnet50", {"stride_in_1x1": True}),
        (BASIC | {"depths": [2, 2, 2, 2]}, "resnet18", {"stride_in_1x1": False}),
        (BASIC | {"depths": [3, 4, 6, 3]}, "resnet34", {"stride_in_1x1": False}),
        (BASIC | {"depths": [2, 2, 2]}, None, {}),
        (BASIC | {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 64, 64, 64]}, None, {}),
        (BASIC | {"depths": "2222", "embedding_size": {}}, None, {}),
        (
            {"model_type": "resnet", "embedding_size": 1 << 40, "hidden_sizes": [1 << i for i in (42, 43, 44, 45)]},
            None,
            {},
        ),
        ({"architecture": "resnet" * 100_000}, None, {}),
        ({"model_type": "vit"}, None, {}),
        ({}, None, {}),
    ],
)
def test_networks(config: dict, arch: str | None, fields: dict, tmp_path: Path) -> None:
    read = said(tmp_path, config)
    assert (claims.architecture(read.network), read.fields) == (arch, fields)


def small(folder: Path) -> Path:
    tensors = {name: np.ascontiguousarray(each) for name, each in reading.cases()["resnet18_slim"].state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


OF_RECORD = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic"}
OF_RECORD |= {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
COMPARED = [
    (of_timm(**OF_RECORD), ""),  # the record has timm's size for the best accuracy
    (of_timm(input_size=[3, 288, 288], crop_pct=1.0, interpolation="bicubic"), ""),
    (of_timm(), "image_size=(224, 224) where resnet18.a1_in1k has (288, 288), resize_to=256 where"),
    (of_timm(**OF_RECORD, mean=[0.5] * 3, std=[0.5] * 3), "-1 to 1 of pixels from 0 to 255, where resnet18.a1"),
    (of_timm(crop_mode="border"), "crop_mode=border with crop_pct=0.875 at 224x224 pixels, which is not known here"),
    ({"architecture": "resnet18", "model_args": {"norm_layer": "groupnorm"}}, "model_args.norm_layer=groupnorm, which"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), COMPARED)
def test_what_stands_beside_a_record_s_file_is_compared(config: dict, words: str, tmp_path: Path) -> None:
    path, record = small(tmp_path), catalogue.get("resnet18.a1_in1k")
    (tmp_path / beside.CONFIG).write_text(json.dumps(config))
    if words:
        with pytest.raises(TransferError) as error:
            create_model(record.name, weights=path, width=WIDTH)
        assert str(error.value).startswith(str(tmp_path)) and words in str(error.value)
        assert str(error.value).endswith("; by_names=True (convert: --by_names) takes the weights by their names")
    model = create_model(record.name, weights=path, width=WIDTH, by_names=bool(words))
    assert model.preprocessing == record.preprocessing


def test_what_stands_beside_the_file_of_an_architecture_is_taken(tmp_path: Path, caplog: Any) -> None:
    path = small(tmp_path)
    (tmp_path / beside.PREPROCESSOR).write_text(json.dumps(NUMBERS | CONVNEXT))
    assert create_model("resnet18", weights=path, width=WIDTH).preprocessing == recipe(224, 256)
    (tmp_path / beside.CONFIG).write_text(json.dumps(of_timm(crop_mode="border")))
    caplog.set_level("INFO")
    assert create_model("resnet18", weights=path, width=WIDTH).preprocessing is None
    assert "no preprocessing is known, images being made with crop_mode=border" in caplog.text


@pytest.mark.parametrize(
    "said, names",
    [('["Blüte", "\\u001b[2J"]', ("Blüte", "\\x1b[2J")), ("{", ()), ("3", ()), ("[" * 100_000, ()), ('["a", 1]', ())],
)
def test_a_file_of_ours_says_its_classes_itself(said, names, tmp_path):
    native.write(tmp_path / "model.safetensors", {"w": np.zeros(2)}, {"format": "transfer", "class_names": said})
    assert beside.read(tmp_path / "model.safetensors").label_names == names


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)
KEYS = sorted({*of_timm(), *TIMM, "test_input_size", "crop_mode", "model_args", "id2label", "num_classes", "depths"})


KEYS += sorted({*BASIC, *NUMBERS, *CONVNEXT, "do_center_crop", "crop_size", "label_names"} - set(KEYS))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3), which=st.integers(0, 3))
def test_any_text_is_read_or_said_to_be_unlike(changes: dict, which: int, tmp_path: Path) -> None:
    configs = (of_timm(), {**TIMM, "architecture": "a"}, dict(BASIC), {})
    config, processor = configs[which], NUMBERS | CONVNEXT if which == 3 else None
    for content in (config, config.get("pretrained_cfg"), processor):
        if isinstance(content, dict):
            content |= changes
    read = said(tmp_path, config, processor or {})
    assert all(isinstance(each, Preprocessing) for each in read.recipes) and not (read.recipes and read.unlike)
    claims.architecture(read.network)
