"""Exported runs: the same probabilities as `predict`, from a process that never imported the package."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from etils import epath
from flax import nnx
from jax import export as jax_export
from PIL import Image
from safetensors import safe_open

from transfer import config as config_module
from transfer import experiment, heads
from transfer.__main__ import main
from transfer.export import artefacts, finished_run
from transfer.export.predictor import Predictor
from transfer.preprocess import recipe as preprocess
from transfer.preprocess.any_size import resize
from transfer.preprocess.recipe import Preprocessing
from transfer.store.store import FeatureStore

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
SUPPORT = REPOSITORY / "tests" / "support"
EXAMPLE = REPOSITORY / "examples" / "predict_exported.py"
# Winograd's convolutions of this machine against the library's: 1e-4 of a feature.
TOLERANCE = 2e-4
# Settings of each head, beside a scaling that has to be folded in.
SETTINGS = {
    "knn": {"metric": "l2"},
    "linear": {"epochs": 3, "scaling": "standard"},
    "logistic": {"scaling": "standard"},
    "mlp": {"epochs": 3, "scaling": "standard"},
    "nearest_mean": {"metric": "cosine"},
    "ridge": {"scaling": "whiten"},
    "sgd": {"epochs": 20, "scaling": "l2", "learning_rate": 10.0},
}
# Shapes (B, h, w) that the linear head's model is asked for; odd, larger, as the network has it.
SHAPES = ((1, 41, 23), (3, 8, 8), (17, 32, 32))
# A layer with its scaling, one with a norm before it, and several.
DENSE = ("linear", "mlp", "nearest_mean")
FORMATS = ("safetensors", "onnx", "keras")


def _config(folder: Path):
    config = config_module.default()
    config.model.name, config.tap, config.image_size = "vgg11_slim.cifar10", "block2:avg", 32
    config.preprocessing.interpolation = "bicubic"
    config.data.update({"source": "digits", "train_per_class": 12, "validation_per_class": 2})
    config.features = str(folder / "features")
    config.report = False
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of each head on one pair of stores, each exported in every format that holds it."""
    root = tmp_path_factory.mktemp("export")
    config = _config(root)
    config.head.update({"name": "linear", **SETTINGS["linear"]})
    experiment.train(config, epath.Path(root / "linear"))
    store = FeatureStore.open(root / "features" / "train")
    rows = np.asarray(store.features[:]), np.asarray(store.labels[:])
    for name in heads.HEADS:
        if name != "linear":  # the same run but for what was fitted
            shutil.copytree(root / "linear", root / name, ignore=shutil.ignore_patterns("stablehlo", *FORMATS))
            heads.HEADS[name](**SETTINGS[name]).fit(*rows).save(root / name / "head.safetensors")
        run = finished_run.load(root / name)
        for form in ("stablehlo", *FORMATS):
            (root / name / form).mkdir()
        model = epath.Path(root / name / "stablehlo" / "model.stablehlo")
        # of any size the one that is asked for several
        size = None if name == "linear" else SHAPES[1][1:]
        artefacts.write_program(run, model, ("cpu", "cuda", "tpu"), size)
        for form in FORMATS if name in DENSE else ():
            artefacts.write_head(run, epath.Path(root / name / form / f"model.{form}"), form)
    return root


@pytest.fixture(scope="module")
def answers(folder):
    """(head, format, shape) -> (what a stranger's process says, what `Predictor` says)."""
    random, jobs, expected = np.random.default_rng(0), {}, {}
    images = {shape: random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in SHAPES}
    extractor = Predictor.load(folder / "linear", 4).extractor
    rows = {shape: extractor(pixels) for shape, pixels in images.items()}

    def ask(name, form, shape, given):
        key = f"{folder / name / form / 'model'}.{form}|{len(jobs)}"
        jobs[key], expected[key] = given, (name, form, shape, predictor.probabilities(rows[shape]))

    for name in heads.HEADS:
        predictor = Predictor.load(folder / name, 4)
        for shape in SHAPES if name == "linear" else SHAPES[1:2]:
            ask(name, "stablehlo", shape, images[shape])
        for form in FORMATS if name in DENSE else ():
            ask(name, form, SHAPES[1], rows[SHAPES[1]])
    np.savez(folder / "jobs.npz", **jobs)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, SUPPORT / "export_reader.py", folder / "jobs.npz", folder / "answers.npz"]
    subprocess.run(command, check=True, cwd=folder, env=environment)
    found = np.load(folder / "answers.npz")
    return {expected[key][:3]: (found[key], expected[key][3]) for key in found.files}


