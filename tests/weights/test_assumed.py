"""What a weight file cannot say of itself: one line at the end of a load says what is assumed."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import catalogue, create_model, native
from transfer.weights.names import name_map, shapes_of

NO_RECIPE = "no preprocessing is known (preprocessing=, config.preprocessing)"
STRIDE_3X3 = "the 3x3 convolution of a bottleneck carries the stride (stride_in_1x1=False), as in torchvision"
STRIDE_1X1 = "the first 1x1 convolution of a bottleneck carries the stride (stride_in_1x1=True), as in Keras"
AS_IT_IS = "the network takes images as the preprocessing makes them (transform_input=False)"
RESCALES = "the network rescales its images itself (transform_input=True), as torchvision's own weights"


def of(record: str) -> str:
    return f"the preprocessing is that of {record}"


def bare_file(folder: Path, arch: str, width: float) -> Path:
    """Tensors and nothing else, under PyTorch's names."""
    shapes = shapes_of(registry.build(arch, seed=None, width=width, num_classes=3))
    sources = name_map(arch, "torchvision", shapes).sources
    orders: dict[int, Any] = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    tensors = {
        sources[path].name: np.ones([shape[axis] for axis in orders[len(shape)]], np.float32)
        for path, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def said(caplog: pytest.LogCaptureFixture, name: str, path: Path) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if "assumed" in record.getMessage()]
    start = f"{name}: {path} does not say it, so it is assumed: "
    assert len(lines) <= 1 and all(line.startswith(start) for line in lines)
    return lines[0].removeprefix(start).split("; ") if lines else []


# The model's name, fields chosen by the caller -> what is said.
OPEN: list[tuple[str, dict, list[str]]] = [
    ("resnet18", {}, [NO_RECIPE]),
    ("resnet18.tv", {}, [of("resnet18.tv")]),
    ("resnet50", {}, [NO_RECIPE, STRIDE_3X3]),
    ("resnet50", {"stride_in_1x1": False}, [NO_RECIPE]),
    ("resnet50", {"stride_in_1x1": True}, [NO_RECIPE]),
    ("resnet50.tv2", {}, [of("resnet50.tv2"), STRIDE_3X3]),
    ("googlenet", {}, [NO_RECIPE, AS_IT_IS]),
    ("googlenet", {"transform_input": True}, [NO_RECIPE]),
    ("googlenet.tv", {}, [of("googlenet.tv"), RESCALES]),
    ("inception_v3", {}, [NO_RECIPE, AS_IT_IS]),
    ("inception_v3.tv", {}, [of("inception_v3.tv"), RESCALES]),
    ("vgg11_bn", {}, [NO_RECIPE]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields", "sentences"), OPEN)
def test_what_is_assumed_of_a_file_of_tensors(
    name: str, fields: dict, sentences: list, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = catalogue.find(name)
    path = bare_file(tmp_path, record.arch if record else name, 1 / 32)
    create_model(name, weights=path, width=1 / 32, **fields)
    assert said(caplog, name, path) == sentences


@pytest.mark.parametrize("recipe", [None, Preprocessing((8, 8))])
def test_our_own_files_say_it_themselves(
    recipe: Preprocessing | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, fields = tmp_path / "model.safetensors", {"width": 1 / 32, "stride_in_1x1": True, "num_classes": 3}
    arrays = registry.flat_state(registry.build("resnet50", seed=0, **fields))
    native.write(path, arrays, native.describe("resnet50", fields, recipe))
    assert create_model("resnet50", weights=path).preprocessing == recipe
    assert said(caplog, "resnet50", path) == ([] if recipe else [NO_RECIPE])


def test_nothing_is_assumed_of_a_record_s_own_file(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = create_model("vgg11_slim.cifar10")
    create_model("vgg11_slim.cifar10", weights=False)
    assert model.record.name == "vgg11_slim.cifar10" and "assumed" not in caplog.text
