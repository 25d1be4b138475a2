"""Whatever the version before the modules moved has written still opens: `golden/make_written.py` wrote it.

Rows of stores, arrays of heads and files that need no computing are the same bit for bit. What XLA computes anew is,
by another version of JAX or on another processor, as far off as TOLERANCE, features as FEATURE_TOLERANCE.
"""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import export_reader
import numpy as np
import pytest
from etils import epath
from golden import written_runs as runs
from safetensors import safe_open
from safetensors.numpy import load_file

from transfer import FeatureStore, Predictor, create_model, experiment, heads
from transfer.__main__ import main
from transfer.experiment import workdirs

GOLDEN = Path(__file__).parent / "golden" / "written"
TOLERANCE = 1e-5
# of the largest; convolutions are computed in the way that the machine is quickest at
FEATURE_TOLERANCE = 1e-3
# What a description of an export says of who wrote it, with the sum over a file that has that inside.
MADE_BY = ("sha256", "jax_version", "pillow_version", "transfer_version", "calling_convention_version")
COMPARED = ("linear", "sgd", "mlp")
# Of a store, which rows it has and who wrote them.
OF_A_STORE = ("features_dtype", "checks_crc32", "provenance", "sha256")
# What an older version did not write.
NEW = {"status.json", "progress.jsonl"}
# Of a result, when and on what it was done; and what depends on no arithmetic.
MADE_ON = ("seconds_extract", "seconds_train", "device", "jax_version")
SAME = (
    "model",
    "weights_sha256",
    "tap",
    "dataset",
    "skipped",
    "num_train",
    "num_classes",
    "epochs",
    "head",
    "settings",
)
# Of what a run leaves, what says when and on what it was done, or nothing.
NO_RESULT = (".lock", ".seen", "events.")


