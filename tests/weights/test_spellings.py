"""Networks in checkpoints of other people's programs: under prefixes, beside others, by the numbers of children."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from golden import reading, seeded
from spelt import WIDTH, arrays, assert_read, body, layers, numbered, other, resnet, under
from support.filled import from_tensors

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import create_model, native, spellings
from transfer.weights.load import fit
from transfer.weights.names import NameMap, name_map, shapes_of


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "timm_model.", "conv_encoder.model."),
        *("module.model.", "module._orig_mod.backbone.resnet.", "a/b/", "0.", "layer4.", "fc.", "7.0.conv1."),
    ],
)
def test_a_prefix_is_taken_off_and_said(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="absl"):
        assert_read(under(prefix, resnet()))
    assert caplog.messages == [f"resnet18: the network in x lies under {prefix!r}"]


def test_what_lies_outside_of_the_prefix_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    beside = layers("head.", 32, 10) | layers("decoder.layer1.0.", 8, 8, 8)
    with caplog.at_level("INFO", logger="absl"):
        assert_read(under("backbone.", body(resnet())) | beside, classifier=False)
    outside = "6 outside of it are left out (head.0.weight, head.0.bias, decoder.layer1.0.0.weight, …)"
    assert caplog.messages[0] == f"resnet18: the network in x lies under 'backbone.': {outside}"


def test_a_prefix_in_safetensors(tmp_path: Path) -> None:
    native.write(tmp_path / "x.safetensors", under("module.net.", resnet()))
    model = create_model("resnet18.tv", weights=tmp_path / "x.safetensors", width=WIDTH)
    np.testing.assert_array_equal(registry.flat_state(model)["logits.bias"], resnet()["fc.bias"])


def test_two_networks_are_named_and_prefix_chooses() -> None:
    both = under("module.encoder_k.", other(resnet())) | under("module.encoder_q.", resnet())
    with pytest.raises(TransferError) as error:
        arrays(both)
    listed = "'module.encoder_k', 'module.encoder_q'"
    assert str(error.value) == f"x holds several networks, under {listed}; choose one by prefix="
    for prefix in ("module.encoder_q", "module.encoder_q."):
        assert_read(both, prefix=prefix)
    for wrong in ("module", "encoder_q", "", "module.encoder_"):
        with pytest.raises(TransferError) as error:
            arrays(both, prefix=wrong)
        assert str(error.value) == f"x has no such network under prefix={wrong!r}; there is one under {listed}"
    with pytest.raises(TransferError, match="^x has no such network under prefix='module'$"):
        arrays({"a": np.ones(3)}, prefix="module")


def test_many_networks() -> None:
    with pytest.raises(TransferError, match=r"^x holds several networks, under 'm0', 'm1', 'm2', …; choose"):
        arrays({name: t for i in range(20) for name, t in under(f"m{i}.", resnet()).items()})


def test_one_network_twice_is_one() -> None:
    copies = {name: tensor.copy() for name, tensor in under("module.attacker.model.", resnet()).items()}
    assert_read(copies | under("module.model.", resnet()))


def test_one_backbone_with_two_classifiers_is_two_networks() -> None:
    """Two heads on one frozen backbone; where only one has a classifier, it is that one."""
    copies = {name: tensor.copy() for name, tensor in resnet().items()}
    both = under("first.", resnet()) | under("second.", body(copies) | {"fc.weight": copies["fc.weight"] + 1})
    with pytest.raises(TransferError, match="several networks, under 'first', 'second'; choose one by prefix="):
        arrays(both)
    assert_read(both, prefix="first")
    assert_read(both, classifier=False, num_classes=0)
    assert_read(under("first.", body(copies)) | under("second.", resnet()))


def test_a_network_inside_another_ones_prefix() -> None:
    both = resnet() | under("teacher.", other(resnet()))
    with pytest.raises(TransferError, match="several networks, under '', 'teacher'; choose"):
        arrays(both)
    assert_read(both, prefix="")
    assert_read(under("momentum.", other(resnet())) | under("", resnet()), prefix="")


def test_a_student_that_is_smaller_than_its_teacher() -> None:
    """ResNet-34 has all the names of ResNet-18."""
    teacher = {name: np.zeros(shape, np.float32) for name, shape in torch_shapes("resnet34", width=WIDTH).items()}
    assert_read(under("teacher.", teacher) | under("student.", resnet()))


def test_what_an_incomplete_network_lacks_is_listed_by_the_files_names() -> None:
    tensors = under("module.net.", resnet())
    del tensors["module.net.layer3.0.conv1.weight"]
    with pytest.raises(TransferError) as error:
        arrays(tensors | {"module.other.weight": np.ones(1)})
    missing = "1 missing (stage3.unit1.conv1.kernel as module.net.layer3.0.conv1.weight)"
    assert str(error.value) == f"x does not fit resnet18 by torchvision names: {missing}"


def test_a_head_without_a_network() -> None:
    with pytest.raises(
        TransferError, match=r"^x does not fit resnet18: none of its 2 tensors \(linear.weight, linear.bias"
    ):
        arrays({"linear.weight": np.ones((3, 4), np.float32), "linear.bias": np.ones(3, np.float32)})


def test_something_unknown_in_the_network_is_refused() -> None:
    with pytest.raises(TransferError) as error:
        arrays(under("net.", resnet() | {"layer1.0.se.weight": np.ones(3)}))
    unexpected = "1 unexpected (net.layer1.0.se.weight); if they are no part of the network, save it without them"
    assert str(error.value) == f"x does not fit resnet18 by torchvision names: {unexpected}"


def renamed(old: str, *names: str) -> dict[str, np.ndarray]:
    """The network with tensors of these names in place of one."""
    return {name: t for n, t in resnet().items() for name in (names if n == old else [n])}


def grouped() -> dict[str, np.ndarray]:
    """`nn.Sequential(nn.Sequential(conv1, bn1), layer1, …)`."""
    tensors = {name.replace("layer", ""): tensor for name, tensor in body(resnet()).items()}
    return {
        n.replace("conv1.", "0.0.", n[0] == "c").replace("bn1.", "0.1.", n[0] == "b"): t for n, t in tensors.items()
    }


PARAMETRIZED = [f"layer1.0.conv1.parametrizations.weight.original{i}" for i in range(2)]
SPELT_BY_TRAINING = {
    "pruned": (renamed("conv1.weight", "conv1.weight_orig", "conv1.weight_mask"), "it is pruned: save .*prune.remove"),
    "spectral": (
        renamed("conv1.weight", "conv1.weight_orig", "conv1.weight_u", "conv1.weight_v"),
        "save it after .*remove_spectral_n",
    ),
    "weight norm": (renamed("fc.weight", "fc.weight_g", "fc.weight_v"), "save it after .*remove_weight_norm"),
    "parametrized": (renamed("layer1.0.conv1.weight", *PARAMETRIZED), "save it after .*remove_parametrizations"),
    "parameters": (
        {n: t for n, t in resnet().items() if "running" not in n and "num_b" not in n},
        "save model.state_dict",
    ),
    "grouped": (grouped(), "numbers stand for names, as in an nn.Sequential: save the state_dict"),
}


@pytest.mark.parametrize("what", SPELT_BY_TRAINING)
def test_what_to_save_instead_is_said(what: str) -> None:
    tensors, words = SPELT_BY_TRAINING[what]
    with pytest.raises(TransferError, match=rf"^x does not fit resnet18\b.*; {words}") as error:
        arrays(tensors)
    assert "\n" not in str(error.value)


def test_another_architecture_under_a_prefix_is_recognised() -> None:
    with pytest.raises(TransferError, match=r"^x does not fit vgg16: its 122 tensors look like resnet18 from torchv"):
        arrays(under("module.backbone.", resnet()), "vgg16", width=1)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.features."])
@pytest.mark.parametrize("whole", [True, False])
def test_children_by_their_numbers(prefix: str, whole: bool) -> None:
    assert_read(under(prefix, numbered(resnet() if whole else body(resnet()))), classifier=whole)


# The numbers in `nn.Sequential(*list(model.children()))` of torchvision's own modules: name -> number.
NUMBERS = {
    "vgg11_bn": {"features": 0, "classifier": 2},
    "alexnet": {"features": 0, "classifier": 2},
    "resnet50": {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9},
    "googlenet": {"conv1": 0, "conv2": 2, "conv3": 3, "inception3a": 5, "inception3b": 6, "inception4a": 8}
    | {"inception4b": 9, "inception4c": 10, "inception4d": 11, "inception4e": 12, "inception5a": 14, "inception5b": 15}
    | {"aux1": 16, "aux2": 17, "fc": 20},
    "inception_v3": {"Conv2d_1a_3x3": 0, "Conv2d_2a_3x3": 1, "Conv2d_2b_3x3": 2, "Conv2d_3b_1x1": 4}
    | {"Conv2d_4a_3x3": 5, "Mixed_5b": 7, "Mixed_5c": 8, "Mixed_5d": 9, "Mixed_6a": 10, "Mixed_6b": 11, "Mixed_6c": 12}
    | {"Mixed_6d": 13, "Mixed_6e": 14, "AuxLogits": 15, "Mixed_7a": 16, "Mixed_7b": 17, "Mixed_7c": 18, "fc": 21},
}
WITHOUT_AUXILIARY = {
    "googlenet": NUMBERS["googlenet"] | {"fc": 18},
    "inception_v3": NUMBERS["inception_v3"] | {"Mixed_7a": 15, "Mixed_7b": 16, "Mixed_7c": 17, "fc": 20},
}
CASES = [(arch, NUMBERS, True) for arch in NUMBERS] + [(arch, NUMBERS, False) for arch in NUMBERS]
CASES += [(arch, WITHOUT_AUXILIARY, whole) for arch in WITHOUT_AUXILIARY for whole in (True, False)]


def of_library(arch: str) -> tuple[Mapping[str, tuple[int, ...]], NameMap, dict[str, np.ndarray]]:
    """The sizes of our arrays, the map of torchvision's names, and stand-ins of its tensors."""
    golden = reading.cases()[arch]
    shapes = shapes_of(registry.build(golden.arch, seed=None, **golden.fields))
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in golden.shapes.items()}
    return shapes, name_map(golden.arch, "torchvision", shapes), theirs


