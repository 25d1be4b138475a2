"""What is printed of a result, word for word; and what a result holds of a run and of several."""

import json

import jax
import pytest
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.evaluation import runs
from transfer.experiment import results
from transfer.experiment import run as experiment
from transfer.training.run import Run


def measure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


MEASURES = {
    "ece": measure(0.04, 0.01, 0.0567891),
    "log_loss": measure(None),
    "accuracy": measure(0.9722222, 0.95, 0.99),
    "balanced_accuracy": measure(0.5),
    "rows": 360,
}
SWEEP = {
    "chosen": {"tap": "b", "C": 1.0},
    "measure": "log_loss",
    "num_fitted": 1293,
    "num_holdout": 144,
    "notes": ["the first", "the second"],
    "table": [
        {"tap": tap, "C": C, "scaling": None, "accuracy": 0.9, "log_loss": loss}
        for tap, losses in {"a": (0.5, None, 0.4), "b": (0.6, 0.1, 0.7), "c": (0.2,)}.items()
        for C, loss in zip((1e-6, 1.0, 10), losses, strict=False)
    ],
}
TAPS = [
    {"tap": "a", "settings": {}, "holdout": {"log_loss": None}, "validation": MEASURES},
    {"tap": "b", "settings": {"C": 1.0, "scaling": None}, "holdout": {"log_loss": 0.1}, "validation": MEASURES},
]
PRINTED = """\
7 settings on 144 held-out rows, fitted on 1293; * by log_loss:
   tap  C      accuracy  log_loss
*  b    1      0.9000    0.1000
   c    1e-06  0.9000    0.2000
   a    10     0.9000    0.4000
   a    1e-06  0.9000    0.5000
   b    1e-06  0.9000    0.6000
note: the first
note: the second
   tap  chosen          held-out log_loss  validation log_loss
   a    -               -                  unknown
*  b    C=1, scaling=-  0.1000             unknown
validation: accuracy 0.9722 [0.9500, 0.9900], balanced 0.5000, log-loss unknown, ECE 0.0400 [0.0100, 0.0568]
on held-out training rows the head is too sure: its scores divided by 1.235 (the temperature, which changes no answer) \
would have: log-loss 0.3000 [0.2000, 0.4000]
"""


def test_what_is_printed_of_a_result(capsys):
    temperature = {"value": 1.23456, "log_loss": measure(0.3, 0.2, 0.4)}
    results.print_summary({"sweep": SWEEP, "taps": TAPS, "measures": MEASURES, "temperature": temperature})
    assert capsys.readouterr().out == PRINTED
    results.print_summary({"train_loss": 0.1})
    assert not capsys.readouterr().out
    majority = {"majority": {"class": "cat", "value": 0.25}}
    results.print_summary({"measures": {"accuracy": measure(0.5, 0.4, 0.6), **majority}})
    assert capsys.readouterr().out.splitlines()[1] == "to compare with: always 'cat' has accuracy 0.2500"


ONE_TABLE = """\
2 settings on 144 held-out rows, fitted on 1293; * by log_loss:
note: the first
note: the second
   tap  chosen  held-out log_loss  validation log_loss
   a    -       -                  unknown
*  b    -       0.1000             unknown
"""


def test_where_nothing_but_the_tap_is_chosen_there_is_one_table(capsys):
    table = [{"tap": tap, "accuracy": 0.9, "log_loss": loss} for tap, loss in (("a", None), ("b", 0.1))]
    taps = [{**row, "settings": {}} for row in TAPS]
    results.print_summary({"sweep": {**SWEEP, "table": table}, "taps": taps})
    assert capsys.readouterr().out == ONE_TABLE


@pytest.mark.parametrize(
    "value, meaning", [(1.1, "too sure"), (0.9, "not sure enough"), (1.0, "as sure as it should be")]
)
def test_a_temperature_says_what_it_means(value, meaning):
    said = runs.temperature({"temperature": {"value": value}})
    assert f"the head is {meaning}: its scores divided by {value:.3f}" in said


def test_more_is_better_of_some_measures(capsys):
    """The highest accuracy comes first; a single setting is one."""
    table = [{"alpha": alpha, "accuracy": accuracy} for alpha, accuracy in [(1, 0.5), (2, 0.7), (3, None), (4, 0.6)]]
    of = {"chosen": {"alpha": 2}, "measure": "accuracy", "num_fitted": 9, "num_holdout": 1, "notes": []}
    results.print_summary({"sweep": {**of, "table": table}})
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["alpha", "accuracy"], ["*", "2", "0.7000"], ["4", "0.6000"], ["1", "0.5000"], ["3", "-"]
    ]  # fmt: skip
    results.print_summary({"sweep": {**of, "table": table[:1]}})
    head, columns, row = capsys.readouterr().out.splitlines()
    assert head == "1 setting on 1 held-out rows, fitted on 9; * by accuracy:"
    assert (columns.split(), row.split()) == (["accuracy"], ["*", "0.5000"])


