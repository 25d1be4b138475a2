"""`python -m transfer compare` as a person runs it, on workdirs of every state that a run may be in."""

import csv
import json
import re

import numpy as np
import pytest
from etils import epath
from golden import make_comparison as golden
from scipy import stats

from transfer import experiment
from transfer.__main__ import main
from transfer.cli.compare import tabulate
from transfer.config import default
from transfer.errors import TransferError
from transfer.evaluation import comparison_table
from transfer.evaluation.comparison_table import ComparedRun
from transfer.evaluation.measures import MEASURES
from transfer.evaluation.predictions import FILE, Predictions
from transfer.evaluation.runs import Run, _recorded, facts, planned_epochs, with_names
from transfer.evaluation.summary import summary

ROWS, CLASSES = 90, 7
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(CLASSES, size=ROWS)
LOGITS = RANDOM.standard_normal((ROWS, CLASSES))
IDS = np.array([f"test/{i:03}.png" for i in range(ROWS)])


def predictions(raised, noise=0, rows=slice(None), **others):
    logits = LOGITS + np.random.default_rng(noise).standard_normal(LOGITS.shape) / 2
    logits[np.arange(ROWS), LABELS] += raised
    return Predictions.of_logits(logits[rows], others.pop("labels", LABELS)[rows], IDS[rows], **others)


def write(folder, found, head="linear", **result):
    """A workdir as a run leaves it; `found` None: without predictions, as runs were before there were any."""
    folder.mkdir(parents=True)
    config = {"model": {"name": "vgg16.keras"}, "tap": "pre_logits", "head": {"name": head, "epochs": 50}}
    (folder / "config.json").write_text(json.dumps(config))
    facts = {"model": "vgg16.keras", "tap": "pre_logits", "num_validation": ROWS, "validation_accuracy": 0.75}
    (folder / "result.json").write_text(json.dumps({**facts, **result}))
    if found is not None:
        found.write(folder / FILE)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of runs, which the process is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write(tmp_path / "a", predictions(2))
    write(tmp_path / "b", predictions(4, 1), head="logistic")
    write(tmp_path / "shuffled", predictions(4, 1, rows=np.random.default_rng(1).permutation(ROWS)))
    write(tmp_path / "few", predictions(3, 2, slice(40)))
    write(tmp_path / "old", None)
    write(tmp_path / "going", None)
    (tmp_path / "going" / "result.json").unlink()
    (tmp_path / "going" / "metrics.jsonl").write_text("{}\n" * 12)
    for seed in range(3):
        write(tmp_path / "s1" / f"seed_{seed}", predictions(2, seed))
        write(tmp_path / "s2" / f"seed_{seed}", predictions(3, 9 + seed))
    for name in ("s1", "s2"):
        (tmp_path / name / "result.json").write_text('{"seeds": 3}')
    return tmp_path


