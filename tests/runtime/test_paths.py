"""Folders and files by every kind of path that people give: `..`, `~`, links, a trailing slash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_images
import pytest
from stores import finished

from transfer.__main__ import main
from transfer.data.registry import open_source
from transfer.report import run_data
from transfer.runtime.files import lock, paths
from transfer.store import feature_files
from transfer.store.store import FeatureStore

REPOSITORY = Path(__file__).parents[2]
# As given in the folder `here` -> where it lies; `link` is one to the folder `far/away`.
GIVEN = {
    "../x": "x",
    "../../x": "../x",
    ".": "here",
    "./": "here",
    "x": "here/x",
    "x/": "here/x",
    "x/../y": "here/y",
    "x/.././y//": "here/y",
    "../link/../y": "far/y",
    "../link/x": "far/away/x",
    "~/x": "home/x",
    "~/../x": "x",
    "~": "home",
    "./~/x": "here/~/x",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder above the working directory, `root/here`; the home is `root/home`."""
    root = tmp_path / "above" / "root"
    for name in ("here", "home", "far/away"):
        (root / name).mkdir(parents=True)
    (root / "link").symlink_to("far/away")
    monkeypatch.chdir(root / "here")
    monkeypatch.setenv("HOME", str(root / "home"))
    return root


@pytest.mark.parametrize("given", GIVEN)
def test_a_store_is_where_the_system_would_put_it(root, given):
    finished(given)
    place = root / GIVEN[given]
    assert (place / "zarr.json").is_file()
    opened = FeatureStore.open(given)
    np.testing.assert_array_equal(opened.features[:], FeatureStore.open(place.resolve()).features[:])
    with lock.hold(given, "feature store"):
        assert (place / lock.NAME).exists()
    assert main(["features", "verify", given]) == 0 and main(["features", given]) == 0


@pytest.mark.parametrize("given", ["gs://bucket/a/../b", "s3://bucket/~", "https://host/../x"])
def test_urls_stay_as_they_are(given):
    assert paths.expand(given) == given


@pytest.mark.parametrize("given", [name for name in GIVEN if name.endswith("x")])
def test_files_of_features_and_data(root, given):
    place = root / GIVEN[given]
    features, labels = np.eye(4, dtype=np.float32), np.arange(4) % 2
    feature_files.write(f"{given}.npz", features, labels)
    assert place.with_name("x.npz").is_file()
    read, _ = feature_files.read(f"{given}.npz")
    np.testing.assert_array_equal(np.squeeze(read), features)
    own_images.write(place, 2)
    assert len(open_source(f"folder:{given}")) == len(open_source(given)) == 6


CONFIG = """
from transfer import config as settings
def get_config():
    config = settings.default()
    config.tap, config.image_size, config.batch_size = "block2:avg", 32, 8
    config.data.source, config.head.epochs = "folder:~/photos", 2
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize("given", ["../runs/x", "~/x"])
def test_a_run_from_its_extraction_to_its_report(root, given, capsys):
    own_images.write(root / "home/photos", 5)
    (root / "home/config.py").write_text(CONFIG)
    features = given.replace("x", "features")
    command = [sys.executable, REPOSITORY / "train.py", "--config=~/config.py", f"--workdir={given}"]
    command += [f"--config.features={features}", "--config.report=False", f"--config.export={given}.npz"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr

    place = Path(paths.expand(given)).resolve()
    assert json.loads((place / "result.json").read_text())["num_classes"] == 3
    for split in ("train", "validation"):
        assert place.with_name(f"x_{split}.npz").is_file()
        assert FeatureStore.open(place.with_name("features") / split).complete
        assert main(["features", "verify", f"{features}/{split}", f"--workdir={given}"]) == 0
    (run,) = run_data.load([given])
    assert run.features(np.arange(3)).shape == (3, 32)
    assert [note for note in run.notes if not note.startswith("Always predicting")] == []
    capsys.readouterr()
    for verb in (
        ["predict", f"--workdir={given}", "../home/photos", f"--output={given}.csv"],
        ["report", given, f"--output={given}.html"],
        ["export", f"--workdir={given}", f"--output={given}.safetensors"],
    ):
        assert main(verb) == 0, capsys.readouterr().err
    assert {"x.csv", "x.html", "x.safetensors"} <= {path.name for path in place.parent.iterdir()}
    assert not list((root / "here").rglob("~"))
