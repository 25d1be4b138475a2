"""What `--models`, `--batch` and `--dtype` stand for."""

import argparse

import numpy as np
import pytest

from transfer.bench.cases import Case, cases_of, matching, random_model, words
from transfer.errors import UsageError
from transfer.models import registry


def test_a_wildcard_without_a_dot_goes_through_architectures():
    assert set(matching("resnet*")) == {name for name in registry.architectures() if name.startswith("resnet")}


def test_a_wildcard_with_a_dot_goes_through_the_catalogue():
    assert matching("vgg1[16].tv") == ["vgg11.tv", "vgg16.tv"]


def test_in_the_order_given_each_once():
    assert matching("vgg16, resnet50.tv1,vgg1?") == ["vgg16", "resnet50.tv1", "vgg11", "vgg13", "vgg19"]


@pytest.mark.parametrize("text, hint", [("resnet51", "resnet50"), ("vgg*.nowhere", "vgg16.keras"), ("xyz*", "models")])
def test_what_stands_for_nothing_is_refused(text, hint):
    with pytest.raises(UsageError, match=rf"nothing is called {text!r}".replace("*", r"\*")) as caught:
        matching(text)
    assert hint in str(caught.value)


def options(batch):
    return argparse.Namespace(models="vgg16", batch=batch, dtype="float32,bfloat16", precision="high")


def test_every_combination():
    assert cases_of(options(None)) == [
        Case("vgg16", 1, "float32"),
        Case("vgg16", 8, "float32"),
        Case("vgg16", 1, "bfloat16"),
        Case("vgg16", 8, "bfloat16"),
    ]


@pytest.mark.parametrize("text", [",", "8,", "0", "-1", "1.5", "eight"])
def test_batches_are_whole_numbers(text):
    with pytest.raises(UsageError, match="--batch="):
        cases_of(options(text))


def test_words_are_stripped_and_each_once():
    assert words("dtype", "float32 , bfloat16,float32") == ["float32", "bfloat16"]


def test_random_weights_leave_out_no_layer_and_keep_the_variance():
    """He-uniform kernels: between plus and minus sqrt(6 / inputs of a unit); batch norm and biases by their names."""
    fields = {"width": 0.125, "num_classes": 7}
    arrays = registry.flat_state(random_model("resnet18", fields, 3))
    again, other = (registry.flat_state(random_model("resnet18", fields, seed)) for seed in (3, 4))
    ranges = {"scale": (0.3, 0.8), "bias": (-0.2, 0.2), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}
    for path, array in arrays.items():
        bound = (6 / np.prod(array.shape[:-1])) ** 0.5
        low, high = ranges.get(path.rpartition(".")[2], (-bound, bound))
        assert low <= array.min() and array.max() <= high and (array == again[path]).all(), path
        assert (array != other[path]).any(), path
        if array.size > 500:
            assert array.min() < low + 0.01 * (high - low) and array.max() > high - 0.01 * (high - low), path