@pytest.fixture
def compare(capsys):
    """Runs the verb; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main(["compare", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_two_runs(runs, compare):
    code, out, err = compare("a", "b", "--resamples=300")
    assert code == 0 and not err
    above, heading, a, b, _, *notes = out.splitlines()
    assert above == "all runs: model vgg16.keras, tap pre_logits, images 90"
    assert heading.split() == ["run", "head", "accuracy", "%", "log-loss", "ECE", "%", "difference", "%", "p"]
    first, second = predictions(2), predictions(4, 1)
    assert a.split()[:3] == ["a", "linear", f"{100 * first.right.mean():.2f}"] and f"  {first.nll.mean():.4f}  " in a
    assert f"  +{100 * (second.right.mean() - first.right.mean()):.2f} [+" in b and b.endswith("<0.001")
    assert notes == [
        "[ ]: 95% intervals, percentile bootstrap over validation images, 300 resamples; where fewer than 10",
        "  images decide, Wilson's, of differences Agresti and Min's",
        "difference: accuracy minus that of a, on the same images",
        "p: McNemar's exact test, two-sided",
    ]


def test_one_run(runs, compare):
    code, out, _ = compare("a")
    assert code == 0 and "difference" not in out and "a    vgg16.keras  pre_logits  linear  90" in out


def test_runs_in_every_state(runs, compare):
    code, out, _ = compare("a", "b", "shuffled", "few", "old", "going", "--resamples=200")
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert lines["old"].split()[2:] == ["90", "75.00", "[65.16,", "82.80]", *"----"] and lines["going"].split()[2:] == [
        *"------"
    ]
    assert lines["shuffled"].split()[2:] == lines["b"].split()[2:]  # the order of the rows is nothing to it
    for note in (
        "few: the difference is on the 40 images that it shares with a",
        "old: no predictions.npz, and so no difference image by image (its numbers are those of result.json); run its",
        "going: not finished, 12 of 50 epochs: it is being trained, or was stopped",
        "two-sided, by Holm's correction for 3 comparisons",
    ):
        assert note in " ".join(out.split())


def test_the_first_has_no_predictions(runs, compare):
    code, out, _ = compare("old", "a")
    assert code == 0 and "a: no difference: old, which comes first, has no predictions" in out


def test_measures_of_a_result_whose_predictions_are_lost(runs, compare):
    measures = summary(predictions(2), resamples=300)
    write(runs / "lost", None, measures=measures)
    code, out, _ = compare("lost", "a", "--resamples=300")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert code == 0 and lines["lost"][1:] == lines["a"][1:6] and "lost: no predictions.npz" in out
    scores = Predictions.of_logits(LOGITS, LOGITS > 0, IDS, kind="labels")
    write(runs / "labels", None, measures=summary(scores, resamples=100))
    code, out, _ = compare("labels")
    assert code == 0 and "mAP %" in out and "100.00" in out


def test_rows_without_ids_are_matched_by_number(runs, compare):
    for name in ("n1", "n2"):
        write(runs / name, Predictions.of_logits(LOGITS, LABELS))
    code, out, _ = compare("n1", "n2")
    assert code == 0 and "n2: its images have no ids, and are matched with those of n1 by their order" in out


def test_a_network_that_is_still_trained(runs, compare):
    config = {"train": "finetune", "finetune": {"epochs": 30}, "head": {"name": "linear", "epochs": 50}, "tap": "x"}
    (runs / "going" / "config.json").write_text(json.dumps(config))
    code, out, _ = compare("a", "going")
    assert code == 0 and "going: not finished, 12 of 30 epochs" in out
    (line,) = (line for line in out.splitlines() if "finetune" in line)
    assert line.split()[-5:] == ["going", "-", "-", "finetune", "-"]


def test_runs_of_train_py(tmp_path, compare):
    files = []
    for split, rows in (("train", slice(60)), ("validation", slice(60, None))):
        files.append(str(tmp_path / f"{split}.npz"))
        np.savez(files[-1], features=LOGITS[rows] + np.eye(CLASSES)[LABELS[rows]], labels=LABELS[rows])
    for head in ("ridge", "nearest_mean"):
        config = default()
        config.head.name = head
        result = experiment.train_on_files(config, *files, epath.Path(tmp_path / head))
    code, out, _ = compare(tmp_path / "ridge", tmp_path / "nearest_mean")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert code == 0 and "images 30" in lines["all"] and "matched with those of ridge by their order" in out
    assert f"nearest_mean  {100 * result['validation_accuracy']:.2f} [" in lines["nearest_mean"]


def test_runs_over_seeds(runs, compare):
    code, out, _ = compare("s1", "s2", "a")
    assert code == 0
    accuracies = 100 * np.array(
        [[predictions(2, k).right.mean(), predictions(3, 9 + k).right.mean()] for k in (0, 1, 2)]
    )
    (mean, _), (spread, _) = accuracies.mean(axis=0), accuracies.std(axis=0, ddof=1)
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert f"{mean:.2f} ± {spread:.2f}" in lines["s1"]
    differences = accuracies[:, 1] - accuracies[:, 0]
    half = 4.302653 * differences.std(ddof=1) / np.sqrt(3)
    middle = differences.mean()
    assert f"{middle:+.2f} [{middle - half:+.2f}, {middle + half:+.2f}]" in lines["s2"]
    assert "a: no difference: one of it and s1 is over seeds, the other is not" in out
    assert "p: a paired t-test over seeds" in out


@pytest.mark.parametrize("differences", [[0.1, 0.3], [0.2, -0.1, 0.05, 0.15], [-0.5, -0.4, -0.6]])
def test_a_difference_over_seeds_is_scipy_s_t_test(differences):
    (mean, low, high), p = comparison_table._over_seeds(differences)
    theirs = stats.ttest_1samp(differences, 0)
    assert mean == pytest.approx(np.mean(differences)) and p == pytest.approx(theirs.pvalue)
    np.testing.assert_allclose([low, high], theirs.confidence_interval(0.95))


@pytest.mark.parametrize("differences, p", [([0.25], np.nan), ([0.25, 0.25], 0.0), ([0.0, 0.0, 0.0], 1.0)])
def test_differences_over_seeds_that_do_not_vary(differences, p):
    (mean, low, high), found = comparison_table._over_seeds(differences)
    ends = [np.nan] * 2 if len(differences) == 1 else [mean] * 2
    np.testing.assert_array_equal([mean, low, high, found], [differences[0], *ends, p])


def test_intervals_are_those_of_the_result(runs):
    """Which the same rows and seed give, whatever else they are compared with."""
    for name in MEASURES["classes"]:
        recorded = summary(predictions(2), resamples=100)[name]
        found = tabulate(["a", "b"], [name], resamples=100).rows[0].values[name]
        assert [found.value, found.low, found.high] == pytest.approx([*recorded.values()], abs=1e-6)
        assert list(recorded) == ["value", "low", "high"]


def test_seeds_that_are_not_done(runs, compare):
    (runs / "s1" / "result.json").unlink()
    (runs / "s1" / "seed_2" / "result.json").unlink()
    (runs / "s2" / "seed_1" / FILE).unlink()
    code, out, _ = compare("s1", "s2")
    assert code == 0 and "s1: not finished: 2 of its seeds are, so far" in out
    assert "s2: 2 of its seeds have predictions, the others are left out" in out


def test_long_names_are_a_list_beside_a_narrow_table(runs, compare):
    names = ["a_run_" + "with_a_long_name" * 3, "another_run_" + "with_a_long_name" * 3]
    for name, seed in zip(names, (3, 4), strict=True):
        write(runs / name, predictions(2, seed), model=f"model_of_a_long_name_{seed}", tap=f"block{seed}:avg")
    code, out, _ = compare(*names, "--resamples=100")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100
    assert lines[1].split() == ["run", "model", "tap"] and lines[2].split()[:2] == ["1", names[0]]
    assert "accuracy %" in lines[5] and lines[6].startswith("1  ") and lines[7].startswith("2  ")


def test_thirty_runs(runs, compare):
    for number in range(30):
        write(runs / "many" / f"run{number:02}", predictions(2 + number / 30, number))
    code, out, _ = compare(*sorted((runs / "many").iterdir()), "--resamples=50")
    assert code == 0 and "run29" in out and "for 29 comparisons" in out and max(map(len, out.splitlines())) <= 100


def test_every_form(runs, compare):
    (runs / "a").rename(runs / "50%_a&b|c")
    files = [runs / f"table{suffix}" for suffix in comparison_table.WRITERS]
    arguments = ["50%_a&b|c", "b", "old", "--measure=accuracy,top_5_accuracy", "--measure=balanced_accuracy"]
    code, out, _ = compare(*arguments, "--resamples=100", *(f"--output={file}" for file in files))
    text, markdown, separated, latex = (file.read_text() for file in files)
    assert code == 0 and out == text and "top-5 %  balanced %" in text
    markdown, latex = (re.sub(" +", " ", one) for one in (markdown, latex))
    assert markdown.startswith("| run | model |") and r"| 50%_a&b\|c | vgg16.keras |" in markdown
    first, second, old = csv.DictReader(separated.splitlines())
    assert first["run"] == "50%_a&b|c" and float(second["accuracy_low"]) <= float(second["accuracy"]) <= 1
    assert float(second["accuracy_difference"]) == pytest.approx(
        float(second["accuracy"]) - float(first["accuracy"]), abs=1e-5
    )
    assert (
        old["accuracy"] == "0.75"
        and old["accuracy_low"] == "0.651561"
        and old["notes"].startswith("no predictions.npz")
    )
    assert r"50\%\_a\&b\textbar{}c & vgg16.keras & pre\_logits & linear" in latex
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")].splitlines()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex)[1]
    assert all(len(re.split(r"(?<!\\)&", line)) == len(columns) for line in body if line.endswith(r"\\"))
    assert all(line.startswith("%") for line in latex[latex.index(r"\end{tabular}") :].splitlines()[1:])


TESTS = {
    "accuracy": "McNemar's exact test",
    "top_5_accuracy": "McNemar's exact test",
    "balanced_accuracy": "a score test of the mean over classes",
    "log_loss": "a paired bootstrap over validation images",
    "ece": "a paired bootstrap over validation images",
}


@pytest.mark.parametrize("measure", MEASURES["classes"])
def test_p_is_of_the_measure_that_is_shown(runs, compare, measure):
    """Of two runs that are right on the same rows, one of them far too sure, p says so by the log-loss alone."""
    sure = predictions(2)
    logits = LOGITS + np.random.default_rng(0).standard_normal(LOGITS.shape) / 2
    logits[np.arange(ROWS), LABELS] += 2
    write(runs / "sure", Predictions.of_logits(20 * logits, LABELS, IDS))
    files = [runs / f"p{suffix}" for suffix in comparison_table.WRITERS]
    code, out, _ = compare("a", "sure", f"--measure={measure}", "--resamples=300", *(f"--output={x}" for x in files))
    assert code == 0 and (sure.right == Predictions.of_logits(20 * logits, LABELS).right).all()
    (line,) = (line for line in out.splitlines() if line.startswith("sure"))
    p = float(line.split()[-1])
    assert p < 0.01 if measure == "log_loss" else 0.01 < p < 1 if measure == "ece" else p == 1
    text, markdown, separated, latex = (file.read_text() for file in files)
    assert all(f"p: {TESTS[measure]}, two-sided" in one for one in (text, markdown, latex))
    row = list(csv.DictReader(separated.splitlines()))[1]
    assert row["p_of"] == TESTS[measure] and float(row["p"]) == pytest.approx(p, abs=5e-4)


def test_what_the_interval_of_a_calibration_error_is_not(runs, compare):
    code, out, _ = compare("a", "--measure=ece", "--resamples=50")
    assert code == 0 and "of what the images do not refute, of a calibrated run 0 among it" in " ".join(out.split())


@pytest.mark.parametrize("kind, heading", [("labels", "mAP %"), ("values", "RMSE")])
def test_other_kinds(runs, compare, kind, heading):
    truth = LOGITS > 0 if kind == "labels" else LOGITS
    for number in (1, 2):
        scores = LOGITS + np.random.default_rng(number).standard_normal(LOGITS.shape) / number
        write(runs / f"{kind}{number}", Predictions.of_logits(scores, truth, IDS, kind=kind))
    code, out, _ = compare(f"{kind}1", f"{kind}2", "--resamples=100")
    assert code == 0 and heading in out and "p: a paired bootstrap over validation images, two-sided" in out
    code, _, err = compare("a", f"{kind}1")
    assert code == 2 and err == f"error: a predicts classes, {kind}1 {kind}; runs of one kind can be compared\n"


def test_a_head_without_probabilities(runs, compare):
    write(runs / "plain", predictions(2, probable=False, ranked=False))
    code, out, _ = compare("a", "plain", "--resamples=100")
    (line,) = (line for line in out.splitlines() if line.startswith("plain"))
    assert code == 0 and line.split()[4:7] == ["-", "-", "+0.00"]
    code, out, _ = compare("plain", "a", "--measure=ece", "--resamples=100")
    assert code == 0


def test_the_text_of_every_form_is_the_recorded_one():
    """`python tests/golden/make_comparison.py` records it anew."""
    assert golden.text() == golden.FILE.read_text()


def test_as_from_python(runs):
    table = tabulate([str(runs / "a"), str(runs / "b")], resamples=100)
    assert table.measures == ("accuracy", "log_loss", "ece") and table.rows[1].shared == ROWS
    assert comparison_table.markdown(table) == comparison_table.markdown(
        tabulate([str(runs / "a"), str(runs / "b")], resamples=100)
    )
    lone = comparison_table.Table(
        [ComparedRun(Run("x", "x", dict.fromkeys(comparison_table.FACTS, "")), {})], "classes", ("ece",), 1
    )
    assert comparison_table.text(lone).split() == ["run", "ECE", "%", "x", "-"]


NAMES = {
    ("runs/a",): ["runs/a"],
    ("runs/a", "runs/b"): ["a", "b"],
    ("r/a/x", "r/b/x"): ["a/x", "b/x"],
    ("r", "r/b", "r/c"): ["r", "r/b", "r/c"],
    ("gs://of/r/a", "gs://of/r/b"): ["a", "b"],
}


@pytest.mark.parametrize("paths, names", NAMES.items())
def test_runs_are_called_by_what_their_paths_differ_in(paths, names):
    assert with_names([f"{path}/" for path in paths]) == list(zip(paths, names, strict=True))


CONFIG = {"model": {"name": "m"}, "tap": "t", "head": {"name": "h", "epochs": 5}, "data": {"source": "d"},
          "finetune": {"epochs": 3}}  # fmt: skip
RESULT = {"model": "M", "tap": "T", "num_validation": 9, "dataset": "D"}
EXPECTED = {
    "a result": (RESULT, CONFIG, {"model": "M", "tap": "T", "head": "h", "rows": "9", "data": "D"}, 5),
    "a config": ({}, CONFIG, {"model": "m", "tap": "t", "head": "h", "rows": "", "data": "d"}, 5),
    "nothing": ({}, {}, dict.fromkeys(("model", "tap", "head", "rows", "data"), ""), None),
    "damaged": ({}, dict.fromkeys(CONFIG, "x"), {"model": "", "tap": "x", "head": "", "rows": "", "data": ""}, None),
    "a network": (
        {},
        CONFIG | {"train": "finetune"},
        {"model": "m", "tap": "", "head": "finetune", "rows": "", "data": "d"},
        3,
    ),
}


@pytest.mark.parametrize("result, config, expected, epochs", EXPECTED.values(), ids=EXPECTED)
def test_facts_of_a_run(result, config, expected, epochs):
    assert facts(result, config) == expected and planned_epochs(config) == epochs


RECORDED = {
    "of before": ({"validation_accuracy": 0.5, "num_validation": 4}, {"accuracy": (0.5, 0.150039, 0.849961)}),
    "all right": ({"validation_accuracy": 1, "num_validation": 4}, {"accuracy": (1.0, 0.510109, 1.0)}),
    "none right": ({"validation_accuracy": 0, "num_validation": 4}, {"accuracy": (0.0, 0.0, 0.489891)}),
    "no share": ({"validation_accuracy": 1.5, "num_validation": 4}, {}),
    "below 0": ({"validation_accuracy": -0.5, "num_validation": 4}, {}),
    "text": ({"validation_accuracy": "0.5", "num_validation": 4}, {}),
    "no number of rows": ({"validation_accuracy": 0.5}, {}),
    "measures": (
        {
            "measures": {
                "ece": {"value": 0.2, "low": 0, "high": 0.3},
                "r2": {"value": None, "low": 0, "high": 1},
                "rows": 4,
                "accuracy": {"value": 1},
            }
        },
        {"ece": (0.2, 0, 0.3)},
    ),
}


@pytest.mark.parametrize("result, expected", RECORDED.values(), ids=RECORDED)
def test_measures_that_a_result_holds(result, expected):
    found = _recorded(result)
    assert found.keys() == expected.keys()
    for name, ends in expected.items():
        assert found[name] == pytest.approx(ends, abs=1e-6)


def test_runs_of_the_same_rows_are_measured_together_as_alone(runs):
    together = tabulate(["a", "b"], resamples=100)
    alone = [tabulate([name], resamples=100).rows[0] for name in ("a", "b")]
    assert [one.values for one in together.rows] == [one.values for one in alone]


BAD = {
    "a typo": (["aa"], 2, "there is no run aa; did you mean a?"),
    "no folder": (["nowhere/a"], 2, "there is no run nowhere/a; there is no folder nowhere"),
    "a folder of runs": (
        ["."],
        2,
        ". is no run: no config.json and no result.json in it; 8 folders in it are runs: pass",
    ),
    "twice": (["a", "./a/"], 2, "a is given 2 times; each run counts once"),
    "an unknown measure": (["a", "--measure=acuracy"], 2, "--measure=acuracy is not one of accuracy, top_5_accuracy"),
    "another kind's measure": (
        ["a", "--measure=rmse"],
        2,
        "--measure=rmse: these runs predict classes, which have acc",
    ),
    "an unknown suffix": (["a", "--output=x.pdf"], 2, "--output=x.pdf must end in one of .txt, .md, .csv, .tex"),
    "nowhere to write": (["a", "--output=nowhere/x.md"], 2, "there is no folder"),
    "no resamples": (["a", "--resamples=0"], 2, "--resamples must be at least 1"),
    "other rows": (["a", "other"], 1, "a and other cannot be compared: they have no validation row in common"),
    "other labels": (["a", "wrong"], 1, "of 90 rows with the same id have another label"),
    "damaged": (["damaged"], 1, "damaged/predictions.npz: a damaged or truncated zip archive"),
    "no JSON": (["no_json"], 1, "result.json is damaged"),
}


@pytest.mark.parametrize("arguments, code, message", BAD.values(), ids=BAD)
def test_bad_arguments_are_one_line(runs, compare, arguments, code, message):
    if {"other", "wrong", "damaged", "no_json"} & {*arguments}:
        apart = Predictions.of_logits(LOGITS, LABELS, [f"x{i}" for i in range(ROWS)])
        write(runs / "other", apart)
        write(runs / "wrong", predictions(2, labels=(LABELS + 1) % CLASSES))
        write(runs / "damaged", None)
        (runs / "damaged" / FILE).write_bytes(b"PK\3\4 and no more")
        write(runs / "no_json", None)
        (runs / "no_json" / "result.json").write_text("{")
    found, out, err = compare(*arguments)
    assert found == code and message in err and err.count("\n") == 1 and not out


def test_a_whole_pass_does_not_start_jax(runs):
    import subprocess
    import sys
    from pathlib import Path

    script = (
        "import sys; from transfer.__main__ import main; main(['compare', 'a', 'b']); assert 'jax' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(root)}, capture_output=True)


def test_what_cannot_be_compared_is_said_of_seeds_too(runs):
    wrong = predictions(2, labels=(LABELS + 1) % CLASSES)
    for seed in range(2):
        write(runs / "s3" / f"seed_{seed}", wrong)
    with pytest.raises(TransferError, match="s1 and s3 cannot be compared"):
        tabulate(["s1", "s3"])
