"""What a report says of runs as they may lie there: done or not, damaged, over seeds, of another version."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from head_runs import make_files
from made_runs import made_run, of_classes, of_labels, of_values

from transfer import config, experiment
from transfer.__main__ import main
from transfer.evaluation.predictions import Predictions
from transfer.report import overview, page, run_data, svg, templates
from transfer.report.run_data import Options
from transfer.report.templates import embedded

PLAIN = Options(map="none")


def text(*paths: Path) -> str:
    return page.page(run_data.load([str(path) for path in paths], PLAIN))


def titles(html: str) -> list[str]:
    return re.findall(r"<h2 id=[^>]*>([^<]*)</h2>", html)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def files_run(folder: Path, workdir: Path, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    make_files(folder, 200, 100)
    chosen = config.default()
    if "head.name" not in settings:
        chosen.head.epochs, chosen.head.batch_size = 2, 32
    chosen.update_from_flattened_dict(settings)
    return experiment.train_on_files(
        chosen, str(folder / "train.npz"), str(folder / "validation.npz"), epath.Path(workdir)
    )


def test_training_ends_with_a_report(trained: Path) -> None:
    html = (trained / "report.html").read_text("utf-8")
    assert {"Summary", "Learning curves", "Few-shot accuracy", "Settings and versions"} <= set(titles(html))
    result = json.loads((trained / "result.json").read_text())
    assert result["weights_sha256"] in html and result["device"] in html
    assert f"{100 * result['measures']['accuracy']['value']:.1f}<span" in html


def test_it_is_one_file(trained: Path) -> None:
    html = (trained / "report.html").read_text("utf-8")
    markup = re.sub(r"<(pre|script)\b.*?</\1>", "", html, flags=re.S)
    assert not re.search(r"""\s(?:src|href|srcset|action)=(?!["']?(?:data:|#))|@import|url\((?!["']?data:)""", markup)
    assert html.count("Content-Security-Policy") == 1 and html.index("Content-Security-Policy") < html.index("<style")


def test_features_from_files(tmp_path: Path) -> None:
    """No network and no images are known; the map's features are those of the file, while it is the same one."""
    files_run(tmp_path / "files", tmp_path / "run")
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "features from files" in html and "Learning curves" in titles(html)
    (run,) = run_data.load([str(tmp_path / "run")])
    assert run.features(np.arange(3)).shape == (3, 6)
    assert run.images.get(["0"], 16) == [None] and any("given features" in note for note in run.notes)
    make_files(tmp_path / "files", 200, 99)
    (run,) = run_data.load([str(tmp_path / "run")])
    assert run.features(np.arange(3)) is None and any("gone or has changed" in note for note in run.notes)


@pytest.mark.parametrize("head", ["ridge", "knn"])
def test_heads_without_epochs(tmp_path: Path, head: str) -> None:
    files_run(tmp_path / "files", tmp_path / "run", **{"head.name": head})
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Summary" in titles(html) and "Learning curves" not in titles(html)


def test_what_was_chosen_among(tmp_path: Path) -> None:
    files_run(tmp_path / "files", tmp_path / "run", **{"head.name": "ridge", "sweep.alpha": (0.1, 10.0)})
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Hyperparameter search" in titles(html) and html.count('<tr class="chosen">') == 1


def test_no_report_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    files_run(tmp_path / "files", tmp_path / "run", report=False)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Here its place is taken by a folder."""
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    assert files_run(tmp_path / "files", tmp_path / "run")["validation_accuracy"] > 0
    lines = [record.message for record in caplog.records if "no report was written" in record.message]
    assert len(lines) == 1 and f"python -m transfer report {tmp_path / 'run'}" in lines[0]


def test_not_done(run: Path) -> None:
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    html = text(run)
    assert "Not finished: 2 of 3 epochs are trained" in html and "1 damaged lines of metrics.jsonl" in html
    assert "Learning curves" in titles(html) and "after the last epoch so far" in html


def test_no_predictions_as_in_an_older_run(run: Path) -> None:
    (run / "predictions.npz").unlink()
    result = json.loads((run / "result.json").read_text())
    for name in ("measures", "few_shot", "settings", "head", "best_epoch"):
        result.pop(name, None)
    (run / "result.json").write_text(json.dumps(result))
    html = text(run)
    assert "an older version wrote this run" in html
    assert f"{100 * result['validation_accuracy']:.1f}<span" in html


def test_predictions_of_a_newer_version(run: Path) -> None:
    with np.load(run / "predictions.npz") as archive:
        arrays = dict(archive)
    arrays["facts"][0] = 99
    np.savez(run / "predictions.npz", **arrays)
    html = text(run)
    assert "a newer version wrote them?" in html and "Summary" in titles(html)


def test_settings_of_another_version(run: Path) -> None:
    """Fields that this version does not know, and those of its own that are not what they were."""
    edit(run / "config.json", future={"depth": 3}, data=7, few_shot="no", head=None)
    edit(run / "result.json", measures=[1], few_shot=[], sweep="x", taps=[{"tap": 1}, {}], runs=3, spread="wide")
    html = text(run)
    assert "future.depth" in html and "Summary" in titles(html)


@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_damaged_files_are_one_line(run: Path, name: str, capsys: Any) -> None:
    (run / name).write_text('{"half')
    assert main(["report", str(run)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and name in error and "damaged" in error


def test_nothing_there_is_one_line(tmp_path: Path, run: Path, capsys: Any) -> None:
    for arguments, word in (
        ([str(tmp_path / "ran")], "did you mean"),
        ([str(tmp_path)], "is no run"),
        ([str(run), str(run)], "2 times"),
        ([str(run), "--output", "page.txt"], "--output"),
        ([str(run), "--output", str(tmp_path / "no" / "page.html")], "--output"),
        ([str(run), "--seed=-1"], "--seed"),
        ([str(run), "--plots=x", "--plot_format=gif"], "--plot_format"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0 and word in error


def test_over_seeds(tmp_path: Path, run: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(run, tmp_path / "seeds" / f"seed_{seed}")
    one = json.loads((run / "result.json").read_text())
    html = text(tmp_path / "seeds")
    assert "Not finished: 2 of 2 seeds are" in html
    whole = {**one, "spread": {"validation_accuracy": 0.02, "validation_loss": 0.3}, "seeds": 2, "runs": [one, one]}
    whole.pop("measures")
    (tmp_path / "seeds" / "result.json").write_text(json.dumps(whole))
    html = text(tmp_path / "seeds")
    assert "the mean over 2 seeds" in html and "± 2.0" in html and "are those of seed_0" in html


def test_the_folder_one_is_in(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(run)
    (run / "report.html").unlink()
    assert main(["report", ".", "--map=none"]) == 0
    assert "<h1>run</h1>" in (run / "report.html").read_text("utf-8")
    assert capsys.readouterr().out.startswith("Report: ")


def test_runs_beside_each_other(trained: Path, run: Path) -> None:
    html = text(trained, run)
    assert titles(html)[0] == "Comparison" and html.count('<details class="run"') == 2
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) and {"curves-0", "curves-1"} <= set(ids)


def test_runs_that_cannot_be_compared(tmp_path: Path, trained: Path) -> None:
    files_run(tmp_path / "files", tmp_path / "other")
    html = text(trained, tmp_path / "other")
    assert "no validation row in common" in html and html.count('<details class="run"') == 2
    assert html.count('scope="row"><a href="#run-') == 2, "each has its own measures all the same"


NASTY = ("</script><script>alert(1)</script>", "<!--", "\"'&amp;", "<b>ünï🙂</b>\u2028", "]]>", "{{ 7*7 }}")


def test_any_name_is_only_text(trained: Path, run: Path) -> None:
    path = run / "predictions.npz"
    before = Predictions.read(path)
    names = [NASTY[number % len(NASTY)] + str(number) for number in range(before.num_outputs)]
    Predictions(**{**vars(before), "class_names": tuple(names)}).write(path)
    edit(run / "result.json", model="<i>m</i>", dataset="folder:</script><b>", device='a"b<c>')
    edit(run / "config.json", tap="</pre><script>")
    html, plain = text(run), text(trained)
    assert html.count("<script") == plain.count("<script") and html.count("<!--") == plain.count("<!--")
    for bad in ("<script>alert", "<b>ünï", "<i>m</i>", "</pre><script>", "folder:</script>"):
        assert bad not in html


def test_embedded_data_are_read_back() -> None:
    data = {"names": NASTY, "line": "\u2028\u2029", "n": [1, None, 0.5]}
    written = str(embedded(data))
    assert json.loads(written) == json.loads(json.dumps(data)) and not re.search("[<>&\u2028\u2029]", written)
    with pytest.raises(ValueError, match="JSON"):
        embedded({"no number": float("nan")})


def test_values_that_are_no_numbers_are_left_out(run: Path) -> None:
    """A head that diverges writes NaN; its curve ends there."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[2] |= {"loss": float("nan"), "validation_loss": float("inf")}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(run / "result.json", train_loss=float("nan"), seconds_train=None)
    html = text(run)
    assert "Learning curves" in titles(html) and "NaN" not in re.sub(r"<(pre|script)\b.*?</\1>", "", html, flags=re.S)
    assert not re.search(r'="[^"]*\b(?:nan|inf)\b', html)


def test_images_are_thumbnails(trained: Path) -> None:
    (run,) = run_data.load([str(trained)])
    found = run.images.get([*map(str, run.predictions.ids[:9]), "not there"], 24)
    assert all(one.shape == (24, 24, 3) and one.dtype == np.uint8 for one in found[:9])
    assert found[9] is None and len(run.notes) == 1 and run.notes[0].startswith("1 of the")
    # eight pixels, each three by three
    assert (found[0] == np.repeat(np.repeat(found[0][::3, ::3], 3, 0), 3, 1)).all() and found[0].std() > 0


def test_images_that_are_gone_are_said_once(run: Path) -> None:
    edit(run / "config.json", data={"source": "folder:/nowhere at all"})
    (found,) = run_data.load([str(run)])
    assert found.images.get(["a", "b"], 8) == [None, None] == found.images.get(["a", "b"], 8)
    assert len(found.notes) == 1 and "/nowhere at all" in found.notes[0]


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((0, 1), (0.123, 0.97), (-3, 12000), (5, 5), (1e-9, 3e-9)):
        found = svg.ticks(low, high)
        assert found and all(low - 1e-12 <= value <= high + 1e-12 for value in found) and len(found) <= 12


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0.0\u202fs"),
        (119.94, "119.9\u202fs"),
        (120, "2.0\u202fmin"),
        (7194, "119.9\u202fmin"),
        (7200, "2.0\u202fh"),
    ],
)
def test_times_are_in_the_unit_that_suits_them(seconds: float, written: str) -> None:
    assert overview.duration(seconds) == written


