"""`python -m transfer features` as a person runs it: on the store of a run, whole, damaged, repaired."""

import json
import shutil

import numpy as np
import pytest
from etils import epath
from stores import files_of, rewrite, rows_of, writer

from transfer import experiment
from transfer.__main__ import main
from transfer.runtime.files import lock
from transfer.store import feature_files
from transfer.store.store import FeatureStore

ROWS, BATCH = 30, 8
CONFIG = """
from transfer import config as settings
def get_config():
    config = settings.default()
    config.model.name = "vgg11_slim.cifar10"
    config.tap = "block2:avg,block3:avg"
    config.image_size = 32
    config.data.train_per_class, config.data.validation_per_class = 3, 2
    config.batch_size = 8
    return config
"""


def config(**changed):
    names: dict = {}
    exec(CONFIG, names)
    found = names["get_config"]()
    found.update(changed)
    return found


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The workdir of a finished extraction."""
    workdir = tmp_path_factory.mktemp("run")
    experiment.extract(config(), epath.Path(workdir))
    return workdir


@pytest.fixture
def workdir(run_of, tmp_path):
    return shutil.copytree(run_of, tmp_path / "run")


@pytest.fixture
def path(workdir):
    return workdir / "features" / "train"


@pytest.fixture
def features(capsys):
    """Runs the verb; returns (exit code, stdout, last line of stderr)."""

    def run(*arguments):
        capsys.readouterr()
        code = main(["features", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, (err.strip().splitlines() or [""])[-1]

    return run


def flip(file, position=9):
    data = bytearray(file.read_bytes())
    data[position] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize("action", [["show"], []], ids=["show", "nothing"])
def test_show(path, features, action):
    code, out, _ = features(*action, path)
    facts = dict(line.split("  ", 1) for line in out.splitlines())
    shown = {name: text.strip() for name, text in facts.items() if not name.startswith(("fingerprint.", "provenance."))}
    assert code == 0 and shown == {
        "rows": "30, complete",
        "tap block2:avg": "float32 (30, 32), 0.0 MB",
        "tap block3:avg": "float32 (30, 64), 0.0 MB",
        "classes": "10",
        "images": "digits",
        "chunks": "4 of 8 rows",
        "format": "2",
    }
    assert facts["fingerprint.model"].strip() == "vgg11_slim.cifar10"
    assert not {"skipped", "provenance"} & facts.keys()


def test_show_of_a_store_that_is_not_complete(tmp_path, features):
    with writer(tmp_path) as store:
        store.write(0, {"pre_logits": rows_of(0, 4)}, [1])
    code, out, _ = features("show", tmp_path)
    assert code == 0 and "3, 7 of 11 images are missing" in out
    code, out, _ = features("verify", tmp_path)
    assert code == 0 and "4 rows, each beside its label and id" in out and "7 rows are not there yet" in out


def test_a_whole_store(workdir, path, features):
    code, out, _ = features("verify", path)
    assert code == 0 and "30 rows, each beside its label and id" in out and "not compared with the source" in out
    for how in ([f"--workdir={workdir}"], ["--repair"]):
        code, out, _ = features("verify", f"{path}/", *how)
        assert code == 0 and "not compared" not in out
    assert not list(workdir.rglob(".lock"))


def test_damage_is_named_and_repaired(run_of, workdir, path, features):
    flip(path / "features/block3:avg/c/1/0")
    (path / "checks/c/3").unlink()
    flip(path / "labels/c/0")
    (path / "ids/zarr.json").unlink()
    before = files_of(path)
    code, out, error = features("verify", path)
    assert code == 1 and "rows 24 to 29 are missing, though the store is complete" in out
    assert (
        "to compute again: rows 8 to 15\nto compute again: rows 24 to 29" in out
        and "block3:avg/c/1/0 is damaged" in out
    )
    assert (
        "its metadata, 1 chunks of labels, 14 rows; --repair computes that again" in error and files_of(path) == before
    )
    code, out, error = features("verify", path, "--repair")
    assert code == 0, error
    assert out.endswith(f"{path}: repaired\n") and "low bits" not in out
    assert files_of(workdir) == files_of(run_of)


@pytest.mark.parametrize("how", ["flipped", "lost", "emptied"])
def test_a_store_whose_metadata_are_damaged_is_to_be_deleted(path, features, how):
    if how == "lost":
        (path / "zarr.json").unlink()
    elif how == "emptied":
        (path / "zarr.json").write_bytes(b"")
    else:
        flip(path / "zarr.json", 200)
    before = files_of(path)
    for action in (["show"], ["verify"], ["verify", "--repair"]):
        code, _, error = features(action[0], path, *action[1:])
        assert code == 1 and f"{path}/zarr.json is " in error
        assert error.endswith(f"; delete {path} and extract again")
    assert files_of(path) == before


@pytest.mark.slow
def test_bfloat16_is_repaired_as_such(tmp_path, features):
    changed = dict(features_dtype="bfloat16", tap="block3:avg", export=str(tmp_path / "a.npz"))
    experiment.extract(config(**changed), epath.Path(tmp_path))
    path = tmp_path / "features" / "train"
    exported, _ = feature_files.read(tmp_path / "a_train.npz")
    np.testing.assert_array_equal(exported[:, 0, 0], FeatureStore.open(path).features[:].astype(np.float32))
    before = files_of(path)
    flip(path / "features/block3:avg/c/1/0")
    assert features("verify", path, "--repair")[0] == 0 and files_of(path) == before


def test_labels_beside_the_wrong_rows(run_of, workdir, path, features):
    labels = FeatureStore.open(path).labels
    rewrite(path, "labels", labels[::-1].copy())
    code, out, _ = features("verify", path)
    assert code == 1 and "features, label or id are not those that were written" in out
    code, out, error = features("verify", path, f"--workdir={workdir}")
    assert code == 1 and "labels of " in out and "are not the source's" in out and "1 chunks of labels;" in error
    assert features("verify", path, "--repair")[0] == 0
    assert files_of(workdir) == files_of(run_of)


def test_another_source_is_refused(workdir, path, features):
    other = json.loads((workdir / "config.json").read_text())
    other["data"]["seed"] = 1
    (workdir / "config.json").write_text(json.dumps(other))
    code, _, error = features("verify", path, f"--workdir={workdir}")
    assert code == 1 and "was made from other images (digits)" in error


def test_without_a_config_the_rows_are_marked(run_of, tmp_path, features):
    path = shutil.copytree(run_of / "features" / "train", tmp_path / "a" / "b" / "train")
    flip(path / "features/block2:avg/c/2/0")
    code, _, error = features("verify", path, "--repair")
    assert code == 1 and "8 rows are marked as missing" in error and "python -m transfer extract" in error
    assert FeatureStore.open(path, incomplete=True).num_missing == 8
    shutil.copytree(run_of / "features" / "validation", path.parent / "validation")
    experiment.extract(config(features=str(path.parent)), epath.Path(tmp_path / "run"))
    assert files_of(path) == files_of(run_of / "features" / "train")


def test_a_store_that_is_in_use_is_not_repaired(path, features):
    flip(path / "features/block2:avg/c/2/0")
    before = files_of(path)
    with lock.hold(path, "feature store"):
        code, _, error = features("verify", path, "--repair")
        assert code == 1 and "is in use by process" in error
    assert files_of(path) == before


def test_what_is_not_ours_is_left_alone(path, features):
    (path / "notes.txt").write_text("mine")
    code, out, error = features("verify", path)
    assert code == 1 and "notes.txt does not belong to the store" in out and "1 surplus files" in error
    code, _, error = features("verify", path, "--repair")
    assert code == 1 and "left alone, remove it yourself: notes.txt" in error and (path / "notes.txt").exists()


BAD = {
    "no store": (["verify"], 2, "say show or verify, and which STORE"),
    "another action": (["check", "STORE"], 2, "features check: say show"),
    "nothing there": (["verify", "nowhere"], 1, "no feature store at nowhere; python -m transfer extract makes one"),
    "nothing to show": (["nowhere"], 1, "no feature store at nowhere"),
    "no config.json": (["verify", "nowhere", "--workdir=elsewhere"], 2, "--workdir=elsewhere has no config.json"),
    "no config": (["verify", "nowhere", "--config=elsewhere.py"], 2, "--config=elsewhere.py: no such file"),
}


@pytest.mark.parametrize("arguments, code, message", BAD.values(), ids=BAD)
def test_bad_arguments(features, arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = features(*arguments)
    assert found[0] == code and message in found[2]


def test_a_name_that_is_no_split(workdir, path, features):
    other = shutil.copytree(path, workdir / "features" / "copy")
    code, _, error = features("verify", other, f"--workdir={workdir}")
    assert code == 2 and "'copy' is not one of train, validation: pass --split" in error
    assert features("verify", other, f"--workdir={workdir}", "--split=train")[0] == 0