@pytest.mark.parametrize("name", heads.HEADS)
def test_exported_model_says_what_predict_says(answers, name):
    cases = [values for (head, form, _), values in answers.items() if (head, form) == (name, "stablehlo")]
    assert len(cases) == (len(SHAPES) if name == "linear" else 1)
    for found, expected in cases:
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        assert len(expected) == 1 or expected.std(axis=0).max() > 10 * TOLERANCE  # different images, different answers


@pytest.mark.parametrize("name", [name for name in heads.HEADS if name != "knn"])
def test_scaling_folds_into_the_layers(folder, name):
    head = finished_run.load(folder / name).head
    rows = np.random.default_rng(3).normal(size=(9, head.n_features_in_)).astype(np.float32)
    layers = head.dense().folded(head.scaler_)
    np.testing.assert_allclose(jax.nn.softmax(layers.scores(rows)), head.predict_proba(rows), atol=2e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", DENSE)
def test_exported_heads_say_what_the_head_says(answers, name, form):
    ((found, expected),) = [values for (head, kind, _), values in answers.items() if (head, kind) == (name, form)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", DENSE)
def test_exported_heads_hold_the_names_of_the_classes(folder, name):
    names = list(finished_run.load(folder / name).class_names)
    with safe_open(folder / name / "safetensors" / "model.safetensors", "np") as file:
        assert json.loads(file.metadata()["class_names"]) == names and len(names) == 10
    graph = onnx.load(folder / name / "onnx" / "model.onnx")
    assert {prop.key: json.loads(prop.value) for prop in graph.metadata_props} == {"class_names": names}


def test_the_file_beside_it_says_what_goes_in_and_out(folder, tmp_path):
    path = tmp_path / "model.stablehlo"
    assert main(["export", f"--workdir={folder / 'linear'}", f"--output={path}"]) == 0
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["class_names"] == [str(digit) for digit in range(10)]
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert described["head_sha256"] == hashlib.sha256((folder / "linear" / "head.safetensors").read_bytes()).hexdigest()
    assert (described["input"]["dtype"], described["input"]["shape"]) == ("uint8", ["any", "any", "any", 3])
    assert described["platforms"] == ["cpu", "cuda", "tpu"]
    loaded = jax_export.deserialize(bytearray(path.read_bytes()))
    assert loaded.platforms == ("cpu", "cuda", "tpu") and loaded.calling_convention_version


def test_holds_no_weights_that_no_tap_needs(folder):
    run = finished_run.load(folder / "linear")
    all_of_it = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(run.model)))
    assert (folder / "linear" / "stablehlo" / "model.stablehlo").stat().st_size < all_of_it / 4


def test_a_size_of_its_own_is_the_only_one(folder, tmp_path):
    output = tmp_path / "fixed.stablehlo"
    command = ["export", f"--workdir={folder / 'linear'}", f"--output={output}"]
    assert main([*command, "--input_size=20x30", "--platforms=cpu"]) == 0
    loaded = jax_export.deserialize(bytearray(output.read_bytes()))
    images = np.random.default_rng(1).integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    expected = Predictor.load(folder / "linear", 2)(images)
    np.testing.assert_allclose(jax.jit(loaded.call)(images), expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match="20"):
        loaded.call(images[:, :19])


def the_other_side_needs():
    """The packages that the guide names for whoever reads an exported file."""
    (said,) = re.findall(r"The other side needs (.*), nothing of ours", (REPOSITORY / "docs" / "export.md").read_text())
    return re.findall(r"`([^`]+)`", said)


def read_by_a_stranger(folder, *arguments):
    """Runs the example where what the guide names can be imported, and no more."""
    code = f"import sys, plain_install; plain_install.only({the_other_side_needs()}); sys.argv[0] = 'example.py'\n"
    command = [sys.executable, "-c", code + EXAMPLE.read_text(), *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(SUPPORT)}, capture_output=True, text=True
    )


def test_the_guide_and_the_example_name_the_same_packages():
    needed = the_other_side_needs()
    assert "flatbuffers" in needed and f"pip install {' '.join(needed)}\n" in EXAMPLE.read_text()


