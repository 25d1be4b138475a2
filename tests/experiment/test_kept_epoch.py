"""`keep="best"` and `patience`: which epoch's head or network a run ends with, whatever it was stopped and resumed."""

import json

import measured
import numpy as np
import pytest
from etils import epath

from transfer import config as settings
from transfer import experiment, heads
from transfer.errors import UsageError
from transfer.evaluation import runs
from transfer.evaluation.predictions import Predictions
from transfer.experiment import finetune, train_head
from transfer.report import run_data
from transfer.weights import create_model

pytestmark = pytest.mark.usefixtures("compiled_quickly")
PATIENCE = {"keep": "best", "patience": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Classes that overlap: a head that is trained long gets worse on the rows that validate."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(3)
    labels = random.integers(3, size=150)
    features = (random.normal(size=(150, 30)) + 0.3 * np.eye(30)[labels]).astype(np.float32)
    for name, rows in (("train", slice(90)), ("validation", slice(90, None))):
        np.savez(folder / f"{name}.npz", features=features[rows], labels=labels[rows])
    return [str(folder / f"{name}.npz") for name in ("train", "validation")]


def config_of(name="linear", **head):
    chosen = settings.default()
    chosen.report, chosen.checkpoint_seconds = False, 0.0
    chosen.head.update(name=name, batch_size=32, learning_rate=0.02, **head)
    return chosen


def trained(files, workdir, name="linear", **head):
    return experiment.train_on_files(config_of(name, **head), *files, epath.Path(workdir))


def head_of(workdir):
    head = heads.load(workdir / "head.safetensors")
    return head, head.logits(np.eye(30, dtype=np.float32))


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_what_is_kept_is_the_run_that_ended_there(files, tmp_path, name, capsys):
    result = trained(files, tmp_path / "run", name, epochs=40, **PATIENCE)
    history = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    accuracies = [row["validation_accuracy"] for row in history]
    best = 1 + accuracies.index(max(accuracies))
    assert result["kept_epoch"] == result["best_epoch"] == best == len(history) - 4 and result["epochs"] < 40
    said = capsys.readouterr().out
    assert f"Stopped after epoch {best + 4}: none of the last 4 was better than epoch {best}." in said
    assert f"Epoch {best} of {best + 4} was kept: the validation images chose it" in said

    short = trained(files, tmp_path / "short", name, epochs=best)
    assert "kept_epoch" not in short and short["measures"] == result["measures"]
    for key in ("train_loss", "validation_loss", "validation_accuracy"):
        assert result[key] == short[key]
    (head, scores), (other, expected) = head_of(tmp_path / "run"), head_of(tmp_path / "short")
    np.testing.assert_array_equal(scores, expected)
    assert head.n_iter_ == other.n_iter_ == best
    predictions = Predictions.read(tmp_path / "run/predictions.npz")
    assert predictions.right.mean() == pytest.approx(max(accuracies))

    for say in (runs.load([str(tmp_path / "run")])[0].notes, run_data.load([str(tmp_path / "run")])[0].notes):
        assert any("chosen by the validation images" in line or "validation images chose it" in line for line in say)
    assert not run_data.load([str(tmp_path / "short")])[0].notes[1:]


def test_without_patience_the_best_of_all_epochs_is_kept_and_of_more_the_best_of_those(files, tmp_path):
    first = trained(files, tmp_path, epochs=3, keep="best")
    more = trained(files, tmp_path, epochs=12, keep="best")
    assert (first["epochs"], more["epochs"]) == (3, 12)
    assert more["kept_epoch"] >= first["kept_epoch"] and more["validation_accuracy"] == more["best_validation_accuracy"]
    assert more["measures"]["accuracy"]["value"] == pytest.approx(more["validation_accuracy"], abs=1e-6)


@pytest.mark.parametrize("after", [1, 5])
def test_a_run_that_was_killed_ends_as_one_that_was_not(files, tmp_path, monkeypatch, after):
    whole = trained(files, tmp_path / "whole", epochs=40, **PATIENCE)

    def killed(parts):
        def train(*arguments):
            for count, part in enumerate(parts(*arguments)):
                if count == after:
                    raise RuntimeError("killed")
                yield part

        return train

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        whole_epochs = train_head.whole_epochs
        patched.setattr(train_head, "whole_epochs", lambda epoch: killed(whole_epochs(epoch)))
        trained(files, tmp_path / "parts", epochs=40, **PATIENCE)
    resumed = trained(files, tmp_path / "parts", epochs=40, **PATIENCE)
    assert {**resumed, "seconds_train": 0} == {**whole, "seconds_train": 0}
    for name in ("predictions.npz", "head.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert measured.rows(tmp_path / "parts") == measured.rows(tmp_path / "whole")
    assert trained(files, tmp_path / "parts", epochs=40, **PATIENCE) == resumed, "and it stays stopped"


WRONG = {
    "keep": ("linear", {"keep": "first"}, "config.head.keep='first' is not one of last, best"),
    "patience": ("linear", {"patience": 0}, "config.head.patience=0 must be at least 1"),
    "no epochs": ("knn", {"keep": "best"}, "config.head.keep=best is for a head that is trained epoch by epoch: "
                                           "config.head.name=knn has no epochs"),
    "a sweep": ("linear", {"patience": 2}, "config.head.patience=2 is for a head that is trained epoch by epoch: "
                                           "config.sweep fits it in one go"),
}  # fmt: skip


@pytest.mark.parametrize("name, head, message", WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be_are_one_line(files, tmp_path, name, head, message):
    chosen = settings.default()
    chosen.head.update(name=name, **head)
    if "sweep" in message:
        chosen.sweep.learning_rate = (0.1, 0.01)
    with pytest.raises(UsageError) as error:
        settings.check(chosen)
        experiment.train_on_files(chosen, *files, epath.Path(tmp_path / "run"))
    assert str(error.value) == message and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_that_is_kept_is_that_of_its_best_epoch(tmp_path, monkeypatch):
    """The accuracies are made up, so that the second of three epochs is the best whatever a machine computes."""
    chosen = settings.default()
    chosen.train, chosen.report = "finetune", False
    chosen.model.update(name="lenet5", weights="random", fields={"channels": 1, "image_size": 28})
    chosen.image_size = 28
    chosen.preprocessing.update(channels="grey", scale=1 / 255, mean=(0.3,), std=(0.4,))
    chosen.data.train_per_class, chosen.data.validation_per_class = 4, 3
    chosen.finetune.update(epochs=9, batch_size=16, warmup_epochs=0, patience=1, keep="best")
    accuracies, make_epoch, kept = [0.2, 0.4, 0.3], finetune.finetune.make_epoch, []

    def made_up(*arguments):
        epoch = make_epoch(*arguments)

        def train(state, index):
            state, metrics = epoch(state, index)
            kept.append(state)
            return state, {**metrics, "validation_accuracy": np.float32(accuracies[index])}

        return train

    monkeypatch.setattr(finetune.finetune, "make_epoch", made_up)
    result = experiment.train(chosen, epath.Path(tmp_path))
    assert (result["epochs"], result["kept_epoch"], result["validation_accuracy"]) == (3, 2, pytest.approx(0.4))
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(arrays["logits.bias"], kept[1]["params"]["logits"]["bias"])
    assert not np.array_equal(arrays["logits.bias"], kept[2]["params"]["logits"]["bias"])
    assert create_model("lenet5", str(tmp_path / "model.safetensors")).label_names == tuple("0123456789")
