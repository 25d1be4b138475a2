"""`predict` says of images what the run said of them; what is wrong is one line."""

import argparse
import csv
import io
import json
import shutil
import sys

import ml_dtypes
import numpy as np
import own_images
import pytest
from etils import epath
from PIL import Image

import transfer
from transfer import __main__ as command
from transfer import config, experiment
from transfer.cli import predict
from transfer.data.folder import open_images
from transfer.data.splits import make_splits
from transfer.errors import TransferError, UsageError
from transfer.evaluation.predictions import Predictions
from transfer.export import finished_run
from transfer.export.predictor import Predictor, softmax, suitable_batch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ODD = ("it's", "Blüten & 写真", "<b onclick=alert(1)>")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders whose names need care, of images of all modes and sizes."""
    folder = tmp_path_factory.mktemp("own") / "my photos"
    own_images.write(folder, 10)
    for old, new in zip(own_images.CLASSES, ODD, strict=True):
        (folder / old).rename(folder / new)
    return folder


def settings(photos, **changes):
    chosen = config.default()
    chosen.data.source, chosen.image_size, chosen.batch_size = f"folder:{photos}", 32, 8
    chosen.update_from_flattened_dict(changes)
    return chosen


def trained(photos, folder, **changes):
    chosen = settings(photos, **changes)
    experiment.train(chosen, epath.Path(folder))
    return chosen


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """(workdir, config) of a head that is trained epoch by epoch."""
    folder = tmp_path_factory.mktemp("run")
    return folder, trained(photos, folder, **{"head.epochs": 3, "head.scaling": "standard"})


def validation(chosen):
    return make_splits(chosen.data)[1]


def check(folder, chosen, tolerance):
    """The probabilities of the run's validation images are those that the run has kept, and so in what is printed."""
    kept, predictor = Predictions.read(folder / "predictions.npz"), Predictor.load(folder)
    source = validation(chosen)
    found = np.concatenate([part for _, part in predictor.stream(source)])
    assert found.dtype == np.float32 and found.shape == (len(source), 3)
    np.testing.assert_allclose(np.take_along_axis(found, kept.top, 1), kept.probability, rtol=0, atol=tolerance)
    assert predictor.class_names == kept.class_names


def test_the_validation_images_get_the_runs_probabilities(run):
    # the same features bit for bit; the head's products are summed in another order
    check(*run, 2e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, tolerance",
    [
        ({"head.name": "ridge", "sweep.grid": "default", "tap": "block4:avg,pre_logits"}, 0),
        ({"head.name": "knn", "features_dtype": "bfloat16"}, 0),
    ],
)
def test_of_other_heads_and_a_tap_that_was_chosen(photos, tmp_path, changes, tolerance):
    check(tmp_path, trained(photos, tmp_path, **changes), tolerance)


@pytest.mark.slow
def test_of_a_network_that_was_trained_itself(photos, tmp_path, small_network):
    own = {"mean": (127.0,), "std": (64.0,), "scale": 1.0}
    changes = {f"preprocessing.{key}": value for key, value in own.items()}
    changes |= {"train": "finetune", "model.name": small_network, "model.weights": "random", "batch_size": 64}
    changes |= {"finetune.epochs": 2, "finetune.batch_size": 8, "finetune.warmup_epochs": 0}
    chosen = trained(photos, tmp_path, **changes)
    found = finished_run.load(tmp_path)
    assert found.head is None and found.tap is None and found.class_names == tuple(sorted(ODD))
    check(tmp_path, chosen, 1e-6)


def predicted(capsysbinary, *arguments, code=0):
    assert command.main(["predict", *map(str, arguments)]) == code
    return capsysbinary.readouterr()


