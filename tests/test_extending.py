"""What CONTRIBUTING.md promises to those who extend the package: a backbone, a head and a source are one file each."""

import sys

import numpy as np
import pytest
from etils import epath

import transfer
import transfer.heads
import transfer.models
from transfer import config as settings
from transfer import experiment
from transfer.data import registry as sources
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import native

BACKBONE = '''
"""A network of one convolution."""

from functools import partial

import jax
from flax import nnx

from transfer.models.layers import conv, dense, global_average_pool


class OneConv(nnx.Module):
    def __init__(self, features, *, num_classes=10, rngs):
        self.conv1 = conv(3, features, 3, stride=2, rngs=rngs)
        self.logits = dense(features, num_classes, rngs=rngs)

    def __call__(self, images, rngs=None):
        endpoints = {}
        x = endpoints["conv1"] = jax.nn.relu(self.conv1(images))
        x = endpoints["pre_logits"] = global_average_pool(x)
        x = endpoints["logits"] = self.logits(x)
        return x, endpoints


ARCHITECTURES = {"oneconv8": partial(OneConv, 8)}

NAMES = {"torchvision": lambda layers: {"conv1": "stem.0", "logits": "head"}}
CLASSIFIER = {"torchvision": ("head.",)}
'''

HEAD = '''
"""The nearest class mean."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from transfer.heads import linear


class MeanProbe(ClassifierMixin, BaseEstimator):
    program = linear

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(0) for label in self.classes_])
        return self

    def predict(self, X):
        return self.classes_[((X[:, None] - self.means_) ** 2).sum(-1).argmin(1)]
'''

SOURCE = """
import numpy as np

from transfer.data.source import ArraySource


def open_split(path, split):
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (random.integers(0, 100, (40, 8, 8, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    return ArraySource("flags", images, labels)
"""


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """The three files, each in the folder of its kind."""
    for package, name, text in (
        (transfer.models, "oneconv", BACKBONE),
        (transfer.heads, "mean_probe", HEAD),
        (transfer.data, "flags", SOURCE),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(sources.SOURCES, "flags", "transfer.data.flags:open_split")
    monkeypatch.setattr(sources, "WITHOUT_PATH", (*sources.WITHOUT_PATH, "flags"))
    registry.architectures.cache_clear()
    yield tmp_path
    registry.architectures.cache_clear()
    for name in ("transfer.models.oneconv", "transfer.heads.mean_probe", "transfer.data.flags"):
        sys.modules.pop(name, None)


def test_a_backbone_is_one_file(extended):
    model = transfer.create_model("oneconv8", weights=False)
    recipe = Preprocessing((8, 8), scale=1 / 255)
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 9, 3), np.uint8)
    features = transfer.Extractor(model, tap="conv1:avg", preprocessing=recipe, batch_size=2)(images)
    assert features.shape == (5, 8)

    random = np.random.default_rng(1)
    arrays = {"stem.0.weight": (8, 3, 3, 3), "stem.0.bias": (8,), "head.weight": (10, 8), "head.bias": (10,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    native.write(extended / "theirs.safetensors", arrays)
    model = transfer.create_model("oneconv8", weights=extended / "theirs.safetensors")
    state = registry.flat_state(model)
    np.testing.assert_array_equal(state["conv1.kernel"], arrays["stem.0.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(state["logits.kernel"], arrays["head.weight"].T)


def test_a_head_is_one_file(extended):
    assert "mean" in transfer.heads.HEADS
    probe = transfer.heads.HEADS["mean"]().fit(np.array([[0.0], [1.0], [9.0]]), np.array([0, 0, 1]))
    assert probe.predict(np.array([[2.0], [8.0]])).tolist() == [0, 1]


def test_all_three_in_an_experiment(extended):
    config = settings.default()
    config.model.update({"name": "oneconv8", "weights": "random"})
    config.preprocessing = {"image_size": 8, "scale": 1 / 255}
    config.data.source = "flags"
    config.head.update({"name": "mean", "epochs": 30, "learning_rate": 0.1})
    result = experiment.train(config, epath.Path(extended / "run"))
    assert result["validation_accuracy"] == 1.0