@pytest.fixture(scope="module")
def values():
    """What the version before found, by name."""
    return dict(np.load(GOLDEN / "values.npz"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """All files, in a folder that they were not written in."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(GOLDEN / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def folder(unpacked, monkeypatch):
    """The folder, which is the current one: paths in the files are from there."""
    monkeypatch.chdir(unpacked)
    return unpacked


def contents(folder: str) -> dict[str, str]:
    """Hashes of what is in a run's folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.startswith(NO_RESULT)
    }


def train(run: str) -> dict[str, Any]:
    """Runs what was run in the folder."""
    return experiment.train(runs.settings(run), epath.Path(run))


def close(found: Any, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_store_has_the_same_rows(values, split, capsys):
    store = FeatureStore.open(f"{runs.FEATURES}/{split}")
    assert store.complete and len(store.metadata["taps"]) == 2
    for tap in store.metadata["taps"]:
        np.testing.assert_array_equal(store.tap(tap)[:], values[f"{split}/{tap}"])
    np.testing.assert_array_equal(store.labels, values[f"{split}/labels"])
    assert list(store.ids) == values[f"{split}/ids"].tolist() and store.class_names == ("Blüte", "it's", "zebra")
    assert main(["features", "verify", f"{runs.FEATURES}/{split}", "--workdir=logistic"]) == 0
    assert "each beside its label and id" in capsys.readouterr().out


def test_a_store_that_was_begun_is_finished(values):
    before = FeatureStore.open("begun/features/train", incomplete=True)
    assert 0 < len(before) < before.metadata["num_images"]
    kept = {tap: before.tap(tap)[:].astype(np.float32) for tap in before.metadata["taps"]}
    stores, _ = experiment.extract(runs.settings("begun"), epath.Path("begun"))
    for split, store in stores.items():
        for tap in store.metadata["taps"]:
            found = store.tap(tap)[:].astype(np.float32)
            close(found, values[f"begun/{split}/{tap}"], 1e-2)  # in bfloat16
            if split == "train":
                np.testing.assert_array_equal(found[: len(before)], kept[tap])
                np.testing.assert_array_equal(kept[tap], values[f"begun/{split}/{tap}"][: len(before)])
    old = FeatureStore.open(f"{runs.FEATURES}/validation").metadata
    new = stores["validation"].metadata  # nothing of it was there
    assert {key for key in {**old, **new} if old.get(key) != new.get(key)} <= set(OF_A_STORE)


@pytest.mark.parametrize("run", [name for name in runs.FINISHED if name != "finetuned"])
def test_a_finished_run_has_nothing_to_do(run):
    before = contents(run)
    train(run)
    assert contents(run) == before and f"{run}/result.json" in before


def result_of(workdir: Any) -> dict[str, Any]:
    """What `result.json` says, without what says when and on what it was done."""
    found = json.loads(Path(workdir, "result.json").read_text())
    return {key: found[key] for key in found if key not in MADE_ON}


@pytest.mark.parametrize("run", ["linear", "seeds"])
def test_a_new_run_leaves_what_the_old_one_has(run, tmp_path):
    experiment.train(runs.settings(run), epath.Path(tmp_path))
    names, kept = ({Path(path).relative_to(of).as_posix() for path in contents(of)} for of in (tmp_path, run))
    names -= NEW
    assert {name for name in names ^ kept if "/d/" not in name} == set()  # those are Orbax' own, of chance
    old, new = result_of(run), result_of(tmp_path)
    assert list(old) == list(new) and all(old[key] == new[key] for key in SAME if key in old)
    for path in (Path(name) for name in sorted(names)):
        if path.name == "config.json":  # and what is new has its default
            new, old = (workdirs.read_config(epath.Path(of, path).parent) for of in (tmp_path, run))
            assert new == old
        if path.name == "predictions.npz":
            assert np.load(tmp_path / path).files == np.load(run / path).files
        if path.name == "head.safetensors":
            with safe_open(tmp_path / path, "np") as one, safe_open(run / path, "np") as other:
                assert set(one.keys()) == set(other.keys()) and one.metadata().keys() == other.metadata().keys()


@pytest.mark.parametrize("ending", runs.ENDINGS)
def test_a_run_on_feature_files_has_nothing_to_do_whichever_file_holds_them(ending):
    before = contents("on_files")
    experiment.train_on_files(runs.settings_of_files(), *runs.feature_files(ending), epath.Path("on_files"))
    after = contents("on_files")
    named = json.loads(Path("on_files/result.json").read_text())["dataset"]
    assert named == " ".join(runs.feature_files(ending))
    assert before.pop("on_files/result.json") and after.pop("on_files/result.json") and after == before


@pytest.mark.slow
@pytest.mark.parametrize("run", runs.STOPPED)
def test_a_run_that_was_stopped_goes_on_to_the_same_end(values, run):
    before = runs.curve(Path(run))
    train(run)
    found, wanted = runs.curve(Path(run)), values[f"ended/{run}"]
    np.testing.assert_array_equal(found[: len(before)], before)
    assert 0 < len(before) < len(found) == len(wanted)
    close(found, wanted, 1e-4)
    close(Predictor.load(run)(values["new"]), values[f"probabilities/{run}"], FEATURE_TOLERANCE)


@pytest.mark.parametrize("run", runs.PREDICTING)
def test_a_run_says_the_same_of_images(values, run):
    found = Predictor.load(run)(values["new"])
    close(found, values[f"probabilities/{run}"], FEATURE_TOLERANCE)


def test_a_trained_network_has_nothing_to_learn():
    before = contents("finetuned")
    history = runs.curve(Path("finetuned"))
    result = train("finetuned")
    np.testing.assert_array_equal(runs.curve(Path("finetuned")), history)
    after = contents("finetuned")
    assert result["epochs"] == len(history)
    assert {name for name in before if before[name] != after.get(name)} <= {
        "finetuned/predictions.npz",  # of the validation images, computed anew
        "finetuned/result.json",
    }


@pytest.mark.parametrize(("name", "kind"), list(runs.every_head()))
def test_a_saved_head_is_the_same(values, name, kind, tmp_path):
    path = f"heads/{name}_{kind}.safetensors"
    head = heads.load(path)
    assert head.get_params() == runs.estimator(name, kind).get_params()
    close(head.logits(values["rows"]), values[path])
    head.save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").read_bytes() == Path(path).read_bytes()


def said_by_export(path: str, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What an exported file says, read as a stranger would."""
    if path.endswith(".stablehlo"):
        from jax import export

        return np.asarray(export.deserialize(bytearray(Path(path).read_bytes())).call(images))
    if path.endswith(".onnx"):
        import onnxruntime

        return onnxruntime.InferenceSession(path).run(None, {"features": rows})[0]
    return export_reader.plain(path)(rows)


# A .keras file is read by Keras alone, which takes long to import.
@pytest.mark.slow
@pytest.mark.parametrize(("path", "run"), runs.EXPORTS.items())
def test_an_export_says_the_same_and_is_written_over_by_the_next(values, path, run):
    beside = Path(path).with_suffix(".json")
    images, predictor = values["new"], Predictor.load(run)
    rows = predictor.extractor(images).reshape(len(images), -1)
    described = json.loads(beside.read_text())
    assert described["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if not path.endswith(".keras"):
        close(said_by_export(path, images, rows), values[f"probabilities/{run}"], FEATURE_TOLERANCE)
    assert main(["export", f"--workdir={run}", f"--output={path}"]) == 0
    if not path.endswith(".keras"):
        close(said_by_export(path, images, rows), values[f"probabilities/{run}"], FEATURE_TOLERANCE)
    again = json.loads(beside.read_text())
    assert {key for key in {**described, **again} if described.get(key) != again.get(key)} <= set(MADE_BY)


def test_a_weight_file_of_ours_is_read_and_converted_to_the_same_bytes():
    before = Path(runs.CONVERTED).read_bytes()
    wanted = load_file(runs.CONVERTED)
    assert set(wanted) == set(load_file("finetuned/model.safetensors"))
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    logits, old = (create_model("lenet5", weights=path)(images)[0] for path in (runs.CONVERTED, runs.CONVERT[0]))
    np.testing.assert_array_equal(logits, old)
    assert main(["convert", *runs.CONVERT]) == 0 and Path(runs.CONVERTED).read_bytes() == before


def test_cells_of_the_few_shot_protocol_are_gone_on_with(capsys):
    before, cells = json.loads(Path("shots/result.json").read_text())["few_shot"], Path("shots/shots.json").read_bytes()
    assert train("shots")["few_shot"] == before and Path("shots/shots.json").read_bytes() == cells
    assert main(["shots", "shots"]) == 0 and "nearest_mean" in capsys.readouterr().out


def test_the_verbs_that_look_at_runs_and_stores(tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", "linear", "logistic", f"--output={page}"]) == 0 and "Blüte" in page.read_text("utf-8")
    accuracies = {run: json.loads(Path(run, "result.json").read_text())["validation_accuracy"] for run in COMPARED}
    capsys.readouterr()
    assert main(["compare", *COMPARED, "--resamples=10"]) == 0
    out = capsys.readouterr().out
    for run, accuracy in accuracies.items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [run]]
        assert f" {100 * accuracy:.2f} " in line
    assert main(["predict", "--workdir=linear", "photos/zebra", "--format=jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9
