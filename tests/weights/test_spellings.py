"""Networks in checkpoints of other people's programs: under prefixes, beside others, by the numbers of children."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from golden import reading, seeded
from spelt import WIDTH, arrays, assert_read, body, layers, numbered, other, resnet, under

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import native
from transfer.weights.create import create_model, from_tensors
from transfer.weights.names import name_map, shapes_of


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


def test_something_unknown_in_the_network_is_refused() -> None:
    with pytest.raises(TransferError) as error:
        arrays(under("net.", resnet() | {"layer1.0.se.weight": np.ones(3)}))
    unexpected = "1 unexpected (net.layer1.0.se.weight); if they are no part of the network, save it without them"
    assert str(error.value) == f"x does not fit resnet18 by torchvision names: {unexpected}"


def test_another_architecture_under_a_prefix_is_recognised() -> None:
    with pytest.raises(TransferError, match=r"^x does not fit vgg16: its 122 tensors look like resnet18 from torchv"):
        arrays(under("module.backbone.", resnet()), "vgg16", width=1)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.features."])
@pytest.mark.parametrize("whole", [True, False])
def test_children_by_their_numbers(prefix: str, whole: bool) -> None:
    assert_read(under(prefix, numbered(resnet() if whole else body(resnet()))), classifier=whole)


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
