"""What commands write is never written over a run's own files, nor over what is none of theirs."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer import config as config_module
from transfer import experiment
from transfer.__main__ import main
from transfer.bench import results as benchmark
from transfer.cli import bench as commands
from transfer.errors import UsageError
from transfer.evaluation import predictions
from transfer.experiment import evaluate_head, few_shot, results
from transfer.export import finished_run
from transfer.runtime.files import atomic
from transfer.store import feature_files
from transfer.training import init_from
from transfer.weights import cache, catalogue

SHIPPED = cache.local_path(catalogue.get("vgg11_slim.cifar10").file)


def settings():
    config = config_module.default()
    config.tap, config.image_size, config.head.epochs = "block2:avg", 32, 1
    config.data.update({"source": "digits", "train_per_class": 3, "validation_per_class": 2})
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of a head on images."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    experiment.train(settings(), epath.Path(folder))
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it at `run`, in the working directory, with a photograph beside."""
    shutil.copytree(finished, tmp_path / "run")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def contents():
    """Every file below the working directory."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(capsys, arguments, *words):
    """The command ends with one line and 2, and with no file changed, begun or added."""
    before = contents()
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in line
    assert contents() == before


def test_the_files_of_a_run_are_known(run):
    known = (
        finished_run.CONFIG,
        finished_run.NETWORK,
        results.FILE,
        predictions.FILE,
        evaluate_head.HEAD,
        few_shot.FILE,
    )
    assert set(known) <= set(atomic.RUN_FILES) and f'"{atomic.RUN_FILES[6]}"' in Path(init_from.__file__).read_text()
    left = {path.name for path in run.iterdir() if path.is_file() and not path.name.startswith("events.")}
    assert left - {"report.html", "projector_config.pbtxt"} <= set(atomic.RUN_FILES)  # those two are made anew


def test_exports_go_over_earlier_ones_of_the_same_name(run):
    for form in ("safetensors", "onnx"):
        command = ["export", "--workdir=run", f"--output={form}.{form}"]
        assert main(command) == 0
        first = Path(f"{form}.{form}").read_bytes()
        assert main(command) == 0
        described = json.loads(Path(f"{form}.json").read_text())
        assert described["sha256"] == hashlib.sha256(first).hexdigest() and described["format"] == form
    # what has been moved away leaves its name free, and so does its description
    Path("onnx.onnx").rename("kept.onnx")
    assert main(command) == 0
    Path("onnx.json").unlink()
    Path("onnx.onnx").unlink()
    assert main(command) == 0


FORMATS = ("stablehlo", "safetensors", "onnx", "keras")
# What lies beside the output, or in its place, of a user: name -> bytes.
FOREIGN = {
    "notes": ("photos.json", b'{"title": "holidays"}'),
    "a list": ("photos.json", b"[1, 2, 3]"),
    "no JSON": ("photos.json", b"\xff\xfe{"),
    "deep": ("photos.json", b"[" * 100_000),
    "alike": ("photos.json", b'{"format": "onnx", "sha256": "00"}'),
    "a model": ("photos.onnx", b"of somebody"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_exports_spare_what_is_not_theirs(run, capsys, case):
    name, content = FOREIGN[case]
    Path(name).write_bytes(content)
    refused(capsys, ["export", "--workdir=run", "--output=photos.onnx"], name, "choose another name")


@pytest.mark.parametrize("form", FORMATS[1:])
def test_an_export_of_another_format_keeps_its_description(run, capsys, form):
    assert main(["export", "--workdir=run", f"--output=model.{form}"]) == 0
    for other in set(FORMATS) - {form}:
        refused(capsys, ["export", "--workdir=run", f"--output=model.{other}"], "model.json", "choose another name")


def test_an_export_that_was_changed_since_is_not_replaced(run, capsys):
    command = ["export", "--workdir=run", "--output=model.safetensors"]
    assert main(command) == 0
    Path("model.safetensors").write_bytes(Path("model.safetensors").read_bytes() + b"more")
    refused(capsys, command, "model.safetensors is there already")


# Into the run, whose files are there or (init_from.json) may come to be.
INTO_A_RUN = [
    *(
        ["export", "--workdir=run", f"--output=run/{name}"]
        for name in (
            *("result.stablehlo", "result.onnx", "config.keras", "config.safetensors", "init_from.onnx"),
            *("head.safetensors", "model.safetensors", "shots.stablehlo", "../run/result.onnx"),
        )
    ),
    *(["predict", "--workdir=run", f"--output=run/{name}", "photo.png"] for name in atomic.RUN_FILES),
    ["predict", "--workdir=run", "--output=run/features", "photo.png"],
    ["bench", "--output=run/result.json"],
    ["bench", "--output=run/shots.json"],
    ["convert", str(SHIPPED), "--model=vgg11_slim.cifar10", "--output=run/head.safetensors"],
    ["convert", str(SHIPPED), "--model=vgg11_slim.cifar10", "--output=run/model.safetensors"],
]


@pytest.mark.parametrize("arguments", INTO_A_RUN, ids=" ".join)
def test_a_run_keeps_its_files(run, capsys, arguments):
    refused(capsys, arguments, "--output", "run")


# A command -> the file that it would write over, and what is in that.
SPARED = {
    "predict --workdir=run --output=photo.png photo.png": ("photo.png", None),
    "predict --workdir=run --output=notes.csv photo.png": ("notes.csv", b"name,class\n"),
    "predict --workdir=run --format=jsonl --output=a.jsonl photo.png": ("a.jsonl", b'{"picture": 1}\n'),
    "report run --output=index.html": ("index.html", b"<!doctype html><title>mine</title>"),
    "report run run2": ("report.html", b"<!doctype html><title>mine</title>"),
    "report run --plots=figures": ("figures/confusion.png", b"\x89PNG of mine"),
    "report run --plots=figures --plot_format=png,svg,pdf": ("figures/reliability.pdf", b"%PDF of mine"),
    "bench --output=numbers.json": ("numbers.json", b'{"schema": "mine"}'),
    "convert SHIPPED --model=vgg11_slim.cifar10 --output=SHIPPED": ("shipped.safetensors", SHIPPED.read_bytes()),
}


@pytest.mark.parametrize("command", SPARED)
def test_files_of_others_are_spared(run, capsys, command):
    name, content = SPARED[command]
    shutil.copytree("run", "run2")
    if content is not None:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    refused(capsys, command.replace("SHIPPED", "shipped.safetensors").split(), name, "is there already")


@pytest.mark.slow
def test_what_a_command_has_written_it_writes_anew(run):
    for command in (
        "predict --workdir=run --output=a.csv photo.png",
        "predict --workdir=run --output=a.csv --top=3 --all photo.png",
        "predict --workdir=run --format=jsonl --output=a.csv photo.png",
        "report run --output=page.html --plots=figures --plot_format=png,svg,pdf",
        f"convert {SHIPPED} --model=vgg11_slim.cifar10 --output=mine.safetensors",
        "transferability run/features/train --output=table.csv",
        "draw vgg11_slim.cifar10 --output=diagram.svg",
    ):
        for _ in range(2):
            assert main(command.split()) == 0


def test_an_empty_file_is_no_loss(run):
    Path("answers").touch()
    assert main(["predict", "--workdir=run", "--output=answers", "photo.png"]) == 0
    assert Path("answers").read_text().startswith("image,class,probability\n")


def test_a_benchmark_goes_over_its_own_result(tmp_path):
    (tmp_path / "result.json").write_text(benchmark.text("python -m transfer bench", "2026-01-31", [], True))
    atomic.check_output(tmp_path / "result.json", lambda found: found.startswith(commands.BEGINNING))


@pytest.mark.parametrize("suffix", [".p", ".pkl", ".npz", ".safetensors"])
def test_exported_features_go_over_earlier_ones_alone(tmp_path, suffix):
    """As `config.export` has it: the names are NAME_train and NAME_validation, which nobody has typed."""
    config = settings()
    config.export = str(tmp_path / f"bottleneck{suffix}")
    foreign = tmp_path / f"bottleneck_validation{suffix}"
    foreign.write_bytes(pickle.dumps({"features": [1.0], "labels": [0]}))
    with pytest.raises(UsageError, match="config.export: .*bottleneck_validation.* is there already"):
        experiment.extract(config, epath.Path(tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]
    foreign.unlink()
    for _ in range(2):
        experiment.extract(config, epath.Path(tmp_path / "run"))
    assert feature_files.read(foreign)[0].shape == (20, 1, 1, 32)
