"""Every architecture of the registry: sizes as published, taps, fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transfer.errors import UsageError
from transfer.models.registry import architectures, build, flat_state, load_flat_state

# Parameters as torchvision's documentation publishes them for its ImageNet classifiers.
PUBLISHED_PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
VGG_TAPS = ["block1", "block2", "block3", "block4", "block5", "pre_logits", "fc1", "fc2", "logits"]
RESNET_TAPS = ["stem", "stage1", "stage2", "stage3", "stage4", "pre_logits", "logits"]


def shapes(model: nnx.Module, *images: int) -> dict[str, tuple[int, ...]]:
    _, endpoints = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct(images, jnp.float32))
    return {name: value.shape for name, value in endpoints.items()}


# op by op, a model compiles a program for each of its shapes
run = nnx.jit(lambda model, images: model(images))


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_table_covers_the_registry():
    assert PUBLISHED_PARAMETERS.keys() <= architectures().keys()


@pytest.mark.parametrize("arch", PUBLISHED_PARAMETERS)
def test_parameters_as_published(arch):
    params = nnx.state(build(arch, seed=None), nnx.Param)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PUBLISHED_PARAMETERS[arch]


@pytest.mark.parametrize("arch", PUBLISHED_PARAMETERS)
def test_taps_and_their_shapes(arch):
    found = shapes(build(arch, seed=None), 2, 96, 64, 3)
    assert set(found) == set(VGG_TAPS if arch.startswith("vgg") else RESNET_TAPS)
    last = found["block5" if arch.startswith("vgg") else "stage4"]
    assert last[:3] == (2, 3, 2)
    assert found["pre_logits"] == (2, last[-1])
    assert found["logits"] == (2, 1000)


@pytest.mark.parametrize("arch", ["vgg11_bn", "resnet18", "resnet50"])
def test_width_multiplies_channels(arch):
    whole = flat_state(build(arch, seed=None))
    slim = flat_state(build(arch, seed=None, width=0.25))
    assert whole.keys() == slim.keys()
    for name, array in slim.items():
        if name.endswith("conv2.kernel") or name.endswith("bn1.scale"):
            assert [4 * n for n in array.shape[-2:]] == list(whole[name].shape[-2:])


@pytest.mark.parametrize("arch", ["vgg11", "resnet18"])
def test_without_classifier_the_output_is_the_pooled_features(arch):
    model = build(arch, num_classes=0, width=0.125)
    images = random_images(2, 40, 33, 3)
    output, endpoints = run(model, images)
    assert "logits" not in endpoints and "fc1" not in endpoints
    np.testing.assert_array_equal(output, endpoints["pre_logits"])
    last = endpoints["block5" if arch == "vgg11" else "stage4"]
    np.testing.assert_allclose(output, np.asarray(last).mean((1, 2)), rtol=1e-6)


def test_keras_classifier_takes_its_own_size_only():
    model = build("vgg11", seed=None, adaptive_pool=False)
    assert shapes(model, 1, 224, 224, 3)["logits"] == (1, 1000)
    with pytest.raises(UsageError, match="224x224"):
        shapes(model, 1, 256, 256, 3)


@pytest.mark.parametrize("shape", [(1, 31, 64, 3), (1, 64, 64, 1), (64, 64, 3)])
def test_wrong_images_are_named(shape):
    with pytest.raises(UsageError, match="at least 32x32"):
        shapes(build("vgg11", seed=None), *shape)


def test_flat_state_round_trip():
    one, other = build("resnet18", width=0.1, seed=1), build("resnet18", width=0.1, seed=2)
    load_flat_state(other, flat_state(one))
    images = random_images(2, 32, 32, 3)
    np.testing.assert_array_equal(run(one, images)[0], run(other, images)[0])
    np.testing.assert_array_equal(
        flat_state(one)["stage2.unit1.proj.kernel"], flat_state(other)["stage2.unit1.proj.kernel"]
    )


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
