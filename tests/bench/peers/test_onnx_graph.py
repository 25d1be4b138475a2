"""The ONNX file of a model, in ONNX Runtime, gives what the model gives."""

import jax
import numpy as np
import pytest
from models.parts import compiled

from transfer.bench.peers import onnx_graph
from transfer.bench.peers.case import Skipped
from transfer.bench.peers.network import random_model
from transfer.models import registry
from transfer.weights import catalogue

onnxruntime = pytest.importorskip("onnxruntime")

# Between them every operation that has an ONNX form: pools of every kind of padding, groups, joins, transformed input.
NETWORKS = {
    "vgg11_bn": (2, 40, 33, 3),
    "alexnet": (1, 70, 63, 3),
    "resnet18": (2, 47, 33, 3),
    "resnext50_32x4d": (1, 33, 33, 3),
    "resnet50.keras": (1, 33, 40, 3),
    "resnet50v2.keras": (2, 33, 40, 3),
    "googlenet.tv": (1, 64, 75, 3),
    "inception_v3.keras": (1, 75, 80, 3),
}
SLIM = {"vgg11_bn": 0.125, "resnet18": 0.125, "resnet50.keras": 0.125, "resnet50v2.keras": 0.125}


def network(name, **fields):
    arch, fields = catalogue.architecture(name, {"num_classes": 0, **fields})
    return random_model(arch, fields, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_agrees_with_the_model(name, tmp_path):
    shape = NETWORKS[name]
    model = network(name, width=SLIM.get(name, 0.25))
    onnx_graph.write(model, shape, tmp_path / "model.onnx")
    images = np.random.default_rng(1).standard_normal(shape, np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    model.eval()
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(compiled(model)(images)[1]["pre_logits"])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_another_tap_is_a_feature_map_channels_first(tmp_path):
    model = network("vgg11", width=0.125)
    onnx_graph.write(model, (1, 32, 32, 3), tmp_path / "model.onnx", tap="block2")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": np.ones((1, 3, 32, 32), np.float32)})
    assert np.allclose(found.transpose(0, 2, 3, 1), model(np.ones((1, 32, 32, 3), np.float32))[1]["block2"], atol=1e-5)


def test_what_has_no_onnx_form_is_named(tmp_path):
    model = registry.build("vgg11", width=0.125)  # its classifier averages to 7x7 cells
    with pytest.raises(Skipped, match="a fixed number of cells"):
        onnx_graph.write(model, (1, 64, 64, 3), tmp_path / "model.onnx", tap="logits")