def test_the_facts_of_a_run():
    run = Run({"params": {}})
    for epoch in (1, 2, 3):
        row = {"loss": 1 / epoch, "accuracy": 0.1 * epoch, "validation_loss": 2 / epoch}
        run.add({"params": {}}, {**row, "validation_accuracy": [0.5, 0.8, 0.8][epoch - 1]})
    run.seconds = 12.34567
    expected = {
        "model": "m",
        "train_loss": 1 / 3,
        "train_accuracy": pytest.approx(0.3),
        "validation_loss": 2 / 3,
        "validation_accuracy": 0.8,
        "best_validation_accuracy": 0.8,
        "best_epoch": 2,
        "epochs": 3,
        "seconds_train": 12.346,
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
    }
    assert results.of_run(run, {"model": "m"}, {}) == expected
    before = {"epochs": 2, "device": "another", "jax_version": "0.1", "num_devices": 8, "streamed": True, "model": "x"}
    assert results.of_run(run, {"model": "m"}, before) == expected
    how = {"device": "another", "jax_version": "0.1", "num_devices": 8, "streamed": True}
    assert results.of_run(run, {"model": "m"}, {**before, "epochs": 3}) == expected | how
    assert results.facts(settings.default(), object(), "deep", 2.0) == {
        "model": "vgg11_slim.cifar10",
        "weights_sha256": None,
        "tap": "deep",
        "dataset": "digits",
        "seconds_extract": 2.0,
    }


def test_which_tensors_of_a_file_were_taken_is_said_where_it_was_chosen():
    config = settings.default()
    config.model.update(key="teacher", ema=True)
    known = results.facts(config, object())
    assert {name: known[name] for name in known if name.startswith("weights_")} == {
        "weights_sha256": None,
        "weights_key": "teacher",
        "weights_ema": True,
    }


def test_a_result_over_seeds(tmp_path, monkeypatch, capsys):
    """Seeds of the weights and of the images count up together; a measure that one run lacks has no mean."""
    ran = []

    def single(config: ConfigDict, workdir: epath.Path):
        ran.append((config.seed, config.data.seed, config.seeds, workdir.name))
        number = len(ran)
        taps = [
            {"tap": tap, "num_features": 4, "validation": {"accuracy": measure(by * number)}}
            for tap, by in (("a", 0.1), ("b", 0.2))
        ]
        return {
            "model": "m",
            "tap": "ab"[number % 2],
            "train_loss": None if number == 2 else 0.5,
            "train_accuracy": 1.0,
            "validation_loss": 0.1 * number,
            "validation_accuracy": 0.2 * number,
            "seconds_train": 1.0004,
            "taps": taps,
        }

    monkeypatch.setattr(experiment, "_single", single)
    config = settings.default()
    config.seeds, config.seed, config.data.seed, config.report = 3, 5, 7, False
    result = experiment.train(config, epath.Path(tmp_path / "run"))
    assert ran == [(5 + step, 7 + step, None, f"seed_{5 + step}") for step in range(3)]
    runs = result.pop("runs")
    assert [run["tap"] for run in runs] == ["b", "a", "b"] and config.seed == 5 and config.seeds == 3
    assert result == {
        "model": "m",
        "train_accuracy": 1.0,
        "validation_loss": 0.2,
        "validation_accuracy": 0.4,
        "spread": {"train_accuracy": 0.0, "validation_loss": 0.1, "validation_accuracy": 0.2},
        "seeds": 3,
        "seconds_train": 3.001,
        "taps": [
            {"tap": tap, "num_features": 4, "mean": {"accuracy": 2 * by}, "spread": {"accuracy": by}}
            for tap, by in (("a", 0.1), ("b", 0.2))
        ],
    }
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result | {"runs": runs}
    assert capsys.readouterr().out.splitlines() == [
        "tap  validation accuracy  spread",
        "a    0.2000               0.1000",
        "b    0.4000               0.2000",
        "validation accuracy over 3 seeds: mean 0.4000, spread 0.2000 (0.2000, 0.4000, 0.6000)",
        f"Workdir: {tmp_path / 'run'}",
    ]
