"""A network of any record of the catalogue, fine-tuned: what its run leaves behind is the network that was trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax import export as jax_export
from PIL import Image

from transfer import config as config_module
from transfer import experiment
from transfer.__main__ import main
from transfer.data.splits import make_splits
from transfer.evaluation.predictions import Predictions
from transfer.experiment import finetune as end_to_end
from transfer.experiment.backbone import build_preprocessing
from transfer.export import finished_run
from transfer.export.predictor import Predictor
from transfer.extract.extractor import structure_hash
from transfer.models import registry
from transfer.training import finetune
from transfer.training.run import Run
from transfer.weights import cache, catalogue

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.slow]

SHIPPED = cache.local_path(catalogue.get("vgg11_slim.cifar10").file)
CLASSES = 3
# Of every channel count, so that the largest networks are built in a moment; less leaves ResNeXt no channels.
WIDTHS = {"resnext": 1 / 4}
WIDTH = 1 / 16


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A few images of noise, brighter from class to class."""
    path, labels = tmp_path_factory.mktemp("noise") / "noise.npz", np.arange(30) % CLASSES
    random = np.random.default_rng(0)
    images = random.integers(0, 96, (30, 40, 36, 3)) + 80 * labels[:, None, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return f"npz:{path}"


def config_of(source, **changes):
    config = config_module.default()
    config.train, config.report, config.data.source = "finetune", False, source
    config.finetune.update({"epochs": 1, "warmup_epochs": 0, "batch_size": 12})
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def narrow(record):
    width = next((width for start, width in WIDTHS.items() if record.arch.startswith(start)), WIDTH)
    return {"model.name": record.name, "model.weights": "random", "model.fields.width": width}


def left_behind(config, workdir, monkeypatch):
    """A run that trains for no step but whose arrays all change, by the real code otherwise; the network it ends with.

    Compiling a step of each of sixty networks would take half an hour; what a step changes is the arrays alone.
    """
    trained = {}

    def changed(epoch, state, epochs, workdir, **settings):
        random = np.random.default_rng(1)
        run = Run(jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), state))
        row = {"loss": 1.0, "accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5}
        run.add(run.state, row)
        return run

    def logits(network, state, rows):
        trained["network"] = network.model(state)
        return np.zeros((len(rows[1]), CLASSES), np.float32)

    monkeypatch.setattr(end_to_end, "run_epochs", changed)
    monkeypatch.setattr(finetune, "logits", logits)
    experiment.train(config, epath.Path(workdir))
    return trained["network"]


def kinds():
    """A record of each network that the catalogue builds: those of one architecture and the same fields are one."""
    found = {}
    for name in catalogue.records():
        found.setdefault(repr(catalogue.architecture(name, {})), name)
    return list(found.values())


def check_found_again(network, run):
    """The run's network computes what `network` does: the same structure, and the same number in each place."""
    assert structure_hash(run.model) == structure_hash(network)
    before, after = registry.flat_state(network), registry.flat_state(run.model)
    assert before.keys() == after.keys()
    for path, array in before.items():
        np.testing.assert_array_equal(after[path], array, err_msg=path)


@pytest.mark.parametrize("name", kinds())
def test_the_network_of_every_record_is_found_again(name, source, tmp_path, monkeypatch):
    """Structure, arrays and preprocessing; that images then get what they got in the run is tested of some, below."""
    config = config_of(source, **narrow(catalogue.get(name)))
    network = left_behind(config, tmp_path / "run", monkeypatch)
    run = finished_run.load(tmp_path / "run")
    check_found_again(network, run)
    assert run.preprocessing == catalogue.get(name).preprocessing


# Settings that make another network, or other input, of the shipped record and of others.
CHANGED = {
    "an alias": {"model.name": "resnet18.a1", "model.fields.width": WIDTH},
    "narrower": {"model.fields.width": 0.1},
    "hidden layers": {"model.fields.hidden": (8, 5), "model.fields.width": 0.1},
    "its own weights": {"model.weights": None},
    "a file that says its fields": {
        "model.name": "vgg11_bn",
        "model.weights": str(SHIPPED),
        "preprocessing.scale": 1 / 255,
        "image_size": 32,
    },
    "an architecture without a record": {
        "model.name": "vgg13_bn",
        "model.fields.width": 0.1,
        "preprocessing.scale": 1 / 255,
        "image_size": 32,
    },
    "started from another": {
        "model.name": "vgg13_bn.tv",
        "model.init_from.model": "vgg11_slim.cifar10",
        "model.fields.width": 0.25,
    },
    "another size and other pixels": {"image_size": 64, "preprocessing.mean": (1.0, 2.0, 3.0), "resize": "float"},
    "fields against the record's": {
        "model.name": "resnet18.tv",
        "model.fields.width": WIDTH,
        "model.fields.bn_epsilon": 1e-2,
    },
}


@pytest.mark.parametrize("case", CHANGED)
def test_the_settings_of_the_run_are_in_the_network(case, source, tmp_path, monkeypatch):
    config = config_of(source, **{"model.weights": "random"} | CHANGED[case])
    network = left_behind(config, tmp_path / "run", monkeypatch)
    run = finished_run.load(tmp_path / "run")
    check_found_again(network, run)
    assert run.preprocessing == build_preprocessing(config, network)


# Networks that are trained for an epoch indeed: the one that is shipped, and one with batch norm.
TRAINED = [
    {"model.name": "vgg11_slim.cifar10", "image_size": 32},
    {"model.name": "vgg11_slim.cifar10", "unfreeze": "block5", "image_size": 40, "preprocessing.resize_to": 50},
    {"model.name": "resnet18.tv", "image_size": 64, "width": WIDTH},
]


@pytest.mark.parametrize("changes", TRAINED, ids=lambda changes: changes["model.name"])
def test_images_get_what_the_run_said_of_them(changes, source, tmp_path, capsys):
    """`predict`, `report` and `export` of a run that was trained, each as a command."""
    changes = dict(changes)
    if width := changes.pop("width", None):
        changes |= {"model.weights": "random", "model.fields.width": width}
    config, workdir = config_of(source, **changes), tmp_path / "run"
    experiment.train(config, epath.Path(workdir))
    kept, images = Predictions.read(workdir / "predictions.npz"), make_splits(config.data)[1]
    predictor = Predictor.load(workdir)
    found = np.concatenate([part for _, part in predictor.stream(images)])
    np.testing.assert_allclose(np.take_along_axis(found, kept.top, 1), kept.probability, rtol=0, atol=2e-5)
    assert found.std(axis=0).max() > 1e-3  # different images, different answers

    pixels, files = np.stack([images.image(row) for row in range(len(images))]), []
    for row, image in enumerate(pixels):
        files.append(str(tmp_path / f"{row}.png"))
        Image.fromarray(image).save(files[-1])
    capsys.readouterr()
    assert main(["predict", f"--workdir={workdir}", "--format=jsonl", "--all", *files]) == 0
    said = [json.loads(line)["probabilities"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([[row[name] for name in kept.class_names] for row in said], found, atol=1e-6)

    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'm.stablehlo'}", "--platforms=cpu"]) == 0
    loaded = jax_export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    np.testing.assert_allclose(jax.jit(loaded.call)(pixels), found, atol=2e-5)
    assert main(["report", str(workdir)]) == 0