@pytest.mark.parametrize("arguments", [(), ("model.stablehlo",)])
def test_example_without_arguments_says_how_it_is_used(tmp_path, arguments):
    run = read_by_a_stranger(tmp_path, *arguments)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "usage: python example.py MODEL.stablehlo IMAGE [IMAGE …]\n"


def test_example_names_the_classes_of_files(folder, tmp_path):
    for name in ("model.stablehlo", "model.json"):
        shutil.copy(folder / "linear" / "stablehlo" / name, tmp_path)
    images = np.random.default_rng(2).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    expected = Predictor.load(folder / "linear", 2)(images)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    run = read_by_a_stranger(tmp_path, "model.stablehlo", "0.png", "1.png")
    assert run.returncode == 0, run.stderr
    for number, line in enumerate(run.stdout.splitlines()):
        name, found = line.removeprefix(f"{number}.png: ").split()
        assert name == str(expected[number].argmax())
        assert float(found) == pytest.approx(expected[number].max(), abs=TOLERANCE)
    assert len(run.stdout.splitlines()) == 2


def test_a_network_trained_end_to_end(small_network, tmp_path):
    random, labels = np.random.default_rng(0), np.arange(32) % 2
    images = (random.integers(0, 128, (32, 16, 16, 3)) + 127 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    config = config_module.default()
    config.train, config.image_size, config.report = "finetune", 16, False
    config.finetune.update({"epochs": 1, "warmup_epochs": 0, "batch_size": 16})
    config.model.update({"name": small_network, "weights": "random"})
    config.preprocessing = {"scale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    config.data.source = f"npz:{tmp_path / 'tiny.npz'}"
    experiment.train(config, epath.Path(tmp_path / "run"))
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'm.stablehlo'}"]) == 0
    loaded = jax_export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    expected = Predictor.load(tmp_path / "run", 4)(images[:3, :13])
    np.testing.assert_allclose(jax.jit(loaded.call)(images[:3, :13]), expected, atol=1e-5)
    assert expected.std(axis=0).max() > 1e-4


@pytest.mark.parametrize(
    ("head", "arguments", "said"),
    [
        ("linear", ["--output=m.bin"], "must end in one of .stablehlo"),
        ("linear", ["--output=m.onnx", "--format=keras"], "should end in .keras"),
        ("linear", ["--output=m.stablehlo", "--platforms=cpu,abacus"], "--platforms='cpu,abacus': 'abacus' is not one"),
        ("linear", ["--output=m.stablehlo", "--input_size=0x3"], "--input_size='0x3' should be any"),
        ("linear", ["--output=m.onnx", "--input_size=32"], "leave them out"),
        ("linear", ["--output=nowhere/m.onnx"], "nowhere/m.onnx: there is no folder"),
        ("knn", ["--output=m.onnx"], "--format=stablehlo holds any head"),
        ("nobody", ["--output=m.onnx"], "there is no such folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(folder, tmp_path, monkeypatch, capsys, head, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"--workdir={folder / head}", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


CASES = [
    Preprocessing(image_size=(12, 15), resize_to=18, interpolation="bilinear"),
    Preprocessing(image_size=(21, 14), resize_to=13, interpolation="bicubic"),
    Preprocessing(image_size=(13, 13), interpolation="lanczos"),
    Preprocessing(image_size=(12, 15), resize_to=19, interpolation="nearest"),
    Preprocessing(image_size=(12, 15), resize_to=18, resize="float", antialias=False),
]


@pytest.mark.parametrize("recipe", CASES, ids=lambda recipe: f"{recipe.resize}-{recipe.interpolation}")
def test_resizes_images_of_any_size_as_pillow_does(recipe):
    symbols = jax_export.symbolic_shape("b, h, w, 3")
    images = jax.ShapeDtypeStruct(symbols, jnp.uint8)
    exported = jax_export.export(jax.jit(lambda pixels: resize(recipe, pixels)))(images)
    random = np.random.default_rng(0)
    # odd sizes; one that is much taller, whose rows Pillow may resize first; one pixel
    for height, width in ((37, 23), (151, 8), (1, 3)):
        images = random.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        found = np.asarray(jax.jit(exported.call)(images))
        expected = np.stack([preprocess.resize_on_host(recipe, image) for image in images])
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-3 if recipe.resize == "float" else 0, rtol=0)
