"""Whole networks trained end to end: augmentation, optimiser, and a run that learns and resumes."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer import config as config_module
from transfer import experiment
from transfer.data.loader import load_all
from transfer.data.registry import open_source
from transfer.errors import TransferError, UsageError
from transfer.evaluation import predictions
from transfer.evaluation.predictions import Predictions
from transfer.experiment.backbone import build_network, build_preprocessing
from transfer.extract import Extractor
from transfer.models import registry
from transfer.preprocess import recipe as preprocess
from transfer.runtime import distributed, preemption
from transfer.training import finetune
from transfer.training.finetune import head_layers
from transfer.weights import cache, catalogue, create_model, native

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), shift=st.integers(0, 3))
def test_augmented_images_are_shifts_of_the_image_or_its_mirror(seed, shift):
    images = np.random.default_rng(seed).integers(1, 256, (4, 6, 5, 3), np.uint8)
    augmented = finetune.augment(jnp.asarray(images), jax.random.key(seed), flip=True, crop=shift)
    for before, after in zip(images, np.asarray(augmented), strict=True):
        padded = [np.pad(x, ((shift, shift), (shift, shift), (0, 0))) for x in (before, before[:, ::-1])]
        steps = range(2 * shift + 1)
        candidates = [p[i : i + 6, j : j + 5] for p in padded for i in steps for j in steps]
        assert any(np.array_equal(after, candidate) for candidate in candidates)


def test_augmentation_left_out_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    np.testing.assert_array_equal(finetune.augment(jnp.asarray(images), jax.random.key(0), flip=False, crop=0), images)


def test_augmentation_mirrors_about_half():
    images = np.zeros((400, 1, 2, 3), np.uint8)
    images[:, :, 1] = 1
    mirrored = np.asarray(finetune.augment(jnp.asarray(images), jax.random.key(1), flip=True, crop=0))[:, 0, 0, 0]
    assert 150 < mirrored.sum() < 250


def test_every_crop_is_as_likely():
    images = np.zeros((900, 5, 6, 3), np.uint8)
    images[:, 2, 3] = 1
    cropped = np.asarray(finetune.augment(jnp.asarray(images), jax.random.key(1), flip=False, crop=1))[..., 0]
    places, counts = np.unique(np.argwhere(cropped)[:, 1:], axis=0, return_counts=True)
    assert places.tolist() == [[row, column] for row in (1, 2, 3) for column in (2, 3, 4)]
    assert counts.min() > 60 and counts.max() < 140 and counts.sum() == 900


class Recorded:
    """A network that records what it is given; its metrics tell the step and the batch apart."""

    def __init__(self, batch_size):
        self.settings, self.trained, self.validated, self.keys = SimpleNamespace(batch_size=batch_size), [], [], []

    def step(self, state, train, rows, key):
        self.trained.append(rows.tolist())
        self.keys.append(jax.random.key_data(key).tolist())
        return {"steps": state["steps"] + 1}, jnp.array([2.0, 0.5]) * state["steps"]

    def evaluate(self, state, images, rows, real):
        assert state["steps"] == 3 and real.dtype == np.float32
        self.validated.append((rows.tolist(), real.tolist()))
        return jnp.array([rows.sum(), real.sum()]), jnp.array(rows, jnp.bfloat16)[:, None]


def test_an_epoch_is_every_image_once_in_full_batches():
    network, (train, validation) = Recorded(4), ((None, np.zeros(count)) for count in (10, 6))
    state = {"steps": jnp.zeros(())}
    epoch = finetune.make_epoch(network, train, validation, seed=5)
    new, metrics = epoch(state, 2)
    key = jax.random.fold_in(jax.random.key(5), 2)
    order = jax.random.permutation(key, 10).tolist()
    assert network.trained == [order[:4], order[4:8], order[8:] + order[:2]]
    assert network.keys == [jax.random.key_data(jax.random.fold_in(key, step)).tolist() for step in range(3)]
    assert network.validated == [([0, 1, 2, 3], [1, 1, 1, 1]), ([4, 5, 5, 5], [1, 1, 0, 0])]
    # the mean of 0, 2 and 4; of 0, 0.5 and 1; (6 + 19) / 6; (4 + 2) / 6
    expected = {"loss": 2, "accuracy": 0.5, "validation_loss": 25 / 6, "validation_accuracy": 1}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)
    assert new["steps"] == 3 and state["steps"] == 0, "the caller may still hold the state before"
    scores = finetune.logits(network, new, validation)
    assert scores.dtype == np.float32 and scores.tolist() == [[0], [1], [2], [3], [4], [5]]
    finetune.make_epoch(Recorded(10), train, validation, seed=5)
    with pytest.raises(UsageError, match="^config.finetune.batch_size=11 is more than the 10 training images; lower"):
        finetune.make_epoch(Recorded(11), train, validation, seed=5)


def sgd(rate, step, gradient, decay, weight, moments):
    """Nesterov's momentum as Sutskever et al. (2013) write it for a look-ahead weight."""
    gradient = gradient + decay * weight
    moments[0] = gradient + 0.9 * moments[0]
    return weight - rate * (gradient + 0.9 * moments[0])


