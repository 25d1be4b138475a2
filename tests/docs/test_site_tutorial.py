"""`docs/tutorial-lab.md`: its commands word for word where no file is needed; runs of the large networks as configs."""

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transfer.data.splits import make_splits
from transfer.weights.create import list_models

REPOSITORY = Path(__file__).parents[2]
TUTORIAL = (REPOSITORY / "docs" / "tutorial-lab.md").read_text("utf-8")
# `$ command`, with the lines that go on
COMMANDS = re.findall(r"^\$ ((?:.*\\\n)*.*)$", TUTORIAL, re.MULTILINE)
SMALL = [command for command in COMMANDS if "small_traffic" in command]
LARGE = re.findall(r"lab\.py:((?!small)[a-z]+_[a-z0-9]+) (?:\\\n +)?--workdir", TUTORIAL)
CLASSES, IMAGES = 3, 160  # a class: two thirds of them are more than the 100 that train


def lab():
    spec = importlib.util.spec_from_file_location("lab", REPOSITORY / "configs" / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signs() -> dict[str, np.ndarray]:
    """Crops of two photographs and of a third made of both, as the traffic signs' pickle holds them."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    random = np.random.default_rng(0)
    places = random.integers(0, np.subtract(china.shape[:2], 32), (CLASSES * IMAGES, 2))
    labels = np.arange(CLASSES * IMAGES) % CLASSES
    photographs = (china, flower, np.maximum(china, 255 - flower))
    features = [photographs[label][y : y + 32, x : x + 32] for label, (y, x) in zip(labels, places, strict=True)]
    return {"features": np.stack(features), "labels": labels}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which the commands of the shipped backbone were run, and what each has printed."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "traffic-signs-data").mkdir()
    (folder / "traffic-signs-data" / "train.p").write_bytes(pickle.dumps(signs(), protocol=4))
    for name in ("extract.py", "train.py", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    printed = {}
    for command in SMALL:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        printed[command] = done.stdout
    return folder, printed


@pytest.mark.slow
def test_its_commands_do_what_it_says(followed: tuple[Path, dict[str, str]]) -> None:
    folder, printed = followed
    assert len(printed) == 6
    runs = {
        name: json.loads((folder / "runs" / name / "result.json").read_text())
        for name in ("small_traffic", "small_traffic_files")
    }
    # the head is the same on the store and on the files that were exported from it
    assert runs["small_traffic"]["num_train"] == 100 * CLASSES
    for measure in ("validation_accuracy", "validation_loss", "train_loss"):
        assert runs["small_traffic"][measure] == pytest.approx(runs["small_traffic_files"][measure], abs=1e-6)
    with open(folder / "runs/small_traffic/features_train.p", "rb") as stream:
        assert pickle.load(stream)["features"].shape == (100 * CLASSES, 1, 1, 128)
    assert (folder / "runs/small_traffic/report.html").stat().st_size > 10_000
    last = printed[SMALL[-1]]
    assert "small_traffic_logistic" in last and "McNemar" in last


@pytest.mark.slow
def test_the_run_learned_something(followed: tuple[Path, dict[str, str]]) -> None:
    result = json.loads((followed[0] / "runs" / "small_traffic" / "result.json").read_text())
    assert result["validation_accuracy"] > 0.6 > 1.5 / CLASSES


def test_all_six_runs_of_the_lab_are_there() -> None:
    assert sorted(set(LARGE)) == sorted(
        f"{n}_{d}" for n in ("vgg", "inception", "resnet") for d in ("cifar10", "traffic")
    )


@pytest.mark.parametrize("experiment", [f"{network}_{data}" for network in lab().NETWORKS for data in lab().DATA])
def test_a_run_of_the_lab_is_one_that_the_package_knows(experiment: str, tmp_path: Path) -> None:
    config = lab().get_config(experiment)
    assert config.model.name in list_models()
    assert (config.resize, config.head.name, config.tap) == ("float", "linear", "pre_logits")
    kind, _, path = config.data.source.partition(":")
    assert f"`{path}`" in TUTORIAL
    if kind == "pickle":
        (tmp_path / "train.p").write_bytes(pickle.dumps(signs()))
        config.data.source = f"pickle:{tmp_path}"
        train, validation = make_splits(config.data)
        assert (len(train), len(validation)) == (100 * CLASSES, -(-CLASSES * IMAGES * 33 // 100))


def test_an_unknown_run_of_the_lab_is_one_line_that_names_the_others() -> None:
    from transfer.errors import UsageError

    with pytest.raises(UsageError, match="'vgg_svhn' is none of vgg_cifar10, "):
        lab().get_config("vgg_svhn")