@pytest.mark.parametrize(("arch", "numbers", "whole"), CASES)
def test_children_of_every_family(arch: str, numbers: Mapping[str, Mapping[str, int]], whole: bool) -> None:
    shapes, names, theirs = of_library(arch)
    auxiliary = names.row.excused if numbers is WITHOUT_AUXILIARY else ()
    spelt = {
        name: f"{numbers[arch][name.partition('.')[0]]}.{name.partition('.')[2]}"
        for name in theirs
        if not name.startswith(auxiliary) and (whole or not names.in_classifier(name))
    }
    tensors = {number: theirs[name] for name, number in spelt.items()}
    place = spellings.find(tensors, [names], shapes)
    paths = list(shapes) if whole else names.backbone
    assert fit(place.tensors, {path: shapes[path] for path in paths}, place.names.only(paths))[1].fits
    for path in paths:
        assert place.names.sources[path].name == spelt[names.sources[path].name]


@pytest.mark.parametrize("arch", ["vgg11", "vgg11_bn", "alexnet"])
@pytest.mark.parametrize("prefix", ["", "body.", "module.body."])
def test_the_state_dict_of_features_alone(arch: str, prefix: str) -> None:
    shapes, names, theirs = of_library(arch)
    features = {name for name in theirs if name.startswith("features.")}
    tensors = {f"{prefix}{name.removeprefix('features.')}": theirs[name] for name in features}
    place = spellings.find(tensors, [names], shapes)
    assert place.prefix == prefix and not place.outside
    for path in names.backbone:
        assert place.names.sources[path].name == f"{prefix}{names.sources[path].name.removeprefix('features.')}"


