"""Peers run the network that we run, on the same weights, or say why not."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from transfer.bench import peers as package
from transfer.bench.peers import PEERS, Peer, contenders
from transfer.bench.peers.network import random_model
from transfer.errors import UsageError
from transfer.models import registry
from transfer.weights import create_model

needs_onnx_runtime = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="onnxruntime is not here"
)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@needs_onnx_runtime
def test_every_peer_runs_or_gives_its_reason():
    with contenders("vgg11", 32, 3, width=0.125) as peers:
        assert peers.run.keys() | peers.skipped.keys() == PEERS.keys()
        assert peers.errors.keys() == peers.run.keys() >= {"ONNX Runtime"}
        assert max(peers.errors.values()) < 1e-5
        assert all(worker.timed(0) > 0 for worker in peers.run.values())
        for name, reason in peers.skipped.items():
            absent = [package for package in PEERS[name].needs if importlib.util.find_spec(package) is None]
            known = (*absent, "GPU only", "keras.applications has no vgg11", "torchvision's vgg11 is another network")
            assert "\n" not in reason and any(part in reason for part in known), reason
        ours = create_model("vgg11", weights=peers.weights, num_classes=0)
        assert ours(peers.images)[0].shape == (3, 64)
        processes = [worker._process.pid for worker in peers.run.values()]
        assert all(map(is_running, processes))
    assert not any(map(is_running, processes)) and not peers.weights.exists()


@pytest.mark.slow
@needs_onnx_runtime
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not here")
def test_keras_applications_hold_our_weights():
    with contenders("vgg16.keras", 32, 1, only=["Keras (JAX)"]) as peers:
        assert not peers.skipped and peers.errors["Keras (JAX)"] < 1e-5


@pytest.mark.slow
@needs_onnx_runtime
def test_a_given_model_is_taken_without_its_classifier():
    model = random_model("resnet18", {"width": 0.125, "num_classes": 5}, seed=3)
    with contenders("resnet18", (33, 40), 1, only=["ONNX Runtime"], model=model, width=0.125) as peers:
        assert not peers.skipped and peers.images.shape == (1, 33, 40, 3)
        held = registry.flat_state(create_model("resnet18", peers.weights, num_classes=0))
    theirs = registry.flat_state(model)
    assert held.keys() == {path for path in theirs if not path.startswith("logits")}
    assert all(np.array_equal(array, theirs[path]) for path, array in held.items())


@needs_onnx_runtime
def test_another_network_is_not_timed(monkeypatch):
    monkeypatch.setitem(PEERS, "double", Peer("bench.peers.builders:twice_ours", ("onnxruntime",)))
    with contenders("vgg11", 32, 1, only=["double"], width=0.125) as peers:
        assert not peers.run and peers.skipped["double"].startswith("another network: its features differ from ours by")


def test_a_gpus_peers_are_left_out_where_there_is_none():
    with contenders(
        "vgg11", 32, 1, platform="gpu", only=["torch.compile max-autotune", "OpenVINO"], width=0.125
    ) as peers:
        assert not peers.run and peers.skipped["OpenVINO"] == "runs on a CPU only"
        reasons = ("not installed: torch, torchvision; the extra [peers]", "this PyTorch sees no CUDA device")
        assert peers.skipped["torch.compile max-autotune"].startswith(reasons)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(dtype="float16"), "dtype='float16' is not one of float32, bfloat16"),
        (dict(only=["Caffe"]), "unknown peer Caffe; known are torch eager"),
        (dict(image_size=16), "at least 32x32 pixels"),
        (dict(model_name="vgg12"), "did you mean vgg1"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        contenders(**{"model_name": "vgg11", "image_size": 32, "batch": 1, "width": 0.125, **arguments})
    assert not list(tmp_path.iterdir())


def test_importing_the_table_imports_no_peer():
    code = "import sys, transfer.bench.peers; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "keras", "onnx", "onnxruntime", "openvino", "jax"} & set(imported)


def test_relative_error():
    assert package.relative_error(np.array([[1.0, 2.5]]), np.array([[1.0, 2.0]])) == pytest.approx(0.25)
    assert package.relative_error(np.ones((1, 2)), np.ones((2, 2))) == float("inf")
