"""Every architecture of the registry: sizes as published, taps, fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import reading

from transfer.errors import UsageError
from transfer.models.graph.trace import trace
from transfer.models.registry import architectures, build, defaults, flat_state, load_flat_state
from transfer.weights import catalogue

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VGG_TAPS = ["block1", "block2", "block3", "block4", "block5", "pre_logits", "fc1", "fc2", "logits"]
RESNET_TAPS = ["stem", "stage1", "stage2", "stage3", "stage4", "pre_logits", "logits"]
GOOGLENET_TAPS = ["stem", *(f"inception{n}" for n in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"))]
FAMILIES = {
    "vgg": VGG_TAPS,
    "resnet": RESNET_TAPS,
    "wide": RESNET_TAPS,
    "resnext": RESNET_TAPS,
    "alexnet": ["conv1", "conv2", "conv3", "conv4", "conv5", "pre_logits", "fc1", "fc2", "logits"],
    "lenet5": ["block1", "block2", "pre_logits", "fc1", "fc2", "logits"],
    "googlenet": [*GOOGLENET_TAPS, "pre_logits", "logits"],
    "inception": ["stem", *(f"mixed{i}" for i in range(11)), "pre_logits", "logits"],
}
# Records of one architecture at one size have the same costs.
COSTS = {
    (r.arch, r.fields, r.num_classes, r.preprocessing.image_size, r.name_map == "keras"): r.name
    for r in catalogue.records().values()
}


def shapes(model: nnx.Module, *images: int) -> dict[str, tuple[int, ...]]:
    _, endpoints = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct(images, jnp.float32))
    return {name: value.shape for name, value in endpoints.items()}


# op by op, a model compiles a program for each of its shapes
run = nnx.jit(lambda model, images: model(images))


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS.values())
def test_parameters_and_multiply_adds_as_published(name):
    """Parameters exactly; torchvision and timm leave the moving statistics of batch norm out, Keras counts them."""
    record = catalogue.get(name)
    model = build(record.arch, seed=None, num_classes=record.num_classes, **dict(record.fields))
    counted = (nnx.Param, nnx.BatchStat) if record.name_map == "keras" else (nnx.Param,)
    params = nnx.state(model, nnx.Any(*counted))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == record.num_params
    graph = trace(model, (1, *record.preprocessing.image_size, 3))
    assert graph.macs / 1e9 == pytest.approx(record.gflops, rel=0.01, abs=0.0005)  # figures have three digits


# as torchvision's documentation has them; Inception's with the auxiliary classifier, which its file holds
@pytest.mark.parametrize(
    "arch, auxiliary, published", [("inception_v3", "AuxLogits.", 27_161_264), ("googlenet", None, 6_624_904)]
)
def test_with_the_auxiliary_classifier_as_published(arch, auxiliary, published):
    case = reading.cases()[arch]
    assert sum(name.startswith(("AuxLogits.", "aux1.", "aux2.")) for name in case.shapes) > 10
    classes = {case.fields["num_classes"]: 1000}
    excused = [
        np.prod([classes.get(side, side) for side in shape])
        for name, shape in case.shapes.items()
        if auxiliary and name.startswith(auxiliary) and name.endswith((".weight", ".bias"))
    ]
    params = nnx.state(build(arch, seed=None), nnx.Param)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) + sum(excused) == published


def test_lenet5_has_the_papers_parameters():
    params = nnx.state(build("lenet5", seed=None), nnx.Param)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 61_706


@pytest.mark.slow
@pytest.mark.parametrize("arch", architectures())
def test_taps_and_their_shapes(arch):
    taps = next(taps for family, taps in FAMILIES.items() if arch.startswith(family))
    size = (2, 28, 28, 1) if arch == "lenet5" else (2, 128, 96, 3)
    found = shapes(build(arch, seed=None), *size)
    assert set(found) == set(taps)
    last = found[taps[taps.index("pre_logits") - 1]]
    assert found["pre_logits"] == (2, last[-1]) and len(last) == 4
    assert found["logits"] == (2, 10 if arch == "lenet5" else 1000)
    if arch.startswith(("vgg", "res", "wide")):
        assert last[:3] == (2, 4, 3)  # a 32nd of the size each way


ANY = dict(num_classes=1000, channels=3, width=1.0)
AS_TORCHVISION = dict(stride_in_1x1=False, conv_bias=False, bn_epsilon=1e-5, pool_pad_value=-np.inf)
# What a model is built with if nothing else is said: torchvision's, and LeNet-5 as it is taught.
FIELDS = {
    "alexnet": ANY | dict(hidden=(4096, 4096)),
    "googlenet": ANY | dict(transform_input=False),
    "inception_v3": ANY | dict(transform_input=False, bn_scale=True, count_padding=True),
    "lenet5": dict(num_classes=10, width=1.0, channels=1, image_size=28, activation="tanh", pool="average"),
    "resnet18": ANY | AS_TORCHVISION | dict(groups=1, width_per_group=64),
    "resnet50v2": ANY,
    "resnext101_32x8d": ANY | AS_TORCHVISION | dict(groups=32, width_per_group=8),
    "vgg16": ANY | dict(use_batch_norm=False, hidden=(4096, 4096), adaptive_pool=True),
    "wide_resnet50_2": ANY | AS_TORCHVISION | dict(groups=1, width_per_group=128),
}


@pytest.mark.parametrize("arch", FIELDS)
def test_fields(arch):
    assert defaults(arch) == FIELDS[arch]


@pytest.mark.parametrize("arch", ["vgg11_bn", "resnet18", "resnet50"])
def test_width_multiplies_channels(arch):
    whole = flat_state(build(arch, seed=None))
    slim = flat_state(build(arch, seed=None, width=0.25))
    assert whole.keys() == slim.keys()
    for name, array in slim.items():
        if name.endswith("conv2.kernel") or name.endswith("bn1.scale"):
            assert [4 * n for n in array.shape[-2:]] == list(whole[name].shape[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg11", "resnet18"])
def test_without_classifier_the_output_is_the_pooled_features(arch):
    model = build(arch, num_classes=0, width=0.125)
    images = random_images(2, 40, 33, 3)
    output, endpoints = run(model, images)
    assert "logits" not in endpoints and "fc1" not in endpoints
    np.testing.assert_array_equal(output, endpoints["pre_logits"])
    last = endpoints["block5" if arch == "vgg11" else "stage4"]
    np.testing.assert_allclose(output, np.asarray(last).mean((1, 2)), rtol=1e-6)


def test_resnet_v2_as_keras_has_it():
    """`keras.applications.ResNet50V2` on 75x53 pixels: 3 pixels around a 7x7 /2, 1 around a pool /2 and each 3x3."""
    model = build("resnet50v2", seed=None)
    assert shapes(model, 1, 75, 53, 3) == {
        "stem": (1, 19, 14, 64),
        "stage1": (1, 10, 7, 256),
        "stage2": (1, 5, 4, 512),
        "stage3": (1, 3, 2, 1024),
        "stage4": (1, 3, 2, 2048),
        "pre_logits": (1, 2048),
        "logits": (1, 1000),
    }
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)]
    assert len(norms) == 49 and {(norm.epsilon, norm.momentum) for norm in norms} == {(1.001e-5, 0.9)}


def test_keras_classifier_takes_its_own_size_only():
    model = build("vgg11", seed=None, adaptive_pool=False)
    assert shapes(model, 1, 224, 224, 3)["logits"] == (1, 1000)
    with pytest.raises(UsageError, match="224x224"):
        shapes(model, 1, 256, 256, 3)


@pytest.mark.parametrize(
    ("arch", "least"),
    [("vgg11", 32), ("alexnet", 63), ("googlenet", 15), ("inception_v3", 75), ("resnet18", 1), ("lenet5", 16)],
)
def test_wrong_images_are_named(arch, least):
    model, channels = build(arch, seed=None, num_classes=0), 1 if arch == "lenet5" else 3
    assert all(map(all, shapes(model, 1, least, least, channels).values()))
    for wrong in [(1, least - 1, 96, channels), (1, 96, least - 1, channels), (1, 96, 96, 4), (96, 96, channels)]:
        with pytest.raises(UsageError) as error:
            shapes(model, *wrong)
        said = f" takes images (batch, height, width, {channels}) of at least {least}x{least} pixels (image_size), got "
        assert str(error.value).endswith(said + str(wrong))


@pytest.mark.slow
def test_flat_state_round_trip():
    one, other = build("resnet18", width=0.1, seed=1), build("resnet18", width=0.1, seed=2)
    load_flat_state(other, flat_state(one))
    images = random_images(2, 32, 32, 3)
    np.testing.assert_array_equal(run(one, images)[0], run(other, images)[0])
    np.testing.assert_array_equal(
        flat_state(one)["stage2.unit1.proj.kernel"], flat_state(other)["stage2.unit1.proj.kernel"]
    )


@pytest.mark.slow
def test_training_mode_uses_batch_statistics_and_updates_them():
    model = build("vgg11_bn", width=0.1, hidden=(), num_classes=3)
    images = 3 + 2 * random_images(8, 32, 32, 3)
    before = np.asarray(model.block1.bn1.mean.get_value())
    frozen, _ = run(model, images)
    np.testing.assert_array_equal(before, model.block1.bn1.mean.get_value())
    model.train()
    trained, _ = run(model, images)
    assert not np.allclose(frozen, trained)
    assert not np.allclose(before, model.block1.bn1.mean.get_value())


@pytest.mark.parametrize(
    "arch, fields, message",
    [("vgg61", {}, "did you mean vgg19, vgg16"), ("vgg16", {"depth": 3}, "has no field 'depth'")],
)
def test_unknown_names(arch, fields, message):
    with pytest.raises(UsageError, match=message):
        build(arch, **fields)