@pytest.mark.parametrize(
    ("predictions", "counted", "tile"),
    [
        (of_classes(4, 30), "classes", "share of the images that are classified correctly; always"),
        (of_labels(30), "labels", "share of the images of which every label is right<"),
        (of_values(30), "values", ""),
    ],
)
def test_the_summary_says_what_is_predicted(predictions: Predictions, counted: str, tile: str) -> None:
    run = made_run(predictions, num_classes=4, measures={"accuracy": {"value": 0.5}} if tile else {})
    html = overview.section(run).html
    assert f"<dt>{counted}</dt><dd>4</dd>" in html and tile in html


TUNED = {"train": "finetune", "model": {"name": "resnet18"}}
LEADS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (TUNED, {"dataset": "digits"}, "resnet18, fine-tuned · digits"),
    ({**TUNED, "unfreeze": "block4"}, {}, "resnet18, of which block4 was trained"),
    ({"head": {"name": "knn"}}, {"model": "vgg11", "tap": "fc1"}, "knn head on vgg11, fc1"),
    ({"head": {"name": "knn"}}, {"dataset": "a.npz b.npz"}, "knn head on features from files · a.npz b.npz"),
    ({}, {}, "head on features from files"),
]


@pytest.mark.parametrize(("settings", "result", "line"), LEADS)
def test_a_line_says_what_the_run_is(settings: dict[str, Any], result: dict[str, Any], line: str) -> None:
    run = made_run(None, **result)
    run.config = settings
    assert f'<p class="lead">{line}</p>' in page.page([run], [[]])