@pytest.mark.slow
def test_a_folder_as_csv(run, photos, capsysbinary):
    text = predicted(capsysbinary, "--workdir", run[0], photos, "--top=9", "--all").out.decode()
    rows = list(csv.reader(io.StringIO(text)))
    names = sorted(ODD)
    assert rows[0] == [
        *("image", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"),
        *(f"probability of {name}" for name in names),
    ]
    assert [row[0] for row in rows[1:]] == sorted(str(path) for path in photos.rglob("*.*"))
    for row in rows[1:]:
        everything = dict(zip(names, map(float, row[7:]), strict=True))
        top = [(row[at], float(row[at + 1])) for at in (1, 3, 5)]
        assert top == sorted(everything.items(), key=lambda one: -one[1])
        assert sum(everything.values()) == pytest.approx(1, abs=1e-6)
    # what was printed in batches of other images is what an image alone gets; a batch of one is another program, whose
    # convolutions may be computed in another way
    source = open_images([photos])
    alone = Predictor(finished_run.load(run[0]), 1)(source.image(4)[None])[0]
    np.testing.assert_allclose([float(cell) for cell in rows[5][7:]], alone, atol=1e-5)


@pytest.mark.slow
def test_files_as_json_lines_in_a_file_and_one_that_cannot_be_read(run, photos, tmp_path, capsysbinary):
    good, bad = next(iter(sorted(photos.rglob("*.png")))), tmp_path / 'no "image" é.jpg'
    bad.write_bytes(b"no image")
    output = tmp_path / "answers.jsonl"
    given = ("--workdir", run[0], bad, good, good, "--format=jsonl", f"--output={output}")
    said = predicted(capsysbinary, *given, code=1)
    assert b"--on_error=skip goes on" in said.err and said.err.count(b"error:") == 1 and not output.exists()
    assert predicted(capsysbinary, *given[:3], code=1).out == b"" and not sys.stdout.closed
    said = predicted(capsysbinary, *given, "--on_error=skip", "--all")
    assert said.out == b""
    failed, fine = map(json.loads, output.read_text("utf-8").splitlines())
    assert failed["image"] == str(bad) and "not JPEG, PNG, PPM, WebP" in failed["error"]
    assert fine["image"] == str(good) and fine["class"] in ODD
    assert fine["probabilities"][fine["class"]] == fine["probability"] == max(fine["probabilities"].values())


def test_images_of_folders_zips_and_tars_are_the_files_themselves(photos, tmp_path):
    """Their order, their pixels; two archives and a folder at once."""
    archives = [shutil.make_archive(str(tmp_path / "packed"), form, photos) for form in ("zip", "tar")]
    source, of_folder = open_images([archives[0], photos, archives[1]]), open_images([photos])
    count = len(of_folder)
    assert source.ids[:2] == [f"{archives[0]}/{id_.removeprefix(f'{photos}/')}" for id_ in of_folder.ids[:2]]
    assert len(source) == 3 * count and source.ids[count : 2 * count] == of_folder.ids
    for row in range(0, count, 7):
        for place in (row, count + row, 2 * count + row):
            np.testing.assert_array_equal(source.image(place), of_folder.image(row))


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.zip", b"no zip", "a.zip: "),
        ("a.tar", b"", "a.tar: "),
        ("a.TGZ", b"\x1f\x8b", "packed by gzip, which cannot be read out of order: unpack it once (tar -xzf a.TGZ)"),
        ("a.7z", b"7z\xbc\xaf", "a 7z archive"),
    ],
)
def test_an_archive_that_is_not_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TransferError) as caught:
        open_images([tmp_path / name])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_names_that_are_no_text_come_through(run, tmp_path, capsysbinary):
    odd = bytes(tmp_path) + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        Image.new("RGB", (5, 5)).save(file, "PNG")
    assert odd in predicted(capsysbinary, "--workdir", run[0], tmp_path).out
    line = predicted(capsysbinary, "--workdir", run[0], tmp_path, "--format=jsonl").out.decode("utf-8")
    assert json.loads(line)["image"].endswith("/\udcff\udcfe.png")


@pytest.mark.parametrize(
    "name, cell",
    [("=SUM(A1)", "'=SUM(A1)"), ("@home", "'@home"), ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"), ("-1", "-1")],
)
def test_a_name_that_is_a_formula_to_a_spreadsheet_is_text_in_csv_and_itself_in_json(name, cell):
    csv_file, json_lines = io.StringIO(), io.StringIO()
    options = argparse.Namespace(top=1, all=True)
    for form, text in (("csv", csv_file), ("jsonl", json_lines)):
        predict.WRITERS[form](text, [name], options)(predict.Row("=a.png", [(name, 0.5)], [-0.5], None))
    assert csv_file.getvalue().splitlines() == [
        f"image,class,probability,probability of {name}", f"'=a.png,{cell},0.5,-0.5"
    ]  # fmt: skip
    line = json.loads(json_lines.getvalue())
    assert (line["image"], line["class"], line["probabilities"]) == ("=a.png", name, {name: -0.5})


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["/not/there.jpg"], 2, "there is no file or folder /not/there.jpg"),
        (["EMPTY"], 1, "no images below it"),
        (["PHOTOS", "--top=0"], 2, "--top=0 must be at least 1"),
        (["PHOTOS", "--batch_size=0"], 2, "--batch_size=0 must be at least 1"),
        (["PHOTOS", "--output=/not/there/a.csv"], 2, "there is no folder /not/there"),
        (["PHOTOS", "--workdir=/not/there"], 2, "--workdir=/not/there: there is no such folder"),
        (["PHOTOS", "--workdir=EMPTY"], 2, "is no run's: it has no config.json"),
        (["NOTHING.jpg", "--on_error=skip"], 1, "1 image given, and none could be read"),
    ],
)
def test_bad_arguments_are_one_line(run, photos, tmp_path, capsysbinary, arguments, code, words):
    places = {"EMPTY": tmp_path / "empty", "PHOTOS": photos, "NOTHING": tmp_path / "nothing"}
    places["EMPTY"].mkdir()
    (tmp_path / "nothing.jpg").touch()
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    said = predicted(capsysbinary, "--workdir", run[0], *arguments, code=code).err.decode()
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert words in line


