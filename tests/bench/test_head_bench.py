"""Head training beside others: every contender learns, starts afresh at each call, and is timed."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from transfer.bench import head
from transfer.bench.cases import chosen
from transfer.bench.head import HeadCase, run
from transfer.bench.worker import Skipped, build
from transfer.cli import bench
from transfer.errors import UsageError

# the last batch is a partial one
TOY = HeadCase("toy", rows=300, features=24, epochs=100, batch=64, validation_rows=200, classes=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    case = dataclasses.replace(TOY, folder=tmp_path_factory.mktemp("head"))
    case.write()
    return case


def prepared(case, function, *packages):
    if any(importlib.util.find_spec(package) is None for package in packages):
        pytest.skip(f"not installed: {packages}")
    return build(f"transfer.bench.head:{function}", case)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in head.TRAINERS if name != "Keras fit (JAX), new model"])
def test_a_trainer_learns(name, toy):
    trainer = prepared(toy, *head.TRAINERS[name])
    assert trainer.report(trainer.call()) > 0.6  # by chance 0.33


@pytest.mark.slow
@pytest.mark.parametrize("name", head.SWEEPERS)
def test_a_sweeper_learns(name, toy, monkeypatch):
    monkeypatch.setattr("transfer.heads.logistic_probe.GRID", (1e-3, 1e-2, 1e-1))
    sweeper = prepared(toy, *head.SWEEPERS[name])
    assert sweeper.report(sweeper.call()) > 0.6


@pytest.mark.slow
def test_keras_starts_afresh_at_each_call(toy):
    warm = prepared(toy, "keras_fit", "keras")
    for _ in range(2):
        assert int(warm.call().optimizer.iterations.numpy()) == 100 * 5
    new = prepared(toy, "keras_fit_new", "keras")
    assert new.call() is not new.call()


@pytest.mark.slow
def test_a_row_holds_every_contender_or_its_reason():
    some = {name: head.TRAINERS[name] for name in ("ours (train.py)", "scikit-learn LogisticRegression")}
    row = head.measure(TOY, {**some, "Caffe": ("caffe", "no_such_package")}, rounds=2, seconds=0)
    assert row["skipped"] == {"Caffe": "not installed: no_such_package; the extra [peers] has all of them"}
    assert row["seconds"].keys() == row["accuracy"].keys() == row["ratio"].keys() == some.keys()
    assert all(len(taken) == 2 for taken in row["seconds"].values()) and row["ratio"][row["ours"]] == 1
    lines = head.table([row]).splitlines()
    assert lines[0] == "Head, toy" and len(lines) == 5 and "no_such_package" in lines[-1]


@pytest.mark.slow
def test_whole_processes_read_the_same_files(toy):
    row = head.measure(TOY, head.PROCESSES, rounds=1, seconds=0)
    assert not row["skipped"] and min(row["accuracy"].values()) > 0.6


def test_a_process_that_fails_is_left_out():
    with pytest.raises(Skipped, match="python -m ended with exit code 1: .*no_such_module"):
        run(["-m", "no_such_module"])


@pytest.mark.parametrize(
    "text, names", [("*", list(head.CASES)), ("small", ["small"]), ("sm*,small,lar*", ["small", "large"])]
)
def test_cases_by_name(text, names):
    assert chosen("head_cases", text, head.CASES) == names


def test_a_cases_title_says_its_sizes_and_its_data_are_of_them():
    for name, (case, _) in head.CASES.items():
        sizes = f"{case.rows:,} x {case.features:,}"
        epochs = f", {case.epochs} epochs" if case.epochs else ""
        each = ", 10,000 validation rows" if case.epochs and case.validates else ""
        assert f"{sizes}{epochs}{each}" in case.title, name
        assert (case.batch, case.classes, case.validation_rows, case.seed) == (256, 10, 10_000, 0)


def test_the_rows_of_a_case(toy):
    x, y, validation_x, validation_y = toy.arrays()
    assert (x.shape, y.shape, validation_x.shape, validation_y.shape) == ((300, 24), (300,), (200, 24), (200,))
    assert (x.dtype, y.dtype) == (np.float32, np.int32) and x.min() == 0 and set(y) == {0, 1, 2}
    # centres at 0.2 * sqrt(512) of the noise from the origin, whatever the number of features
    spread = np.linalg.norm(x[y == 0].mean(axis=0) - x[y == 1].mean(axis=0))
    assert 0.4 * 0.2 * 512**0.5 < spread < 2**0.5 * 0.2 * 512**0.5


def test_the_flags_help_names_the_cases():
    assert tuple(head.CASES) == bench.HEAD_CASES


def test_an_unknown_case():
    with pytest.raises(
        UsageError, match="nothing is called 'huge'; known are small, large, process, sweep, sweep_large"
    ):
        chosen("head_cases", "small,huge", head.CASES)
