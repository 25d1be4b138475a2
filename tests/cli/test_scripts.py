"""`train.py` and `extract.py` as a person runs them: real processes, exit codes, what is printed and left behind."""

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from transfer.cli import completion, main, scripts
from transfer.errors import Unfinished

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = f"--config={REPOSITORY / 'configs' / 'quickstart.py'}"
FINETUNE = f"--config={REPOSITORY / 'configs' / 'finetune_digits.py'}"
SCRIPTS = ("train.py", "extract.py")
OTHER = "--config.model.init_from.model=resnet18"


def run(
    script: str, *arguments: str, folder: Path, largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    limit = None
    if largest_file is not None:
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        command.append("--compilation_cache=off")  # it is shared, and would be left with half entries
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, preexec_fn=limit
    )


def write_pickle(path: Path, rows: int, seed: int, protocol: int = 2, labels: object = None) -> None:
    random = np.random.default_rng(seed)
    own = random.integers(0, 4, (rows, 1))
    features = random.normal(size=(rows, 1, 1, 8)).astype(np.float32) + own[:, :, None, None]
    content = {"features": features, "labels": own if labels is None else labels}
    path.write_bytes(pickle.dumps(content, protocol=protocol))


BAD = {
    "nothing": ("train.py", [], 2, "--config=NAME or --config=PATH.py, or --training_file"),
    "one file of two": ("train.py", ["--training_file=a.p"], 2, "go together"),
    "no such file": ("train.py", ["--training_file=a.p", "--validation_file=b.p"], 1, "a.p: No such file"),
    "unknown flag": ("train.py", ["--epoch=3"], 2, "epoch"),
    "stray argument": ("extract.py", ["workdir"], 2, "unexpected argument 'workdir'"),
    "no such config": ("extract.py", ["--config=configs/nope.py"], 2, "configs/nope.py: no such file"),
    "no such field": (
        "train.py",
        [QUICKSTART, "--config.data.nope=1"],
        2,
        "there is no config.data.nope; ",
    ),
    "wrong type": ("train.py", [QUICKSTART, "--config.head.epochs=ten"], 2, "head.epochs"),
    "a setting before the config": (
        "train.py",
        ["--config.head.nme=mlp", QUICKSTART],
        2,
        "mean config.head.name?",
    ),
    "a mistyped --config": ("train.py", [QUICKSTART, "--confg.head.name=mlp"], 2, "Did you mean: config.head.name ?"),
    "a flag that is a setting": (
        "extract.py",
        [QUICKSTART, "--head.epochs=3"],
        2,
        "Did you mean: config.head.epochs ?",
    ),
    "a setting without a config": (
        "extract.py",
        ["--config.batch_size=8"],
        2,
        "--config=NAME or --config=PATH.py; see --help",
    ),
    "None for what needs a value": ("extract.py", [QUICKSTART, "--config.tap=None"], 2, "it needs a value; by default"),
    "zero epochs": ("train.py", [QUICKSTART, "--epochs=0"], 2, "at least 1"),
    "zero rows a step": ("train.py", [QUICKSTART, "--config.head.batch_size=0"], 2, "at least 1"),
    "unknown way to train": ("train.py", [QUICKSTART, "--config.train=tune"], 2, "not one of head, finetune"),
    "unknown head": ("train.py", [QUICKSTART, "--config.head.name=lienar"], 2, "linear"),
    "a head's setting for another": ("train.py", [QUICKSTART, "--config.head.alpha=1.0"], 2, "linear takes no alpha"),
    "two taps, streamed": (
        "train.py",
        [QUICKSTART, "--config.tap=block3,block4", "--config.head.order=chunks", "--config.stream=True"],
        2,
        "config.tap=block3,block4 needs one device that holds all rows",
    ),
    "a sweep of nothing": ("train.py", [QUICKSTART, "--config.sweep.batch_size=()"], 2, "no value to try"),
    "two taps for one file": (
        "extract.py",
        [QUICKSTART, "--config.tap=block3,block4", "--config.export=a.p"],
        2,
        "one",
    ),
    "a pattern for no layer": ("train.py", [FINETUNE, "--config.unfreeze=block9"], 2, "there is block1, block2"),
    "no such variant": (
        "train.py",
        [f"{FINETUNE}:blok5"],
        2,
        "'blok5' is none of all, block5, logits, head, block3; did",
    ),
    "nothing in common": ("train.py", [FINETUNE, OTHER, "--config.model.init_from.weights=random"], 2, "have no layer"),
    "a setting without use": (
        "train.py",
        [FINETUNE, "--config.export=a.p"],
        2,
        "has no use with config.train=finetune",
    ),
    "unknown model": ("extract.py", [QUICKSTART, "--config.model.name=vgg11_slm"], 2, "vgg11_slim.cifar10"),
    "unknown source": ("extract.py", [QUICKSTART, "--config.data.source=digit"], 2, "digits"),
    "missing source": ("extract.py", [QUICKSTART, "--config.data.source=folder:nowhere"], 1, "nowhere"),
    "wrong suffix": ("extract.py", [QUICKSTART, "--config.export=features.csv"], 2, "features.csv"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, tmp_path):
    script, arguments, code, message = BAD[case]
    done = run(script, *arguments, folder=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code, done.stderr
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_flag_in_the_order_of_use(script, asked, tmp_path):
    done = run(script, "--config.head.epochs=3", asked, folder=tmp_path)
    assert done.returncode == 0 and not done.stderr
    shown = re.findall(r"^  --(\w+)(?:=\w+)?\n      \S", done.stdout, re.MULTILINE)
    assert tuple(shown) == completion.FLAGS[script.removesuffix(".py")]
    assert f"    python {script} --config=" in done.stdout and re.search("^  quickstart\n", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_ends_quietly_where_nobody_reads_on(script, tmp_path):
    command = [sys.executable, str(REPOSITORY / script), "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `… | head -0` does
    assert (process.wait(60), process.stderr.read()) == (main.EXIT_BROKEN_PIPE, b"")


def test_debug_shows_the_traceback(tmp_path):
    done = run("train.py", "--training_file=a.p", "--validation_file=b.p", "--debug", folder=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.slow
def test_published_flags_on_pickles_and_in_a_zip(tmp_path):
    write_pickle(tmp_path / "train.p", 300, 0, protocol=0)
    write_pickle(tmp_path / "validation.p", 80, 1)
    with zipfile.ZipFile(tmp_path / "vgg-100.zip", "w") as archive:
        archive.write(tmp_path / "train.p", "vgg-100/train.p")
    flags = ["--validation_file=validation.p", "--epochs=3", "--batch_size=64"]
    plain = run("train.py", "--training_file=train.p", *flags, folder=tmp_path)
    lines = plain.stdout.splitlines()
    assert lines[:4] == [
        "Training file train.p",
        "Validation file validation.p",
        "(300, 1, 1, 8) (300,)",
        "(80, 1, 1, 8) (80,)",
    ], plain.stderr
    assert [line.split(" - ")[0] for line in lines[4:7]] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    zipped = run("train.py", "--training_file=vgg-100.zip/vgg-100/train.p", *flags, "--workdir=zip", folder=tmp_path)
    assert zipped.stdout.splitlines()[2:7] == lines[2:7]

    result = json.loads((tmp_path / "runs" / "train" / "result.json").read_text())
    assert result["num_train"] == 300 and result["num_classes"] == 4 and result["epochs"] == 3
    assert f"val_accuracy: {result['validation_accuracy']:.4f}" in lines[6]

    again = run("train.py", "--training_file=train.p", *flags, folder=tmp_path)
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.mark.slow
def test_settings_of_the_default_config_for_two_files(tmp_path):
    write_pickle(tmp_path / "train.p", 100, 0)
    write_pickle(tmp_path / "validation.p", 40, 1)
    flags = ["--training_file=train.p", "--validation_file=validation.p", "--config.head.name=logistic"]
    done = run("train.py", *flags, "--config.head.C", "0.5", "--workdir=run", "--noconfig.report", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "run/config.json").read_text())
    assert settings["head"]["name"] == "logistic" and settings["head"]["C"] == 0.5
    assert not (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_other_rows_in_the_same_workdir_are_refused(tmp_path):
    write_pickle(tmp_path / "validation.p", 80, 1)
    flags = ["--training_file=train.p", "--validation_file=validation.p", "--epochs=1"]
    write_pickle(tmp_path / "train.p", 100, 0)
    assert run("train.py", *flags, folder=tmp_path).returncode == 0
    write_pickle(tmp_path / "train.p", 100, 5)
    done = run("train.py", *flags, folder=tmp_path)
    assert done.returncode == 1 and "made with other settings: training was" in done.stderr


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros(299, int), "299"),
        (np.array([object()] * 300), "object"),
        (print, "print"),
    ],
    ids=["lengths differ", "objects", "a function"],
)
def test_bad_feature_files_are_one_line(labels, message, tmp_path):
    write_pickle(tmp_path / "train.p", 300, 0, labels=labels)
    write_pickle(tmp_path / "validation.p", 80, 1)
    done = run("train.py", "--training_file=train.p", "--validation_file=validation.p", folder=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and "train.p" in last and message in last
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_no_room_for_a_checkpoint_is_one_line_and_leaves_none(tmp_path):
    write_pickle(tmp_path / "train.p", 300, 0)
    write_pickle(tmp_path / "validation.p", 80, 1)
    flags = ["--training_file=train.p", "--validation_file=validation.p", "--epochs=2", "--workdir=run"]
    done = run("train.py", *flags, folder=tmp_path, largest_file=1500)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "File too large" in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert run("train.py", *flags, folder=tmp_path).returncode == 0


def test_others_that_are_lost_at_the_very_end_are_no_failure_of_ones_own(monkeypatch, capsys):
    def lost():
        raise Unfinished("the other processes cannot be reached")

    codes: list[int] = []
    monkeypatch.setattr(scripts.distributed, "shutdown", lost)
    monkeypatch.setattr(os, "_exit", codes.append)
    scripts._leave(0)
    assert codes == [76] and capsys.readouterr().err == "error: the other processes cannot be reached\n"