def test_the_features_of_vgg_become_a_model_without_classifier() -> None:
    tensors = {n.removeprefix("features."): t for n, t in reading.cases()["vgg11"].state_dict().items() if "feat" in n}
    found = arrays(tensors, "vgg11", width=1)
    assert len(found) == 16 and "logits.bias" not in found
    np.testing.assert_array_equal(found["block1.conv1.bias"], tensors["0.bias"])


def torch_shapes(arch: str, **fields: object) -> dict[str, tuple[int, ...]]:
    """Names and sizes of torchvision's tensors, made from ours."""
    model = registry.build(arch, seed=None, **fields)
    ours = shapes_of(model)
    shapes = {}
    for path, source in name_map(arch, "torchvision", ours).sources.items():
        sides = ours[path]
        shapes[source.name] = tuple(sides[place] for place in {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(sides)])
    return shapes


TRANSFORMERS = json.loads((reading.HERE / "transformers.json").read_text())


SLOW = {"bottleneck", "without its head"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in TRANSFORMERS["cases"]]
)
def test_resnets_of_transformers_give_its_outputs(case: str) -> None:
    golden = TRANSFORMERS["cases"][case]
    model = from_tensors(golden["arch"], seeded.state_dict(golden["shapes"]), width=WIDTH, **golden["fields"])
    with jax.default_matmul_precision("highest"):
        outputs, _ = nnx.jit(lambda model, images: model(images))(model, seeded.images(TRANSFORMERS["size"]))
    expected = np.array(golden["outputs"])
    assert outputs.shape == expected.shape
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_resnet_of_transformers_is_recognised_and_taken_by_records(tmp_path: Path) -> None:
    tensors = seeded.state_dict(TRANSFORMERS["cases"]["basic"]["shapes"])
    with pytest.raises(TransferError, match=r"tensors look like resnet18 from Hugging Face transformers, with layers"):
        arrays(tensors, "vgg16", width=1)
    native.write(tmp_path / "model.safetensors", tensors)
    model = create_model("resnet18.tv", weights=tmp_path / "model.safetensors", width=WIDTH)
    np.testing.assert_array_equal(registry.flat_state(model)["logits.bias"], tensors["classifier.1.bias"])
