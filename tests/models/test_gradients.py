"""Every architecture can be trained: its gradient is traced, with nothing computed."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from transfer.models import registry

# Sizes that a family takes with its classifier, where it is not any.
SIZES = {"lenet5": (28, 1), "alexnet": (96, 3), "inception_v3": (96, 3)}
# One depth of a family stands for all.
FAMILIES = ("vgg11_bn", "resnet18", "resnet50v2", "alexnet", "lenet5", "googlenet", "inception_v3")


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_parameter_has_a_gradient(arch):
    size, channels = SIZES.get(arch, (64, 3))
    model = registry.build(arch, seed=None, num_classes=3)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, images):
        logits, _ = nnx.merge(graph, params, rest, copy=True)(images, rngs=nnx.Rngs(0))
        return logits.sum()

    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    found = jax.make_jaxpr(jax.jit(jax.grad(loss)))(params, rest, images)
    assert [out.shape for out in found.out_avals] == [leaf.shape for leaf in jax.tree.leaves(params)]


def test_no_family_is_left_out():
    def module(arch):
        builder = registry.architectures()[arch]
        return getattr(builder, "func", builder).__module__

    assert {module(arch) for arch in registry.architectures()} == {module(arch) for arch in FAMILIES}
