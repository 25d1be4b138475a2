"""One network started from another by the road of train.py: what is copied, what is not, and that it is copied once."""

import json

import numpy as np
import pytest
from etils import epath
from flax import nnx
from safetensors.numpy import save_file

from transfer import config as config_module
from transfer import experiment
from transfer.errors import TransferError, UsageError
from transfer.experiment import finetune as end_to_end
from transfer.models import registry
from transfer.training import finetune, init_from
from transfer.weights import create_model, native

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SLIM = {"width": 0.02, "hidden": (200, 200)}


@pytest.fixture
def data(tmp_path):
    """32 images of two classes, as an .npz file."""
    labels = np.arange(32) % 2
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    return f"npz:{tmp_path / 'data.npz'}"


def started(data: str, name: str = "vgg16", **init):
    """A config that trains `name`, slim, from another network, for two epochs of one step."""
    config = config_module.default()
    config.train = "finetune"
    config.model.update({"name": name, "fields": SLIM, "init_from": init})
    config.preprocessing = {"scale": 1 / 255}
    config.image_size = 32
    config.data.source = data
    config.finetune.update({"epochs": 2, "batch_size": 25, "warmup_epochs": 0, "flip": False, "crop": 0})
    config.checkpoint_seconds = 0.0
    return config


@pytest.fixture
def vgg11(tmp_path):
    """A VGG11's file, and its arrays."""
    model = create_model("vgg11", False, seed=7, num_classes=2, **SLIM)
    arrays = {path: np.asarray(array) for path, array in registry.flat_state(model).items()}
    native.write(tmp_path / "vgg11.safetensors", arrays, native.describe("vgg11", {**SLIM, "num_classes": 2}))
    return tmp_path / "vgg11.safetensors", arrays


@pytest.fixture
def epochs(monkeypatch):
    """The parameters that each epoch of training starts from, in order; the second is interrupted at first."""
    seen = []

    def make_epoch(*arguments, original=finetune.make_epoch):
        epoch = original(*arguments)

        def watched(state, index):
            arrays = {k: np.asarray(v.get_value()) for k, v in _flat(arguments[0].model(state)).items()}
            seen.append((index, arrays))
            if index == 1 and len(seen) == 2:
                raise KeyboardInterrupt
            return epoch(state, index)

        return watched

    monkeypatch.setattr(finetune, "make_epoch", make_epoch)
    return seen


def _flat(model):
    return {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.slow
def test_vgg16_begins_as_its_vgg11_and_resumes_without_it(data, vgg11, epochs, tmp_path, caplog):
    file, theirs = vgg11
    config, workdir = started(data, model="vgg11", weights=str(file)), epath.Path(tmp_path / "run")
    caplog.set_level("INFO")
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, workdir)
    (_, ours), (_, trained) = epochs
    fresh = registry.flat_state(create_model("vgg16", False, num_classes=2, **SLIM))
    for path, array in ours.items():
        expected = theirs[path] if path in theirs else fresh[path]
        np.testing.assert_array_equal(array, expected, err_msg=path)
    # the authors' choice is among them
    for layer in ("block1.conv1", "block2.conv1", "block3.conv1", "block3.conv2", "fc1", "fc2", "logits"):
        assert not np.array_equal(ours[f"{layer}.kernel"], fresh[f"{layer}.kernel"])
    assert "init_from vgg11: 22 arrays copied (block1.conv1, block2.conv1, " in caplog.text
    assert "left random in vgg16: block1.conv2, block2.conv2, block3.conv3, block4.conv3, block5.conv3" in caplog.text

    # goes on from what was trained, with the other network gone
    assert not np.array_equal(trained["block1.conv1.kernel"], theirs["block1.conv1.kernel"])
    file.unlink()
    result = experiment.train(config, workdir)
    assert [index for index, _ in epochs] == [0, 1, 1]
    for path, array in epochs[2][1].items():
        np.testing.assert_array_equal(array, trained[path], err_msg=path)
    create_model("vgg16", workdir / "model.safetensors")
    assert result["init_from"] == json.loads((workdir / "result.json").read_text())["init_from"]
    assert result["init_from"]["arrays"] == 22 and result["init_from"]["unused"] == []
    again = experiment.train(config, workdir)
    assert again["validation_loss"] == result["validation_loss"]
    assert len(epochs) == 3


