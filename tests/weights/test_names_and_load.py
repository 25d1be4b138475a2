"""Name maps cover every architecture, and strict loading says exactly what does not fit."""

from collections.abc import Mapping

import numpy as np
import pytest
from golden import reading
from support.filled import from_tensors

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import names
from transfer.weights.load import Likeness, Report, fit, require_fit
from transfer.weights.maps import Family, Names
from transfer.weights.names import Source, from_keras, from_torch, libraries, name_map

ARCHITECTURES = sorted(registry.architectures())


def shapes_of(arch: str, **fields: object) -> dict[str, tuple[int, ...]]:
    model = registry.build(arch, seed=None, **fields)
    return {path: array.shape for path, array in registry.flat_state(model).items()}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_array_has_one_name_of_its_own_in_every_library(arch: str) -> None:
    shapes = shapes_of(arch)
    assert libraries(arch)[0] == "native" and len(libraries(arch)) > 1
    for library in libraries(arch):
        sources = name_map(arch, library, shapes).sources
        assert set(sources) == set(shapes)
        assert len({source.name for source in sources.values()}) == len(shapes)


def test_layouts() -> None:
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # out, in, height, width
    assert np.array_equal(from_torch(kernel, (4, 5, 3, 2)), np.einsum("oihw->hwio", kernel))
    flat = kernel.reshape(2, -1)
    expected = np.einsum("oihw->hwio", kernel).reshape(-1, 2)
    assert np.array_equal(from_torch(flat, (60, 2), cells=20), expected)
    assert np.array_equal(from_torch(kernel, (60, 2)), expected)
    assert from_keras(kernel, kernel.shape) is kernel and Source("x").convert(kernel, (1,)) is kernel
    assert from_torch(flat, (9, 9), cells=7).shape == (60, 2)  # not divisible: left to be reported


def test_tokens_and_parts_of_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transformer needs: arrays that are no layer's variable, and three kernels that are stored as one."""
    shapes = {"class_token": (4,), "proj.kernel": (4, 4), "proj.bias": (4,)}
    shapes |= {f"{part}.{name}": shape for part in "qkv" for name, shape in (("kernel", (4, 2, 2)), ("bias", (2, 2)))}

    def part_of(number: int, name: str) -> Source:
        return Source(name, lambda tensor, shape: np.split(tensor, 3)[number].T.reshape(shape))

    def sources(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
        variables = (("kernel", "weight"), ("bias", "bias"))
        parts = {
            f"{part}.{ours}": part_of(i, f"qkv.{name}") for i, part in enumerate("qkv") for ours, name in variables
        }
        return parts | {"class_token": Source("cls_token", lambda tensor, shape: tensor.reshape(-1))}

    family = Family({"timm": Names(lambda layers: {"proj": "proj"}, sources=sources)})
    monkeypatch.setattr(names, "family", lambda arch: family)
    tensors = {
        "cls_token": (1, 1, 4),
        "qkv.weight": (12, 4),
        "qkv.bias": (12,),
        "proj.weight": (4, 4),
        "proj.bias": (4,),
    }
    tensors = {name: np.random.default_rng(0).normal(size=shape) for name, shape in tensors.items()}
    arrays, report = fit(tensors, shapes, name_map("vit", "timm", shapes))
    assert report.fits and {path: array.shape for path, array in arrays.items()} == shapes
    tokens = np.ones((3, 4))
    fused = (tokens @ tensors["qkv.weight"].T + tensors["qkv.bias"]).reshape(3, 3, 2, 2)
    for i, part in enumerate("qkv"):
        ours = np.einsum("td,dhk->thk", tokens, arrays[f"{part}.kernel"]) + arrays[f"{part}.bias"]
        np.testing.assert_allclose(ours, fused[:, i])
    np.testing.assert_array_equal(arrays["class_token"], tensors["cls_token"][0, 0])
    _, report = fit(tensors | {"cls_token": np.ones(5)}, shapes, name_map("vit", "timm", shapes))
    assert str(report) == "1 misshapen (cls_token (5,) for class_token (4,))"


SMALL = {"width": 1 / 16, "num_classes": 10}


def small_tensors() -> dict[str, np.ndarray]:
    return reading.cases()["resnet18_slim"].state_dict()


def test_what_is_missing_unexpected_and_misshapen_is_listed() -> None:
    tensors = small_tensors()
    del tensors["layer1.0.conv1.weight"]
    tensors["layer9.0.conv1.weight"] = np.zeros(3)
    tensors["bn1.weight"] = np.zeros(5)
    with pytest.raises(TransferError) as error:
        from_tensors("resnet18", tensors, file="x.pth", width=1 / 16)
    assert str(error.value) == (
        "x.pth does not fit resnet18 by torchvision names: "
        "1 missing (stage1.unit1.conv1.kernel as layer1.0.conv1.weight); "
        "1 unexpected (layer9.0.conv1.weight); "
        "1 misshapen (bn1.weight (5,) for stem.bn.scale (4,))"
    )


@pytest.mark.parametrize(("matched", "is_asked"), [(8, True), (9, False)])
def test_what_nearly_fits_is_listed_and_not_looked_up(matched: int, is_asked: bool) -> None:
    """Nine tenths is near: that file is of the model, and damaged."""
    report = Report(["a"] * matched, ["b as c"], [], [], [])
    with pytest.raises(TransferError) as error:
        require_fit(report, "x", "vgg16", "timm", lambda: Likeness("vgg19", False))
    hint = "; it looks most like vgg19" if is_asked else ""
    assert str(error.value) == f"x does not fit vgg16 by timm names: 1 missing (b as c){hint}"


def test_long_lists_are_cut() -> None:
    tensors = {name: array for name, array in small_tensors().items() if not name.startswith("layer2")}
    with pytest.raises(TransferError, match=r"25 missing \([^,]+, [^,]+, [^,]+, …\)$"):
        from_tensors("resnet18", tensors, width=1 / 16)


def test_only_what_inference_does_not_need_is_excused() -> None:
    shapes = shapes_of("resnet18", **SMALL)
    tensors = small_tensors()
    arrays, report = fit(tensors, shapes, name_map("resnet18", "torchvision", shapes))
    assert report.fits and set(arrays) == set(shapes)
    assert set(report.excused) == {name for name in tensors if name.endswith("num_batches_tracked")}
    headless = shapes_of("resnet18", width=1 / 16, num_classes=0)
    _, report = fit(tensors, headless, name_map("resnet18", "torchvision", headless))
    assert report.fits and {"fc.weight", "fc.bias"} < set(report.excused)


def test_half_precision_becomes_float32() -> None:
    import ml_dtypes

    tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in small_tensors().items()}
    arrays = registry.flat_state(from_tensors("resnet18", tensors, width=1 / 16))
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    np.testing.assert_array_equal(arrays["logits.bias"], tensors["fc.bias"].astype(np.float32))
