"""Peers run the network that we run, on the same weights, or say why not."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from transfer.bench.cases import Network, NetworkSpec, load, random_model
from transfer.bench.peer_libraries import APPLICATIONS, WEIGHTS
from transfer.bench.peers import PEERS, Peer, relative_error, start_peers
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import catalogue, create_model

# The packages of every peer on a CPU.
ALL_PACKAGES = {package for peer in PEERS.values() for package in peer.packages}
MISSING = sorted(package for package in ALL_PACKAGES if importlib.util.find_spec(package) is None)


def slim(arch="vgg11", size=(32, 32)):
    """A network that computes fast, which no other library has."""
    fields = {"width": 0.125, "num_classes": 0}
    return Network(random_model(arch, fields, 0), arch, fields, Preprocessing(size))


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra peers)")
@pytest.mark.parametrize("arch, size", [("resnet18", 33), ("vgg11_bn", 40), ("googlenet", 64), ("inception_v3", 80)])
def test_every_peer_of_a_cpu_runs_the_same_network(arch, size):
    with start_peers(load(NetworkSpec(arch, image_size=size)), 2, "float32", seed=1) as peers:
        others = {"torch.compile max-autotune", *(["Keras (JAX)"] if arch not in APPLICATIONS else [])}
        assert peers.workers.keys() >= PEERS.keys() - others, peers.skipped
        assert max(peers.errors.values()) < 1e-5


@pytest.mark.slow
def test_a_peer_that_cannot_run_says_why():
    with start_peers(slim(), 3, "float32", seed=0) as peers:
        assert peers.workers.keys() | peers.skipped.keys() == PEERS.keys()
        for name, reason in peers.skipped.items():
            absent = [package for package in PEERS[name].packages if importlib.util.find_spec(package) is None]
            known = (*absent, "GPU only", "keras.applications has no vgg11", "torchvision's vgg11 is another network")
            assert "\n" not in reason and any(part in reason for part in known), reason


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not here")
def test_keras_applications_hold_our_weights():
    network = load(NetworkSpec("vgg16.keras", weights="random", image_size=32))
    with start_peers(network, 1, "float32", 0, ["Keras (JAX)"]) as peers:
        assert not peers.skipped and peers.errors["Keras (JAX)"] < 1e-5
        process = peers.workers["Keras (JAX)"]._process.pid
        assert is_running(process) and peers.workers["Keras (JAX)"].timed(0) > 0
    assert not is_running(process) and not peers.case.folder.exists()


def test_weights_and_images_of_a_case_are_those_of_the_network():
    with start_peers(slim("resnet18", (33, 40)), 1, "float32", 0, []) as peers:
        assert peers.case.images().shape == (1, 33, 40, 3) and peers.case.channels_first().shape == (1, 3, 33, 40)
        ours = create_model("resnet18", weights=peers.case.folder / WEIGHTS, num_classes=0)
        assert ours(peers.case.images())[0].shape == (1, 64)


def test_another_network_is_not_timed(monkeypatch):
    monkeypatch.setitem(PEERS, "double", Peer("bench.builders:twice_ours", ()))
    with start_peers(slim(), 1, "float32", 0, ["double"]) as peers:
        assert not peers.workers
        assert peers.skipped["double"].startswith("another network: its features differ from ours by")


def test_a_gpus_peers_are_left_out_where_there_is_none():
    names = ["torch.compile max-autotune", "OpenVINO"]
    with start_peers(slim(), 1, "float32", 0, names, platform="gpu") as peers:
        assert not peers.workers and peers.skipped["OpenVINO"] == "runs on a CPU only"
        reasons = ("not installed: torch, torchvision; the extra [peers]", "this PyTorch sees no CUDA device")
        assert peers.skipped["torch.compile max-autotune"].startswith(reasons)


def test_nothing_is_left_behind_where_a_peer_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError), start_peers(slim(), 1, "float32", 0, ["Caffe"]):
        pass
    assert not list(tmp_path.iterdir())


def test_a_peers_process_imports_no_other_peer():
    code = "import sys, transfer.bench.worker, transfer.bench.peer_libraries; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "keras", "onnx", "onnxruntime", "openvino", "jax"} & set(imported)


def test_keras_classes_are_called_as_ours_and_have_a_record():
    assert {arch: name.lower() for arch, name in APPLICATIONS.items()} == {
        arch: arch.replace("_", "") for arch in APPLICATIONS
    }
    assert {name.removesuffix(".keras") for name in catalogue.names("*.keras")} == set(APPLICATIONS)


def test_relative_error():
    assert relative_error(np.array([[1.0, 2.5]]), np.array([[1.0, 2.0]])) == pytest.approx(0.25)
    assert relative_error(np.ones((1, 2)), np.ones((2, 2))) == float("inf")
