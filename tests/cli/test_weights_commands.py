"""`python -m transfer models | weights | convert`, as typed: output, exit codes, one line for every error."""

import dataclasses
import re
from pathlib import Path

import pytest
from golden import reading

from transfer import __main__ as command
from transfer.cli import verbs
from transfer.models import registry
from transfer.weights import cache, catalogue, create_model

SLIM = reading.HERE / "resnet18_slim.pth"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def run(*arguments: object) -> int:
    try:
        return command.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_models_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "resnet50.[akt][1ev]*") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:6] == ["name", "parameters", "GFLOPs", "features", "size", "top-1"]
    sources = ("a1_in1k", "keras", "tv1", "tv2", "tv_in1k")
    assert [line[0] for line in lines[1:]] == [f"resnet50.{source}" for source in sources]
    assert lines[3][1:7] == ["25.6", "M", "4.089", "2048", "224", "76.13"]


def test_the_whole_table_names_what_has_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(catalogue.names())
    assert last.startswith("without pretrained weights: ") and "lenet5" in last and "vgg" not in last


def test_a_record_of_an_architecture_that_is_not_there_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = dataclasses.replace(catalogue.get("resnet50.tv1"), name="strange.tv", arch="strange")
    monkeypatch.setattr(catalogue, "records", lambda: {"strange.tv": strange})
    assert run("models", "strange*") == 0 and "strange.tv" in capsys.readouterr().out
    assert run("weights", "verify", "strange.tv", "--weights", SLIM) == 1
    assert "load: unknown architecture 'strange'" in capsys.readouterr().err


def test_the_measured_error_is_the_last_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"resnet50.tv1": {"error": 3.14e-6, "against": "torchvision 0.29.1"}}
    monkeypatch.setattr(catalogue, "parity", lambda: measured)
    assert run("models", "resnet50.tv?", "--markdown") == 0
    cells = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    assert [cells[row][-2].strip() for row in (0, 2, 3)] == ["largest relative error", "3.1e-06", "-"]
    assert run("weights", "info", "resnet50.tv1") == 0
    assert "torchvision 0.29.1" in capsys.readouterr().out


def test_weights_list_and_info(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("weights", "list", "vgg16.[kt][ev]*") == 0
    heading, *rows, last = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert heading == ["name", "state", "verified by", "file"] and last == [f"cache: {tmp_path / 'cache'}"]
    absent = "not downloaded"
    assert rows == [
        ["vgg16.keras", absent, "MD5", "vgg16_weights_tf_dim_ordering_tf_kernels.h5"],
        ["vgg16.keras (notop)", absent, "MD5", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"],
        ["vgg16.tv", absent, "8 digits of SHA-256", "vgg16-397923af.pth"],
        ["vgg16.tv_features", absent, "8 digits of SHA-256", "vgg16_features-amdegroot-88682ab5.pth"],
        ["vgg16.tv_in1k", absent, "8 digits of SHA-256", "vgg16-397923af.pth"],
    ]
    assert run("weights", "info", "vgg16.keras") == 0
    out = capsys.readouterr().out
    for piece in ("64373286793e3c8b2b4e3219cbf3544b", "6d6bbae143d832006294945121d1f1fc", "bgr", "103.939", "CC-BY"):
        assert piece in out
    assert run("weights", "info", "resnet50.a1") == 0
    out = capsys.readouterr().out
    assert "resnet50.a1_in1k" in out and "timm/resnet50.a1_in1k" in out and "model.safetensors" in out


@pytest.mark.parametrize(
    ("name", "there", "state"),
    [
        ("vgg11_slim.cifar10", True, "shipped"),
        ("vgg11_slim.cifar10", False, "missing"),
        ("resnet18.tv", True, "cached"),
        ("resnet18.tv", False, "not downloaded"),
    ],
)
def test_where_a_weight_file_is(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    there: bool,
    state: str,
) -> None:
    file = tmp_path / "file"
    if there:
        file.touch()
    monkeypatch.setattr(cache, "local_path", lambda weight_file: file)
    assert run("weights", "list", name) == 0 and run("weights", "info", name) == 0
    out = capsys.readouterr().out
    assert re.split(" {2,}", out.splitlines()[1])[1] == state and f"{file} ({state})\n" in out


def test_fetch_says_where_a_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "fetch", "vgg11_slim.cifar10") == 0
    path, digest = capsys.readouterr().out.splitlines()
    assert Path(path).is_file() and digest == f"sha256 {catalogue.get('vgg11_slim.cifar10').file.sha256}"


def test_convert_writes_what_create_model_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared_data: Path
) -> None:
    source, output = shared_data / "vgg16_keras_notop.h5", tmp_path / "vgg16.safetensors"
    assert run("convert", source, "--model", "vgg16.keras", "--output", output) == 0
    assert "26 arrays of vgg16.keras" in capsys.readouterr().out
    theirs = registry.flat_state(create_model("vgg16.keras", weights=source))
    for path, array in registry.flat_state(create_model("vgg16.keras", weights=output)).items():
        assert (array == theirs[path]).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["weights", "fetch", "resnet18.tv"],
            1,
            "cannot download https://download.pytorch.org/models/resnet18-f37072fd.pth",
        ),
        (["weights", "info", "vgg16.kers"], 2, "unknown weights 'vgg16.kers'; did you mean vgg16.keras"),
        (["weights", "fetch", "resnet18.tv", "--notop"], 2, "no separate file without classifier"),
        (["weights", "list", "nothing*"], 2, "unknown weights"),
        (["models", "vgg99*"], 2, "unknown weights"),
        (
            ["convert", "no.pth", "--model", "resnet18.tv", "--output", "x.safetensors"],
            1,
            "no.pth: no such weight file",
        ),
        (["convert", SLIM, "--model", "resnet34.tv", "--output", "x.safetensors"], 1, "does not fit resnet34.tv"),
        (["convert", SLIM, "--model", "resnet18.tv", "--output", "x.pth"], 2, "must end in .safetensors"),
        (["convert", SLIM, "--model", "resnet18.tv", "--output", "no/x.safetensors"], 2, "there is no folder"),
        (
            ["convert", SLIM, "--model", "resnet18", "--output", "x.safetensors", "--head", "file"],
            1,
            "does not say what follows the network (head='file'): it is no whole Keras model",
        ),
        (
            ["weights", "verify", "resnet18.tv", "--weights", SLIM, "--head", "file"],
            1,
            "does not say what follows the network (head='file')",
        ),
        (["convert", SLIM, "--model", "resnet18", "--output", "x.safetensors", "--head", "x"], 2, "invalid choice"),
        (["convert", SLIM], 2, "the following arguments are required"),
        (["weights"], 2, "required"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        ([], 2, "required"),
    ],
)
def test_errors_are_one_line(
    arguments: list,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not list(tmp_path.rglob("x.*"))


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in verbs.VERBS)
    assert run("weights", "--help") == 0
