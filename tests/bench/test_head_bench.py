"""Head training beside others: every contender learns, starts afresh at each call, and is timed."""

import argparse
import dataclasses
import importlib.util

import pytest

from transfer.bench import head
from transfer.bench.heads import case as cases
from transfer.bench.heads import processes, sweep
from transfer.bench.heads.case import HeadCase
from transfer.bench.peers.worker import _build
from transfer.errors import UsageError

# the last batch is a partial one
TOY = HeadCase("toy", rows=300, features=24, epochs=100, batch=64, validation_rows=200, classes=3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    case = dataclasses.replace(TOY, folder=tmp_path_factory.mktemp("head"))
    cases.write(case)
    return case


def available(name):
    return all(importlib.util.find_spec(package) is not None for package in head.TRAINERS[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in head.TRAINERS if name != "Keras fit (JAX), new model"])
def test_a_trainer_learns(name, toy):
    if not available(name):
        pytest.skip(f"{head.TRAINERS[name][0]} is not here")
    prepared = _build(f"transfer.bench.heads.{head.TRAINERS[name][1]}", toy)
    assert prepared.report(prepared.call()) > 0.6  # by chance 0.33


@pytest.mark.slow
@pytest.mark.parametrize("name", head.SWEEPERS)
def test_a_sweeper_learns(name, toy, monkeypatch):
    monkeypatch.setattr(sweep, "GRID", (1e-3, 1e-2, 1e-1))
    prepared = _build(f"transfer.bench.heads.{head.SWEEPERS[name][1]}", toy)
    assert prepared.report(prepared.call()) > 0.6


@pytest.mark.slow
def test_keras_starts_afresh_at_each_call(toy):
    pytest.importorskip("keras")
    prepared = _build("transfer.bench.heads.keras_fit:fit", toy)
    for _ in range(2):
        assert int(prepared.call().optimizer.iterations.numpy()) == 100 * 5
    new = _build("transfer.bench.heads.keras_fit:fit_new", toy)
    assert new.call() is not new.call()


@pytest.mark.slow
def test_a_row_holds_every_contender_or_its_reason(monkeypatch):
    some = {name: head.TRAINERS[name] for name in (head.OURS, "scikit-learn LogisticRegression")}
    monkeypatch.setattr(head, "TRAINERS", {**some, "Caffe": (("no_such_package",), "caffe:solver")})
    row = head.measure(TOY, rounds=2, seconds=0)
    assert row["skipped"] == {"Caffe": "not installed: no_such_package"}
    assert row["seconds"].keys() == row["accuracy"].keys() == row["ratio"].keys() == some.keys()
    assert all(len(taken) == 2 for taken in row["seconds"].values()) and row["ratio"][row["ours"]] == 1
    lines = head.table([row]).splitlines()
    assert lines[0] == "Head, toy" and len(lines) == 5 and "no_such_package" in lines[-1]


@pytest.mark.slow
def test_whole_processes_read_the_same_files(toy):
    assert processes.ours(toy)() > 0.6
    assert processes.scikit_learn(toy)() > 0.6


@pytest.mark.parametrize(
    "text, names", [("*", list(head.CASES)), ("small", ["small"]), ("sm*,small,lar*", ["small", "large"])]
)
def test_cases_by_name(text, names):
    parser = argparse.ArgumentParser()
    head.add_arguments(parser)
    assert head.chosen(parser.parse_args([f"--head_cases={text}"]).head_cases) == names


def test_an_unknown_case():
    with pytest.raises(UsageError, match="there is no 'huge', but small, large, process, sweep, sweep_large"):
        head.chosen("small,huge")