def test_a_layer_is_copied_whole_or_not_at_all():
    source = create_model("vgg11_bn", False, seed=1, num_classes=3, width=0.02, hidden=())
    model = create_model("vgg13", False, seed=2, num_classes=4, width=0.02, hidden=())
    before = dict(registry.flat_state(model))
    report = init_from.copy_matching(source, model, "vgg11_bn")
    theirs, after = registry.flat_state(source), registry.flat_state(model)
    assert "logits" in report["left"] and "logits" in report["unused"] and "block1.bn1" in report["unused"]
    assert report["arrays"] == 2 * len(report["copied"]) == 16
    for path, array in after.items():
        taken = path.rpartition(".")[0] in report["copied"]
        np.testing.assert_array_equal(array, theirs[path] if taken else before[path], err_msg=path)


def test_one_of_two_networks_in_a_file(data, vgg11, tmp_path):
    """Of a file with a student and a teacher, the one that the settings name starts the other network."""
    file, arrays = vgg11
    both = {f"{who}.{path}": array + k for k, who in enumerate("ab") for path, array in arrays.items()}
    save_file(both, file, native.describe("vgg11", SLIM))
    config = started(data, model="vgg11", weights=str(file), prefix="b")
    model = create_model("vgg16", False, num_classes=2, **SLIM)
    assert init_from.start(config, model, epath.Path(tmp_path))["arrays"] == 22
    np.testing.assert_array_equal(registry.flat_state(model)["fc1.bias"], arrays["fc1.bias"] + 1)


BAD = {
    "nothing in common": ({"model": "resnet18", "weights": "random"}, UsageError, "resnet18 and vgg16 have no layer"),
    "no such model": ({"model": "vgg12"}, UsageError, "unknown model 'vgg12'"),
    "an architecture without weights": ({"model": "vgg11"}, UsageError, "vgg11 has no weights of its own"),
    "a key of random weights": (
        {"model": "vgg11", "weights": "random", "key": "teacher"},
        UsageError,
        "config.model.init_from: key=, prefix= and ema= choose among the tensors of a file; random weights have none",
    ),
    "no such file": ({"model": "vgg11", "weights": "nowhere.pth"}, TransferError, "nowhere.pth: no such weight file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources(case, data, tmp_path):
    init, error, message = BAD[case]
    config = started(data, **init)
    if init["model"] == "resnet18":
        del config.model.fields["hidden"]
    with pytest.raises(error, match=message):
        experiment.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_of_another_network_is_refused(data, vgg11, tmp_path):
    with pytest.raises(TransferError, match="vgg11.safetensors"):
        experiment.train(started(data, model="vgg13", weights=str(vgg11[0])), epath.Path(tmp_path / "run"))


def test_two_ways_to_fill_one_network(data, tmp_path):
    config = started(data, model="vgg11", weights="random")
    config.model.weights = "vgg16.pth"
    with pytest.raises(UsageError, match="both fill the model"):
        experiment.train(config, epath.Path(tmp_path / "run"))


def test_random_layers_that_stay_frozen_are_named(data, caplog):
    config = started(data, model="vgg11", weights="random")
    config.unfreeze = "block3"
    model = create_model("vgg16", False, num_classes=2, **SLIM)
    report = {"left": ["block1.conv2", "block3.conv3"]}
    end_to_end.report_layers(config, model, end_to_end.trained_layers(model, "block3"), report)
    assert "frozen at random numbers: block1.conv2" in caplog.text and "block3.conv3" not in caplog.text
