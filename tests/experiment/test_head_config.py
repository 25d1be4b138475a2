"""Heads from a config: which settings each takes, how they are run on feature files, and what a workdir then holds."""

import inspect
import json
import sys

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import transfer.heads
from transfer import config as settings
from transfer import experiment
from transfer.errors import TransferError, UsageError
from transfer.evaluation.predictions import Predictions
from transfer.experiment import evaluate_head, head_settings, workdirs
from transfer.experiment.head_data import Data, Labelled
from transfer.experiment.head_settings import resolve_head
from transfer.heads import HEADS

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NAMES = list(HEADS)
CLOSED = [name for name in NAMES if transfer.heads.find_program(name) is None]
WIDTH = 5


def config_of(name="linear", sweep=None, **own):
    config = settings.default()
    config.head.update(name=name, **own)
    config.sweep.update(sweep or {})
    return config


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    y = {"train": random.integers(0, 3, 90), "validation": random.integers(0, 3, 60)}
    x = {side: (random.normal(size=(len(of), WIDTH)) + 2 * np.eye(3, WIDTH)[of]).astype("f4") for side, of in y.items()}
    return x, y


@pytest.fixture
def run(rows, tmp_path):
    """Trains on the rows with other labels, or on other rows; the result and the workdir."""

    def of(config, labels=lambda y: y, workdir="run", keep=lambda side, y: slice(None)):
        x, y = rows
        for side in x:
            kept = keep(side, y[side])
            np.savez(tmp_path / f"{side}.npz", features=x[side][kept], labels=labels(y[side][kept]))
        files = (str(tmp_path / f"{side}.npz") for side in ("train", "validation"))
        workdir = tmp_path / workdir
        return experiment.train_on_files(config, *files, epath.Path(workdir)), workdir

    return of


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_a_place_for_every_setting(name):
    for target in ("classes", "values"):
        try:
            taken = head_settings.takes(name, target)
        except UsageError:  # no regressor
            continue
        assert taken.keys() <= settings.HEAD_SETTINGS.keys()
        assert resolve_head(config_of(name, target=target)).settings == taken


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLOSED])
def test_a_program_has_the_defaults_of_its_estimator(name):
    signature = inspect.signature(HEADS[name]).parameters
    expected = {key: one.default for key, one in signature.items() if key not in head_settings.NO_SETTINGS}
    assert head_settings.takes(name) == expected


