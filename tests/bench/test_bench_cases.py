"""What `--models`, `--batch` and `--dtype` stand for."""

import argparse

import pytest

from transfer.bench.cases import Case, cases_of, matching, words
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