def write(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


# What has become of a run -> what is said.
RUNS = {
    "not done": (remove("result.json"), TransferError, "is not done"),
    "no head": (remove("head.safetensors"), TransferError, "kept no head.safetensors"),
    "no names": (remove("predictions.npz"), TransferError, "has no predictions.npz"),
    "other weights": (write("result.json", weights_sha256="0" * 64), TransferError, "the weights .* are not those of"),
    "seeds": (lambda folder: (folder / "seed_3").mkdir(), UsageError, "name one of them, --workdir=.*seed_3"),
    "feature files": (
        lambda folder: (folder / "config.json").write_text('{"seed": 0, "training": "ab"}'),
        TransferError,
        "a run on feature files",
    ),
    "half a file": (lambda folder: (folder / "config.json").write_text('{"seed"'), TransferError, "config.json is dam"),
    "no config": (write("config.json", head=3), TransferError, "config.json is not the config of a run"),
    "head cut": (
        lambda folder: (folder / "head.safetensors").write_bytes(b"\0" * 99),
        TransferError,
        "head.safetensors: a damaged",
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_is_no_finished_run_is_refused(run, tmp_path, case):
    change, error, words = RUNS[case]
    for name in ("config.json", "result.json", "head.safetensors", "predictions.npz"):
        shutil.copy(run[0] / name, tmp_path / name)
    change(tmp_path)
    with pytest.raises(error, match=words) as caught:
        finished_run.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_of_an_older_version_lacks_younger_settings(run, tmp_path):
    for name in ("config.json", "result.json", "head.safetensors", "predictions.npz"):
        shutil.copy(run[0] / name, tmp_path / name)
    content = json.loads((tmp_path / "config.json").read_text())
    for name in ("seeds", "train", "features_dtype", "mesh", "sweep"):
        del content[name]
    del content["model"]["init_from"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert finished_run.load(tmp_path).tap == "pre_logits"


@pytest.mark.slow
def test_arrays_in_memory(run):
    predictor = transfer.Predictor.load(run[0], batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    found = predictor(images)
    assert found.shape == (3, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    with pytest.raises(UsageError, match="uint8"):
        predictor(images / 255)


def test_batches_are_no_larger_than_the_images(run):
    found = finished_run.load(run[0])
    assert [suitable_batch(found, count) for count in (1, 2, 3, 8, 9, 999)] == [1, 2, 4, 8, 8, 8]
    assert suitable_batch(found, 1, 64) == 64


def test_probabilities_of_extreme_scores():
    logits = np.array([[0, 0, -np.inf], [3e38, -3e38, 0], [-np.inf] * 3], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.5, 0.5, 0], [1, 0, 0], [1 / 3] * 3], atol=1e-7)


def test_what_a_store_kept_in_fewer_bits_is_what_the_head_sees(run):
    predictor = Predictor.load(run[0])
    predictor._stored = np.dtype(ml_dtypes.bfloat16)
    features = np.random.default_rng(0).normal(size=(4, *predictor.extractor.shapes["pre_logits"])).astype(np.float32)
    rounded = features.astype(ml_dtypes.bfloat16).astype(np.float32)
    kept = Predictor.load(run[0]).probabilities(rounded)
    np.testing.assert_array_equal(predictor.probabilities(features), kept)
    assert (kept != Predictor.load(run[0]).probabilities(features)).any()