def test_a_workdir_of_an_older_version(tmp_path):
    older = {"name": "linear", "epochs": 50, "batch_size": 256, "learning_rate": 0.001, "order": "rows", "window": None}
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0, "head": older}))
    workdirs.bind_workdir(resolve_head(config_of()).config, epath.Path(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())["head"]
    assert {key: written[key] for key in older} == older
    with pytest.raises(TransferError, match="head.learning_rate was 0.001 and is 0.01"):
        workdirs.bind_workdir(resolve_head(config_of(learning_rate=0.01)).config, epath.Path(tmp_path))


@pytest.mark.slow
def test_a_schedule_binds_the_number_of_epochs(run):
    run(config_of(epochs=2))
    assert run(config_of(epochs=3))[0]["epochs"] == 3
    run(config_of("sgd", epochs=2), workdir="sgd")
    with pytest.raises(TransferError, match="head.schedule was 2 and is 3"):
        run(config_of("sgd", epochs=3), workdir="sgd")


def test_rows_of_one_name_are_told_apart():
    labelled = Labelled({"tap": np.zeros((3, 2))}, np.array([0, 1, 1]), ["a", "b", "a"])
    data = Data(labelled, labelled, "classes", np.arange(2), ("x", "y"))
    parts = [np.zeros((2, 2), "f4"), np.ones((1, 2), "f4")]
    assert evaluate_head.predicted(parts, data).ids.tolist() == ["0", "1", "2"]


UNFIT = {
    "another head's": (config_of("knn", epochs=3), "config.head.epochs: the head knn takes no epochs; it takes n_nei"),
    "to sweep": (config_of("ridge", {"C": (1.0,)}), "config.sweep.C: the head ridge takes no C; it takes alpha"),
    "an unknown head": (config_of("rigde"), "unknown head 'rigde'"),
    "no values": (config_of("ridge", {"alpha": ()}), "config.sweep.alpha has no value to try"),
    "no grid": (config_of("nearest_mean", {"grid": "default"}), "nearest_mean has no values of its own"),
    "another grid": (config_of("ridge", {"grid": "fine"}), "config.sweep.grid='fine' should be 'default'"),
    "another target": (config_of("ridge", target="value"), "'value' is not one of classes, labels, values"),
    "out of range": (config_of("ridge", alpha=-1.0), "alpha"),
    "swept out of range": (config_of("logistic", {"C": (1.0, 0.0)}), "C must be"),
    "unknown scaling": (config_of("knn", scaling="standart"), "standart"),
    "no regressor": (config_of("nearest_mean", target="values"), "nearest_mean' is a classifier"),
}


@pytest.mark.parametrize("config, message", UNFIT.values(), ids=UNFIT)
def test_settings_that_do_not_fit_are_one_line(config, message, run, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_config_may_leave_the_target_open():
    config = config_of("ridge", {"grid": "default"}, alpha=2.0)
    expected = resolve_head(config)
    with config.unlocked():
        del config.head.target
    resolved = resolve_head(config)
    assert resolved.target == "classes" and resolved.settings == expected.settings == expected.settings | {"alpha": 2.0}
    assert resolved.grid == expected.grid == HEADS["ridge"].GRID and resolved.estimator().get_params()["alpha"] == 2.0


WHOLE = {
    "scaling": config_of(scaling="standard"),
    "class weights": config_of(class_weight="balanced"),
    "a sweep": config_of(sweep={"learning_rate": (1e-3,)}),
    "another target": config_of(target="labels"),
    "weight decay": config_of(weight_decay=0.1),
    "in one go": config_of("ridge"),
}


@pytest.mark.parametrize("config", WHOLE.values(), ids=WHOLE)
def test_what_needs_all_rows_is_not_streamed(config, run):
    config.stream, config.head.order = True, "chunks"
    with pytest.raises(UsageError, match="needs one device that holds all rows"):
        run(config)


def test_none_where_the_default_is_something_else():
    assert resolve_head(config_of("logistic", scaling="none")).settings["scaling"] is None
    sweep = config_of("logistic", {"scaling": ("none", "standard")})
    assert resolve_head(sweep).grid["scaling"] == (None, "standard")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_head_on_text(name, run):
    """What is kept in the workdir is what the result says, and a head that names the user's classes."""
    names = np.array(["fish", "bird", "ant"])
    quick = {"epochs": 3, "learning_rate": 0.1} if name not in CLOSED else {}
    result, workdir = run(config_of(name, **quick), labels=lambda y: names[y])
    predictions = Predictions.read(workdir / "predictions.npz")
    assert predictions.class_names == ("ant", "bird", "fish")
    assert result["measures"]["accuracy"]["value"] == pytest.approx(result["validation_accuracy"], abs=1e-6)
    assert result["validation_accuracy"] > 0.6 and result["num_classes"] == 3 and result["head"] == name
    head = transfer.heads.load(workdir / "head.safetensors")
    assert type(head) is HEADS[name] and head.classes_.tolist() == ["ant", "bird", "fish"]
    features = np.load(workdir.parent / "validation.npz")["features"]
    np.testing.assert_array_equal(head.predict(features), np.array(predictions.class_names)[predictions.top[:, 0]])
    assert run(config_of(name, **quick), labels=lambda y: names[y])[0] == result


@pytest.mark.slow
def test_scaling_and_weights_of_classes_are_the_estimator_s(run, rows):
    config = config_of(epochs=4, batch_size=32, learning_rate=0.05, scaling="standard", class_weight="balanced")
    result, workdir = run(config)
    x, y = rows
    own = dict(epochs=4, batch_size=32, learning_rate=0.05, scaling="standard", class_weight="balanced")
    probe = HEADS["linear"](**own).fit(x["train"], y["train"])
    head = transfer.heads.load(workdir / "head.safetensors")
    np.testing.assert_allclose(head.coef_, probe.coef_, rtol=1e-5, atol=1e-6)
    assert head.get_params() == probe.get_params() and head.n_iter_ == probe.n_iter_ == 4
    np.testing.assert_allclose(head.logits(x["validation"]), probe.logits(x["validation"]), rtol=1e-4, atol=1e-5)
    assert result["validation_accuracy"] == pytest.approx(probe.score(x["validation"], y["validation"]))


def test_a_sweep_is_chosen_once(run, capsys):
    config = config_of("ridge", {"alpha": (1e3, 1.0), "scaling": ("standard", None)})
    result, workdir = run(config, labels=lambda y: y * 7 - 3)
    assert len(result["sweep"]["table"]) == 4 and result["settings"]["alpha"] in (1e3, 1.0)
    assert result["sweep"]["num_fitted"] == 81 and result["temperature"]["value"] > 0
    assert json.loads((workdir / "result.json").read_text()) == result
    capsys.readouterr()
    assert run(config, labels=lambda y: y * 7 - 3)[0] == result
    assert "Already fitted; nothing to do." in capsys.readouterr().out
    config.sweep.alpha = (1e3, 2.0)
    with pytest.raises(TransferError, match="sweep.alpha was .* and is"):
        run(config, labels=lambda y: y * 7 - 3)


def test_the_validation_rows_choose_nothing(run):
    """Other labels on them change what is measured, and nothing that is fitted or chosen."""
    config = config_of("ridge", {"grid": "default"})
    (one, first), (other, second) = (
        run(config, labels=lambda y, by=by: y if len(y) == 90 else (y + by) % 3, workdir=f"by{by}") for by in (0, 1)
    )
    assert one["sweep"] == other["sweep"] and one["temperature"]["value"] == other["temperature"]["value"]
    heads = [transfer.heads.load(workdir / "head.safetensors") for workdir in (first, second)]
    np.testing.assert_array_equal(heads[0].coef_, heads[1].coef_)
    assert one["validation_accuracy"] > 0.6 and other["validation_accuracy"] < 0.2


def test_labels_and_values(run, rows):
    bits = lambda y: np.stack([y != 1, y > 0], axis=1).astype(int)  # noqa: E731
    result, _ = run(config_of("ridge", {"grid": "default"}, target="labels"), labels=bits)
    assert result["measures"]["mean_average_precision"]["value"] > 0.9 and result["num_classes"] == 2
    result, workdir = run(config_of("ridge", target="values"), labels=lambda y: y / 3 + 1, workdir="values")
    assert result["validation_accuracy"] is None and result["measures"]["r2"]["value"] > 0.3
    head = transfer.heads.load(workdir / "head.safetensors")
    assert head.predict(rows[0]["validation"]).shape[0] == 60


@pytest.mark.parametrize("name", ["linear", "ridge"])
def test_classes_that_one_side_lacks(name, run, capsys):
    quick = {"epochs": 2} if name == "linear" else {}
    result, _ = run(config_of(name, **quick), keep=lambda side, y: y < 2 if side == "validation" else slice(None))
    assert result["num_classes"] == 3 and result["measures"]["classes_without_rows"] == ["2"]
    capsys.readouterr()

    def lost(side, y):
        return y < 2 if side == "train" else slice(None)

    message = "validation rows are of classes that no training row is of: 2"
    if name == "linear":
        result, _ = run(config_of(name, **quick), keep=lost, workdir="lost")
        assert message in capsys.readouterr().out and result["num_classes"] == 3
        return
    with pytest.raises(TransferError, match=message):
        run(config_of(name), keep=lost, workdir="lost")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_class_or_one_row_is_an_answer_or_a_line(name, run):
    quick = {"epochs": 2} if name not in CLOSED else {}
    for workdir, keep in {"class": lambda side, y: y == 1, "row": lambda side, y: np.flatnonzero(y == 1)[:1]}.items():
        try:
            result, _ = run(config_of(name, **quick), keep=keep, workdir=workdir)
        except TransferError as error:
            assert "\n" not in str(error) and "class" in str(error)
        else:
            assert result["validation_accuracy"] == 1


MEANS = '''
"""The nearest class mean, without a base."""

import numpy as np


class MeansProbe:
    def __init__(self, shrink=0.0):
        self.shrink = shrink

    def fit(self, X, y):
        self.labels = np.unique(y)
        self.means = np.stack([X[y == label].mean(0) for label in self.labels]) * (1 - self.shrink)
        return self

    def predict(self, X):
        return self.labels[((X[:, None] - self.means) ** 2).sum(-1).argmin(1)]
'''


@pytest.fixture
def means(tmp_path, monkeypatch):
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "means_probe.py").write_text(MEANS)
    monkeypatch.setattr(transfer.heads, "__path__", [*transfer.heads.__path__, str(tmp_path / "heads")])
    yield
    sys.modules.pop("transfer.heads.means_probe", None)


def test_a_head_of_a_user_s_that_only_predicts(means, run):
    config = config_of("means")
    config.head.shrink = 0.1  # as a config file may add it
    result, workdir = run(config)
    assert result["validation_accuracy"] > 0.6 and result["validation_loss"] is None
    assert result["settings"] == {"shrink": 0.1} and "log_loss" not in result["measures"]
    assert not (workdir / "head.safetensors").exists()
    config.sweep.shrink = (0.5, 0.0)
    with pytest.raises(UsageError, match="MeansProbe cannot be chosen: it has no get_params"):
        run(config, workdir="swept")


# What no setting of a type may be; of a tuple, what none of its values may be.
BAD = {int: (-1, 0), float: (-1.0, np.nan, np.inf), str: ("nonsense",), tuple: ((-1,), (0,), ("a",))}
WRONG = [
    (name, key, value, section)
    for name in NAMES
    for key in head_settings.takes(name)
    for value in BAD[settings.HEAD_SETTINGS[key]]
    for section in ("head", "sweep")
]


@pytest.mark.parametrize("name, key, value, section", WRONG)
def test_a_value_that_is_none_is_named_where_it_is_set(run, name, key, value, section):
    config = config_of(name, **({key: value} if section == "head" else {"sweep": {key: (value,)}}))
    with pytest.raises(UsageError, match=rf"^config\.{section}\.{key}(=| must)"):
        settings.check(config)
        run(config)


def test_feature_files_have_no_taps(run):
    """Whatever taps a config names for features of images, a head on files is one."""
    config = ConfigDict({**config_of("ridge").copy_and_resolve_references(), "tap": ("block1", "block2")})
    result, _ = run(config)
    assert "taps" not in result and result["tap"] is None