def test_long_lists_are_cut_and_numbers_have_thin_spaces() -> None:
    assert overview._shortened({"a": [list(range(41)), [1] * 40]}) == {"a": [[*range(40), "… 1 more"], [1] * 40]}
    assert templates.count(1234567.9) == "1\u202f234\u202f567" and templates.count(True) == "–" == templates.count("7")
    assert templates.percent(0.12345, 2) == "12.35\u202f%" and templates.percent(None) == "–"
    assert templates.number(0.12345) == "0.1235" and templates.number(float("nan")) == "–"


def test_every_section_has_a_key_of_its_own(trained: Path) -> None:
    (run,) = run_data.load([str(trained)], PLAIN)
    keys = []
    for section in page.SECTIONS:
        made = section(run)
        if made is not None:
            assert re.fullmatch(r"[a-z_]+", made.key) and made.title
            embedded(made.data)
            keys.append(made.key)
    assert len(keys) == len(set(keys)) >= 4


def test_a_report_without_images_imports_nothing_heavy(tmp_path: Path) -> None:
    """What ends train.py may not bring in what training did without."""
    files_run(tmp_path / "files", tmp_path / "run", report=False)
    script = f"""
import sys
from etils import epath
from transfer.report import page
from transfer.report.run_data import load
page.write(load([{str(tmp_path / "run")!r}]), epath.Path({str(tmp_path / "page.html")!r}))
print(sorted(name for name in ("sklearn", "matplotlib", "scipy", "tensorflow", "flax") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr[-2000:]
    assert "Feature map" in titles((tmp_path / "page.html").read_text("utf-8"))
