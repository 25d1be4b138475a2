"""`python -m transfer bench` from its flags to its table and its JSON."""

import json

import pytest

from transfer import __main__ as program
from transfer.bench import machine
from transfer.models import registry
from transfer.weights import catalogue

QUICK = ["--rounds=2", "--seconds=0"]
SMALL = [*QUICK, "--models=vgg11_slim.cifar10", "--batch=2"]


def bench(*arguments):
    return program.main(["bench", *arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What one command wrote: folder and content of the JSON. One row is fine, one fails."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = [*QUICK, "--models=vgg11_slim.cifar10,inception_v3", "--image_size=48", "--batch=2"]
    arguments += [f"--output={folder / 'result.json'}", f"--profile={folder / 'profile'}"]
    assert bench(*arguments) == 1
    return folder, arguments, json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_a_row_holds_what_a_reader_needs(written):
    _, _, content = written
    row = content["rows"][0]
    record = catalogue.get("vgg11_slim.cifar10")
    assert (row["model"], row["weights"], row["batch"]) == ("vgg11_slim.cifar10", record.file.filename, 2)
    assert row["image_size"] == [48, 48] and row["precision"] == "high" and row["dtype"] == "float32"
    # the catalogue counts multiply-adds and the classifier
    assert row["gflops_per_image"] == pytest.approx(2 * record.gflops, rel=0.05)
    assert row["images_per_second"] == pytest.approx(2 / (row["step_ms"] / 1e3))
    assert row["images_per_second_per_device"] == pytest.approx(row["images_per_second"] / row["devices"])
    assert row["tflops"] == pytest.approx(row["images_per_second"] * row["gflops_per_image"] / 1e3)
    assert row["mfu"] is None and row["times_matmul"] == pytest.approx(row["tflops"] / row["peak_tflops"])
    assert row["step_ms_p10"] <= row["step_ms"] <= row["step_ms_p90"]
    assert row["compile_seconds"] > 0 and row["peak_memory_bytes"] > 1e6 and row["parameters"] > 1e5
    assert set(row["seconds"]) == {"compute", "end to end", "matmul"}
    assert all(len(samples) == 2 for samples in row["seconds"].values())
    assert set(row["spread"]) == set(row["seconds"]) and (row["seed"], row["rounds"], row["sample_seconds"]) == (
        0,
        2,
        0,
    )
    assert row["host_memory_bytes"] > 1e8 and row["packages"]["numpy"] and 0 <= row["busy"] <= 1
    assert content["units"]["step_ms"] == "ms" and content["units"]["host_memory_bytes"] == "bytes"
    assert row["jax"] and row["jaxlib"] and row["device_kind"] and row["hosts"] == 1


@pytest.mark.slow
def test_the_error_is_that_of_every_tap(written):
    row = written[2]["rows"][0]
    assert {"block1", "block2", "block3", "pre_logits"} <= set(row["errors"])
    assert row["error"] == row["errors"][row["error_tap"]] == max(row["errors"].values()) <= 1e-4


@pytest.mark.slow
def test_a_failed_row_holds_its_error_and_the_run_goes_on(written):
    _, _, content = written
    fine, failed = content["rows"]
    assert fine["failed"] is None
    assert "48" in failed["failed"] and "images_per_second" not in failed
    assert content["complete"]


@pytest.mark.slow
def test_the_json_holds_the_command(written):
    _, arguments, content = written
    assert content["command"] == " ".join(["python -m transfer bench", *arguments])


@pytest.mark.slow
def test_a_trace_is_written(written):
    folder, _, _ = written
    assert list((folder / "profile" / "vgg11_slim.cifar10_2_float32").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(monkeypatch, capsys):
    monkeypatch.setattr(machine, "available_memory", lambda: 14_000_000)
    assert bench(*QUICK, "--models=vgg11_slim.cifar10", "--batch=64", "--no_errors", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["batch_asked"] == 64 and row["batch"] < 64
    assert f"halved to {row['batch']}" in row["notes"][-1]


def test_not_even_one_image(monkeypatch, capsys):
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    assert bench(*SMALL) == 1
    output = capsys.readouterr()
    assert "failed: vgg11_slim.cifar10, batch 2, float32:" in output.out and "GB are free" in output.out
    assert output.err.splitlines()[-1].startswith("error: 1 of 1 rows failed")


@pytest.mark.slow
def test_interrupted_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def impatient(**fields):
        raise KeyboardInterrupt

    monkeypatch.setitem(registry.architectures(), "impatient", impatient)
    output = tmp_path / "result.json"
    models = "--models=vgg11_slim.cifar10,impatient"
    assert bench(*QUICK, models, "--batch=1", "--no_errors", f"--output={output}") == 130
    content = json.loads(output.read_text())
    assert [row["model"] for row in content["rows"]] == ["vgg11_slim.cifar10"] and not content["complete"]
    printed = capsys.readouterr()
    assert "vgg11_slim.cifar10" in printed.out and "1 finished rows are kept" in printed.err


@pytest.mark.slow
def test_a_name_without_a_file_is_random_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    assert bench(*QUICK, "--models=resnet18.tv", "--image_size=32", "--batch=1", "--no_errors") == 0
    printed = capsys.readouterr().out
    assert "weights random" in printed and "weights fetch resnet18.tv" in printed


@pytest.mark.slow
def test_beside_the_network_as_written(capsys):
    assert bench(*SMALL, "--no_errors", "--peers=flax*") == 0
    printed = capsys.readouterr().out
    assert "x Flax, jitted" in printed and "x NAME: how many times faster" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--models=resnet51"], "did you mean resnet50"),
        (["--batch=0"], "--batch='0'"),
        (["--dtype=float16"], "--dtype: nothing is called 'float16'; known are float32, bfloat16"),
        (["--precision=low"], "--precision=low"),
        (["--rounds=0"], "--rounds=0"),
        (["--output=result.txt"], "must end in .json"),
        (["--plot=plot.gif"], "must end in one of .svg, .png, .pdf"),
        (["--output=/nowhere/result.json"], "there is no folder /nowhere"),
        (["--weights=/nowhere/file.pth"], "there is no such file"),
        (["--peers=tensorrt"], "nothing is called 'tensorrt'"),
        (["--peers", "--tap=block1"], "--peers compares pre_logits"),
        (["--head", "--target=tpu:v5e:2x2"], "take one"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert bench(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
