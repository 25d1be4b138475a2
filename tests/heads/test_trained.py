"""Estimators of trained heads: side by side as one by one; weights, labels, values; what a program has trained."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression

from transfer import heads
from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import trained
from transfer.heads.estimator import Probe

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRAINED = ("linear", "sgd", "mlp")
PIXELS, DIGITS = load_digits(return_X_y=True)
X, Y = (PIXELS[:600] / 16).astype(np.float32), DIGITS[:600]
XV, YV = (PIXELS[600:1200] / 16).astype(np.float32), DIGITS[600:1200]
# Share of the validation rows that the head gets right at the least.
SETTINGS = {
    "linear": ({"learning_rate": 3e-2, "epochs": 30}, 0.9),
    "sgd": ({"learning_rate": 0.5, "epochs": 30}, 0.9),
    "mlp": ({"learning_rate": 5e-3, "epochs": 30, "hidden": (64,), "dropout": 0.25}, 0.9),
}


def head_of(name, ending="Probe", **settings):
    return getattr(heads, heads.camel(name) + ending)(**settings)


@pytest.fixture(scope="module", params=TRAINED)
def fitted(request):
    return request.param, head_of(request.param, **SETTINGS[request.param][0], seed=5).fit(X, Y, (XV, YV))


@pytest.mark.slow
def test_it_learns_and_its_history_says_so(fitted):
    name, head = fitted
    assert head.score(XV, YV) > SETTINGS[name][1]
    assert list(head.history_) == ["loss", "accuracy", "validation_loss", "validation_accuracy"]
    assert head.history_["validation_accuracy"][-1] == pytest.approx(head.score(XV, YV), abs=2e-3)
    np.testing.assert_allclose(head.predict_proba(XV).sum(axis=1), 1, rtol=1e-5)


def test_it_is_the_epoch_program_run_to_the_end_and_adopts_what_that_has_learned(fitted, tmp_path):
    name, head = fitted
    settings = SETTINGS[name][0]
    program = heads.program(name)
    shape = {"hidden": settings["hidden"]} if name == "mlp" else {}
    state = program.init_state(64, 10, program.init_key(5), **shape)
    given = {key: value for key, value in settings.items() if key == "dropout" or (key == "epochs" and name == "sgd")}
    epoch = program.make_epoch(X, Y, learning_rate=settings["learning_rate"], seed=5, **given)
    for index in range(settings["epochs"]):
        state, metrics = epoch(state, index)
    np.testing.assert_allclose(metrics["loss"], head.history_["loss"][-1], rtol=1e-3)
    adopted = head_of(name, **settings).adopt(state["params"], classes=np.array(list("abcdefghij")))
    np.testing.assert_allclose(adopted.logits(XV), head.logits(XV), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(program.logits(state["params"], XV), adopted.logits(XV), rtol=1e-4, atol=1e-4)
    assert set(adopted.predict(XV)) <= set("abcdefghij")
    adopted.save(tmp_path / "head.safetensors")
    again = heads.load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(again.logits(XV), adopted.logits(XV))
    np.testing.assert_array_equal(again.predict(XV), adopted.predict(XV))
    assert again.n_iter_ == head.n_iter_ == settings["epochs"]


GRIDS = {
    "linear": {"learning_rate": [1e-3, 3e-2], "weight_decay": [0.5, 0.1]},
    "sgd": {"learning_rate": [0.01, 0.5], "weight_decay": [0.0, 0.1]},
    "mlp": {"learning_rate": [1e-3, 5e-3], "dropout": [0.5, 0.25]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_side_by_side_they_are_what_they_are_alone(name, monkeypatch):
    head = head_of(name, **{**SETTINGS[name][0], "epochs": 4}, scaling="whole", class_weight="balanced")
    grid = GRIDS[name]
    function = head.fit_many(X, Y, grid)
    found = function(XV)
    assert found.shape == (len(grid["learning_rate"]), len(XV), 10) and found.dtype == np.float32
    assert not hasattr(head, "classes_"), "the head itself was fitted"
    for scores, values in zip(found, zip(*grid.values(), strict=True), strict=True):
        alone = clone(head).set_params(**dict(zip(grid, values, strict=True))).fit(X, Y)
        np.testing.assert_allclose(scores, alone.logits(XV), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr("transfer.heads.trained.UNITS_BYTES", 4 * 2 * 64 * 256)
    np.testing.assert_allclose(function(XV), found, rtol=1e-5, atol=1e-5)  # rows a part at a time


def test_scores_of_many_heads_are_computed_for_so_many_rows_that_their_units_fit(monkeypatch):
    random, calls, many = np.random.default_rng(0), [], trained._many_logits
    params = {"kernel": random.normal(size=(5, 6, 3)), "bias": random.normal(size=(5, 3))}
    layer = {"kernel": random.normal(size=(5, 4, 6)), "bias": random.normal(size=(5, 6))}
    x = random.normal(size=(20, 4)).astype(np.float32)
    monkeypatch.setattr(trained, "UNITS_BYTES", 4 * 5 * 6 * 9)
    monkeypatch.setattr(trained, "_many_logits", lambda params, rows: calls.append(len(rows)) or many(params, rows))
    found = trained._scores_of_many(params | {"hidden1": layer}, x)
    units = np.maximum(np.einsum("md,hdu->hmu", x, layer["kernel"]) + layer["bias"][:, None], 0)
    np.testing.assert_allclose(found, units @ params["kernel"] + params["bias"][:, None], rtol=1e-4, atol=1e-5)
    assert calls == [9, 9, 2]


def test_more_heads_than_fit_are_trained_group_by_group(monkeypatch):
    head, grid = head_of("sgd", epochs=1), {"learning_rate": [0.1, 0.2, 0.3]}
    whole = head.fit_many(X, Y, grid)(XV)
    monkeypatch.setattr("transfer.heads.trained.TRAINED_BYTES", 2 * 4 * 4 * (64 + 1) * 10)
    np.testing.assert_allclose(head.fit_many(X, Y, grid)(XV), whole, rtol=1e-4, atol=1e-6)


def test_settings_side_by_side_are_checked():
    with pytest.raises(UsageError, match=r"learning_rate must be a float in the range \(0.0, inf\), not -1.0"):
        head_of("linear").fit_many(X, Y, {"learning_rate": [0.1, -1.0]})
    with pytest.raises(UsageError, match=r"dropout must be a float in the range \[0.0, 1.0\), not 1.5"):
        head_of("mlp").fit_many(X, Y, {"dropout": [0.5, 1.5]})


def test_balanced_weights_help_the_rare_classes():
    kept = (Y > 3) | (np.arange(len(Y)) % 12 == 0)  # 0 to 3 become rare
    right = {}
    for weight in (None, "balanced", {label: 0.0 if label == 7 else 1.0 for label in range(10)}):
        head = head_of("sgd", epochs=8, class_weight=weight).fit(X[kept], Y[kept])
        predicted = head.predict(XV)
        right[str(weight)] = np.mean(predicted[YV <= 3] == YV[YV <= 3])
    assert right["balanced"] > right["None"]
    assert np.mean(predicted == 7) < 0.02, "a class without weight"


def test_several_labels_a_row():
    def labels(y):
        return np.stack([y % 2 == 0, y > 4, y == 3], axis=1).astype(int)

    head = head_of("sgd", **SETTINGS["sgd"][0]).fit(X, labels(Y), (XV, labels(YV)))
    right = np.mean(head.predict(XV) == labels(YV))
    assert right > 0.85
    assert head.history_["validation_accuracy"][-1] == pytest.approx(right, abs=2e-3)
    assert head.predict_proba(XV).shape == (len(XV), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_values_whatever_their_unit(name):
    x, y = load_diabetes(return_X_y=True)
    best = LinearRegression().fit(x[:300], y[:300]).score(x[300:], y[300:])
    two = np.stack([y, 1e4 - 1e-3 * y], axis=1)
    head = head_of(name, "Regressor").fit(x[:300], two[:300], (x[300:], two[300:]))
    assert head.score(x[300:], two[300:]) > best - 0.05
    assert head.history_["validation_r2"][-1] == pytest.approx(head.score(x[300:], two[300:]), abs=2e-3)


def test_values_side_by_side_and_values_that_do_not_vary():
    x, y = load_diabetes(return_X_y=True)
    head = head_of("sgd", "Regressor", epochs=2).fit(x, y)
    many = head.fit_many(x, y, {"learning_rate": [head.learning_rate]})
    np.testing.assert_allclose(many(x)[0, :, 0], head.predict(x), rtol=1e-3)
    np.testing.assert_array_equal(head.fit(x, np.full(len(x), 7.0)).predict(x), 7)


def test_few_rows_one_class_and_more_features_than_rows():
    head = head_of("mlp", epochs=1, scaling="standard").fit(np.eye(1, 40), np.array(["a"]))
    assert head.predict(np.eye(2, 40)).tolist() == ["a", "a"]
    np.testing.assert_array_equal(head.predict_proba(np.eye(2, 40)), 1)
    head = head_of("sgd", epochs=1).fit(np.eye(3, 40), np.array([1000, -7, 1000]))
    assert set(head.predict(np.eye(2, 40))) <= {-7, 1000} and np.isfinite(head.logits(np.eye(2, 40))).all()


def test_what_is_wrong_is_one_clear_line():
    wrong = [
        (UsageError, "epochs must be an int in the range .*, not 2.5", lambda: head_of("mlp", epochs=2.5).fit(X, Y)),
        (UsageError, "seed must be an int in the range .*, not None", lambda: head_of("sgd", seed=None).fit(X, Y)),
        (
            UsageError,
            "learning_rate must be a float in the range .* not 'fast'",
            lambda: head_of("linear", learning_rate="fast").fit(X, Y),
        ),
        (UsageError, "momentum must be", lambda: head_of("sgd", momentum=1.0).fit(X, Y)),
        (UsageError, "hidden='256' must be", lambda: head_of("mlp", hidden="256").fit(X, Y)),
        (UsageError, "hidden=.* whole numbers", lambda: head_of("mlp", hidden=(2.5,)).fit(X, Y)),
        (UsageError, "weight_decay must be", lambda: head_of("linear", weight_decay=-1.0).fit(X, Y)),
        (
            TransferError,
            "diverged; lower the learning_rate",
            lambda: head_of("sgd", "Regressor", learning_rate=1e4).fit(X, Y),
        ),
        (RowsError, "validation features are 3 a row", lambda: head_of("mlp").fit(X, Y, (XV[:, :3], YV))),
    ]
    for error, message, call in wrong:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_every_trained_head_has_the_settings_of_its_program_and_those_that_a_sweep_tries():
    for name in TRAINED:
        head = heads.HEADS[name]()
        assert isinstance(head, Probe)
        assert {key: getattr(head, key) for key in head.program.defaults} == heads.program(name).defaults
        assert set(head.GRID) <= set(head.SIDE_BY_SIDE), "a sweep would be one head after another"