def adamw(rate, step, gradient, decay, weight, moments):
    """Algorithm 2 of Loshchilov and Hutter (2019), its decay times the rate."""
    moments[:] = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2
    mean, square = moments[0] / (1 - 0.9 ** (step + 1)), moments[1] / (1 - 0.999 ** (step + 1))
    return weight - rate * (mean / (np.sqrt(square) + 1e-8) + decay * weight)


@pytest.mark.parametrize("head_rate", [None, 0.04])
@pytest.mark.parametrize("update", [sgd, adamw], ids=lambda update: update.__name__)
def test_the_weights_of_an_optimiser_step_by_step(update, head_rate):
    """A warm-up from 0, a cosine to 0; only what has two axes decays; the head has its own rate."""
    own = dict(epochs=4, warmup_epochs=1, batch_size=4, learning_rate=0.1, head_learning_rate=head_rate)
    settings = config_module.default().finetune
    settings.update({**own, "optimizer": update.__name__, "weight_decay": 0.2})
    steps = 3  # an epoch of 9 images
    optimizer = finetune.make_optimizer(settings, 9, frozenset({"logits"}))
    params = {
        "block": {"conv": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}},
        "logits": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)},
    }
    expected = {(part, name): 3.0 for part in params for name in ("kernel", "bias")}
    moments, state = {leaf: [0.0, 0.0] for leaf in expected}, optimizer.init(params)
    for step in range(4 * steps):
        gradient = 0.5 + step % 3
        updates, state = optimizer.update(jax.tree.map(lambda leaf, by=gradient: leaf * 0 + by, params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        cosine = (1 + np.cos(np.pi * (step - steps) / (3 * steps))) / 2
        for (part, name), weight in expected.items():
            peak = head_rate if part == "logits" and head_rate is not None else 0.1
            rate = peak * (step / steps if step < steps else cosine)
            decay = 0.2 if name == "kernel" else 0.0
            expected[part, name] = update(rate, step, gradient, decay, weight, moments[part, name])
            layer = params["logits"] if part == "logits" else params["block"]["conv"]
            np.testing.assert_allclose(layer[name], expected[part, name], rtol=1e-4)


def test_many_names_are_folded_in_the_middle():
    names = [f"n{i}" for i in range(14)]
    assert finetune.folded(names[:12]) == ", ".join(names[:12])
    assert finetune.folded(iter(names)) == "n0, n1, n2, n3, n4, n5, … 2 more …, n8, n9, n10, n11, n12, n13"


SIZE = 16


@pytest.fixture
def config(tmp_path, small_network):
    """Two classes, dark and light noise, and a small network."""
    random = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = (random.integers(0, 128, (96, SIZE, SIZE, 3)) + 127 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels)
    config = config_module.default()
    config.train = "finetune"
    config.finetune.update({"epochs": 5, "batch_size": 32, "learning_rate": 0.3, "crop": 2})
    config.model.update({"name": small_network, "weights": "random", "fields": {"width": 6, "dropout": 0.1}})
    config.image_size = SIZE
    config.preprocessing = {"scale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    config.data.source = f"npz:{tmp_path / 'tiny.npz'}"
    config.checkpoint_seconds = 0.0
    return config


@pytest.mark.slow
def test_learns_resumes_and_its_file_loads(config, tmp_path, monkeypatch):
    whole = experiment.train(config, epath.Path(tmp_path / "whole"))
    assert whole["validation_accuracy"] > 0.9
    assert whole["num_train"] == 76 and whole["num_validation"] == 20

    found = Predictions.read(tmp_path / "whole" / predictions.FILE)
    assert found.right.mean() == pytest.approx(whole["validation_accuracy"], abs=1e-6)
    assert found.nll.mean() == pytest.approx(whole["validation_loss"], abs=1e-5)
    assert whole["measures"]["accuracy"]["value"] == whole["validation_accuracy"] and len(found) == 20

    # stopped in the middle of the second epoch, then run again
    step, calls = finetune.Network._step, []

    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    def make_epoch(*arguments, original=finetune.make_epoch):
        epoch = original(*arguments)

        def stops(state, index):
            calls.append(index)
            return interrupted(None) if index == 1 else epoch(state, index)

        return stops

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(finetune, "make_epoch", make_epoch)
        experiment.train(config, epath.Path(tmp_path / "parts"))
    assert calls == [0, 1] and finetune.Network._step is step
    resumed = experiment.train(config, epath.Path(tmp_path / "parts"))
    timings = ("seconds_train",)
    assert {k: v for k, v in resumed.items() if k not in timings} == {
        k: v for k, v in whole.items() if k not in timings
    }

    model, other = (create_model("small", tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    assert model.preprocessing == build_preprocessing(config, create_model("small", False, width=6))
    images = np.stack([np.full((20, 25, 3), value, np.uint8) for value in (40, 220)])
    features = [Extractor(network, tap="logits")(images) for network in (model, other)]
    assert features[0].argmax(-1).tolist() == [0, 1]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("batch_size", 77, "more than the 76"),
        ("optimizer", "adma", "not one of sgd"),
        ("warmup_epochs", 5, "warmup_epochs=5"),
    ],
)
def test_settings_that_cannot_work(config, tmp_path, field, value, message):
    config.finetune[field] = value
    with pytest.raises(UsageError, match=message):
        experiment.train(config, epath.Path(tmp_path / "run"))


@pytest.mark.slow
def test_sigterm_within_an_epoch_keeps_the_last_whole_one(config, tmp_path, monkeypatch):
    config.finetune.epochs = 3
    asked = iter([False] * 4 + [True] * 100)  # three steps an epoch
    monkeypatch.setattr(preemption, "requested", lambda: next(asked))
    monkeypatch.setattr(preemption, "stop_at", lambda step: False)
    with pytest.raises(preemption.Preempted, match="continues after the last whole epoch"):
        experiment.train(config, epath.Path(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]
    assert not (tmp_path / "run" / "result.json").exists()


def test_one_process_only(config, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    with pytest.raises(UsageError, match="config.train=finetune runs in one process"):
        experiment.train(config, epath.Path(tmp_path / "run"))


@pytest.mark.slow
def test_over_seeds(config, tmp_path, capsys):
    config.seeds, config.seed, config.finetune.epochs = 2, 3, 2
    result = experiment.train(config, epath.Path(tmp_path / "run"))
    runs = [json.loads((tmp_path / "run" / f"seed_{seed}" / "result.json").read_text()) for seed in (3, 4)]
    losses = [run["validation_loss"] for run in runs]
    assert losses[0] != losses[1]
    assert result["validation_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert result["spread"]["validation_loss"] == pytest.approx(np.std(losses, ddof=1), abs=1e-6)
    assert "over 2 seeds: mean" in capsys.readouterr().out
    config.seeds = None
    with pytest.raises(TransferError, match="data.seed was 1 and is 0"):  # other images, too
        experiment.train(config, epath.Path(tmp_path / "run" / "seed_4"))


@pytest.mark.slow
def test_images_of_several_sizes(config, tmp_path):
    """They are resized on the host, and become the same input as on the device."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in ("dark", "light"):
        (tmp_path / "mixed" / label).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 128, (SIZE + 4 * (i % 2), SIZE, 3)) + 127 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mixed" / label / f"{i}.png")
    config.data.source = f"folder:{tmp_path / 'mixed'}"
    result = experiment.train(config, epath.Path(tmp_path / "run"))
    assert (result["num_train"], result["num_classes"]) == (32, 2)
    source = open_source(config.data.source)
    recipe = build_preprocessing(config, create_model("small", False))
    images = load_all(source, recipe)
    wanted = [preprocess.apply(recipe, source.image(row)[None])[0] for row in (0, 1)]
    np.testing.assert_allclose(preprocess.normalise(recipe, images[:2]), wanted, atol=1e-6)


NEW_HEAD = {  # weights given, finetune.new_head -> whether the classifier is new
    ("catalogue", None): True,
    ("catalogue", False): False,
    ("file", None): False,
    ("file", True): True,
}


@pytest.mark.parametrize("case", NEW_HEAD, ids=str)
def test_a_new_classifier_even_for_as_many_classes(case):
    weights, new_head = case
    config = config_module.default()
    config.finetune.new_head = new_head
    if weights == "file":
        config.model.weights = str(cache.local_path(catalogue.get(config.model.name).file))
    before = registry.flat_state(create_model(config.model.name))
    model = build_network(config, num_classes=10)
    after = registry.flat_state(model)
    changed = {path for path in after if not np.array_equal(after[path], before[path])}
    assert ("logits.kernel" in changed) == NEW_HEAD[case]
    assert changed <= {"logits.kernel", "logits.bias"}
    assert (head_layers(model), bool(model.renewed)) == ({"logits"}, NEW_HEAD[case])


def test_a_head_of_several_layers_is_new_where_the_file_has_none(tmp_path):
    arrays = registry.flat_state(registry.build("vgg11", num_classes=0, width=0.02))
    native.write(tmp_path / "notop.safetensors", arrays)
    model = create_model("vgg11", tmp_path / "notop.safetensors", num_classes=3, width=0.02)
    assert head_layers(model) == {"fc1", "fc2", "logits"}


@pytest.mark.parametrize("content", ["[]", "{}", '{"image_size": [8, 8], "resize": "fast"}', "{"])
def test_a_preprocessing_that_cannot_be_read_is_named(content, tmp_path):
    native.write(tmp_path / "odd.safetensors", {"a": np.zeros(1)}, {"preprocessing": content})
    with pytest.raises(TransferError, match=r"odd.safetensors: its metadata hold a preprocessing that cannot be read"):
        native.preprocessing(tmp_path / "odd.safetensors")
