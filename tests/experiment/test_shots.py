"""The few-shot protocol: big_vision's numbers, what a cell depends on, and going on where a run stopped."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from transfer import config as settings
from transfer import experiment
from transfer.__main__ import main
from transfer.data.splits import make_splits
from transfer.errors import TransferError, UsageError
from transfer.experiment import extract_features, head_data, results
from transfer.experiment import few_shot as shots
from transfer.experiment.few_shot import Cells, Protocol
from transfer.report import chart_files, few_shot_tables, shots_section
from transfer.report.run_data import RunData
from transfer.runtime import preemption

SHOTS = (1, 5, 10, 25)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    return {"x": x[:900], "y": y[:900], "xv": x[900:], "yv": y[900:]}


def run(protocol, digits, path, **changed):
    """The protocol on the digits' pixels, and on their squares."""
    d = {**digits, **changed}
    taps = {"pixels": (d["x"], d["xv"]), "squares": (d["x"] ** 2, d["xv"] ** 2)}
    return shots.measure(protocol, taps, d["y"], d["yv"], Cells(epath.Path(path), "the digits"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / shots.FILE


def fewshot_lsr(x, y, xv, yv, per_class, seed):
    """big_vision's evaluator, from its description: float64, and a solver in place of its eigendecomposition."""
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.permutation(np.flatnonzero(y == label))[:per_class] for label in range(10)])
    mean, deviation = x[rows].mean(axis=0), x[rows].std(axis=0) + 1e-5
    placed = [np.pad((some - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0) for some in (x[rows], xv)]
    wanted = 2.0 * (y[rows, None] == np.arange(10)) - 1
    penalised = placed[0].T @ placed[0] + 2.0**10 * np.eye(placed[0].shape[1])
    weights = np.linalg.solve(penalised, placed[0].T @ wanted)
    return np.mean((placed[1] @ weights).argmax(axis=1) == yv)


BIG_VISION = Protocol(SHOTS, 3, ("ridge",), settings={"ridge": {"alpha": 2.0**10, "scaling": "standard"}})


def test_the_numbers_of_big_visions_protocol(digits, path):
    result = run(BIG_VISION, digits, path)
    x, xv = digits["x"].astype(np.float64), digits["xv"].astype(np.float64)
    for row in result["rows"]:
        power = {"pixels": 1, "squares": 2}[row["tap"]]
        for seed, accuracy in enumerate(row["accuracies"]):
            expected = fewshot_lsr(x**power, digits["y"], xv**power, digits["yv"], row["per_class"], seed)
            assert accuracy == pytest.approx(expected, abs=1e-6), (row["tap"], row["per_class"], seed)


def test_a_summary_is_of_its_cells(digits, path):
    protocol = Protocol((2, None), 3, ("nearest_mean", "ridge"))
    result = run(protocol, digits, path)
    keys = [(row["tap"], row["per_class"], row["head"], row["num_train"]) for row in result["rows"]]
    sizes = {2: 20, None: 900}
    assert keys == [(t, n, h, sizes[n]) for t in ("pixels", "squares") for n in (2, None) for h in protocol.heads]
    few, every = result["rows"][0], result["rows"][2]
    assert len(set(few["accuracies"])) > 1 and few["mean"] == pytest.approx(np.mean(few["accuracies"]), abs=1e-6)
    assert few["spread"] == pytest.approx(np.std(few["accuracies"], ddof=1), abs=1e-6)
    assert len(every["accuracies"]) == 1 and every["spread"] == 0, "all rows can be drawn in one way"
    assert json.loads(json.dumps(result)) == result


def test_all_that_is_kept_of_a_cell_and_told_of_a_row(digits, path):
    """What a cell is of decides whether it is measured again: nothing of it may change its name."""
    protocol = Protocol((5, None), 2, ("ridge",), select=True, grids={"ridge": {"alpha": (10.0, 1.0)}})
    rows = {name: digits[name][:90] for name in ("x", "y", "xv", "yv")}
    result = shots.measure(
        protocol, {"pixels": (rows["x"], rows["xv"])}, rows["y"], rows["yv"], Cells(epath.Path(path), "the digits")
    )
    kept = json.loads(path.read_text())
    assert set(kept) == {"rows", "cells"} and kept["rows"] == "the digits" and len(kept["cells"]) == 3
    parameters = {"alpha": 1.0, "scaling": None, "class_weight": None}
    how = {"holdout": 0.2, "fewest_held": 100, "equals": "log_loss", "grid": {"alpha": [10.0, 1.0]}}
    assert [cell["of"] for cell in kept["cells"]] == [
        {"tap": "pixels", "head": "ridge", "per_class": shots, "seed": seed, "parameters": parameters, "select": how}
        for shots, seed in ((5, 0), (5, 1), (None, 0))
    ]
    measured = [cell["measured"] for cell in kept["cells"]]
    assert [set(cell) for cell in measured] == [{"accuracy", "num_train", "chosen", "seconds", "warnings"}] * 3
    assert [cell["num_train"] for cell in measured] == [50, 50, 90]
    assert all(set(cell["chosen"]) == {"alpha"} for cell in measured), "5 images a class are enough to choose by"
    of_row = [measured[:2], measured[2:]]
    assert result.pop("rows") == [
        {
            "tap": "pixels",
            "head": "ridge",
            "per_class": shots,
            "num_train": cells[0]["num_train"],
            "mean": pytest.approx(np.mean([cell["accuracy"] for cell in cells]), abs=1e-6),
            "spread": 0.0 if shots is None else pytest.approx(np.std([c["accuracy"] for c in cells], ddof=1), abs=1e-6),
            "same_rows": False,
            "accuracies": [cell["accuracy"] for cell in cells],
            "seconds": pytest.approx(sum(cell["seconds"] for cell in cells), abs=1e-3),
            "chosen": [cell["chosen"] for cell in cells],
        }
        for shots, cells in zip((5, None), of_row, strict=True)
    ]
    assert result == {
        "per_class": [5, None],
        "seeds": 2,
        "heads": ["ridge"],
        "select": True,
        "holdout": 0.2,
        "settings": {},
        "grids": {"ridge": {"alpha": [10.0, 1.0]}},
        "baselines": False,
        "num_validation": 90,
    }


def test_what_was_interrupted_goes_on(digits, path, monkeypatch):
    protocol = Protocol((1, 3), 2, ("nearest_mean",))
    whole = run(protocol, digits, path.with_name("whole.json"))
    measured, original = [], shots._measured

    def interrupted(cell, *arguments):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(cell)
        return original(cell, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shots, "_measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(protocol, digits, path)
    assert len(json.loads(path.read_text())["cells"]) == len(measured) == 5

    def counted(cell, *arguments):
        measured.append(cell)
        return original(cell, *arguments)

    monkeypatch.setattr(shots, "_measured", counted)
    result = run(protocol, digits, path)
    assert len(measured) == len(set(measured)) == 8, "no cell twice"
    assert [row["accuracies"] for row in result["rows"]] == [row["accuracies"] for row in whole["rows"]]
    run(protocol._replace(seeds=3), digits, path)
    assert len(measured) == 12, "one more seed is one more cell of each"
    run(protocol._replace(settings={"nearest_mean": {"metric": "cosine"}}), digits, path)
    assert len(measured) == 20, "another setting is another cell"


def test_a_request_to_end_keeps_what_is_there(digits, path, monkeypatch):
    monkeypatch.setattr(preemption, "requested", lambda: True)
    with pytest.raises(preemption.Preempted):
        run(Protocol((1,), 2, ("nearest_mean",)), digits, path)
    assert len(json.loads(path.read_text())["cells"]) == 1


def test_cells_are_written_as_time_goes(path, monkeypatch):
    monkeypatch.setattr(shots, "SECONDS_BETWEEN_WRITES", 0)
    cells = Cells(epath.Path(path), "rows")
    cells.put({"tap": "a", "values": [1, None]}, {"accuracy": 0.5})
    assert Cells(epath.Path(path), "rows").get({"values": [1, None], "tap": "a"}) == {"accuracy": 0.5}
    assert Cells(epath.Path(path), "other rows").get({"tap": "a", "values": [1, None]}) is None


def test_a_damaged_file_is_named(path):
    path.write_text('{"rows": "the dig')
    with pytest.raises(TransferError, match="shots.json is damaged"):
        Cells(epath.Path(path), "the digits")


class Watched:
    """Rows that count how often they are read."""

    def __init__(self, rows):
        self.rows, self.reads, self.shape = rows, [], rows.shape

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        found = self.rows[key]
        self.reads.append(len(found))
        return found


def test_rows_are_read_once_and_only_those_that_are_drawn(digits, path):
    x, xv = Watched(digits["x"].reshape(-1, 8, 8)), Watched(digits["xv"].reshape(-1, 8, 8))
    protocol, cells = Protocol((1, 2), 2, ("nearest_mean", "ridge")), Cells(epath.Path(path), "the digits")
    shots.measure(protocol, {"pixels": (x, xv)}, digits["y"], digits["yv"], cells)
    assert 20 <= x.reads[0] <= 40 and len(x.reads) == len(xv.reads) == 1
    shots.measure(protocol, {"pixels": (x, xv)}, digits["y"], digits["yv"], cells)
    assert len(x.reads) == 1, "there was nothing left to do"


def test_settings_are_chosen_on_training_rows_where_there_are_enough(digits, path):
    protocol = Protocol((4, 10), 2, ("ridge", "nearest_mean"), select=True)
    result = run(protocol, digits, path)
    few, more = (row for row in result["rows"] if (row["tap"], row["head"]) == ("pixels", "ridge"))
    assert few["chosen"] == [{}, {}], "the default"
    assert all(set(one) == {"alpha"} for one in more["chosen"]) and more["num_train"] == 100
    plain = run(protocol._replace(select=False), digits, path)
    assert more["mean"] > plain["rows"][2]["mean"], "ridge's default suits no pixels"
    blind = run(protocol, digits, path.with_name("blind.json"), yv=(digits["yv"] + 1) % 10)
    assert [row["chosen"] for row in blind["rows"]] == [row["chosen"] for row in result["rows"]]


def test_one_division_of_few_rows_does_not_choose_alone(digits, path, monkeypatch):
    protocol, seen, original = Protocol((5, 10), 1, ("ridge",), select=True), [], shots.select
    seeds = []

    def watched(*arguments, seed, **options):
        seeds.append(seed)
        options["seed"] = seed
        seen.append(original(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(shots, "select", watched)
    row = run(protocol, digits, path)["rows"][0]
    of_five = seen[:10]
    assert [len(one.holdout_labels) for one in seen] == 2 * ([10] * 10 + [20] * 5)
    assert len({tuple(one["accuracy"] for one in division.table) for division in of_five}) > 5
    assert row["chosen"] == [{"alpha": of_five[0].table[shots.best_setting([one.table for one in of_five])]["alpha"]}]
    # a seed of its own for every division of every draw, for good: they are in the numbers of a table
    assert seeds == 2 * ([0, *range(1001, 1010)] + [0, *range(1001, 1005)])
    seeds.clear()
    ridge = shots.head_settings.make("ridge", "classes", {}, 2)
    shots.selected(ridge, digits["x"][:50], digits["y"][:50], {"alpha": (1.0,)}, 0.5, 2)
    assert seeds == [2, 3001, 3002, 3003]


BEST = {
    "the highest mean": ([[(0.5, 1), (0.9, 1)], [(0.8, 1), (0.6, 1)]], 1),
    "of equals the surest": ([[(0.5, 1), (0.9, 1), (0.9, 0.5), (0.9, 0.7), (0.1, 0.1)]], 2),
    "a little higher": ([[(0.904, 1), (0.9, 0.1)]], 0),
    "equal but for rounding": ([[(0.1, 1), (0.2, 1), (0.3, 0.5)], [(0.3, 1), (0.2, 0.5), (0.1, 1)], [(0.2, 1)] * 3], 1),
    "of equals in both the first": ([[(0.5, 1), (0.9, 1), (0.9, 1)]], 1),
    "not a number": ([[(0.9, float("nan")), (0.9, 7), (0.2, 0.1)]], 1),
    "without probabilities the first": ([[(0.5,), (0.9,), (0.9,)]], 1),
}


@pytest.mark.parametrize("divisions, expected", BEST.values(), ids=BEST)
def test_the_best_setting_of_several_divisions(divisions, expected):
    made = [[dict(zip(("accuracy", "log_loss"), row, strict=False)) for row in table] for table in divisions]
    assert shots.best_setting(made) == expected


def test_grids_of_ones_own(digits, path):
    grids = {"ridge": {"scaling": ("standard", "l2"), "alpha": (100.0, 1.0)}}
    result = run(Protocol((10,), 1, ("ridge",), select=True, grids=grids), digits, path)
    assert all(set(row["chosen"][0]) == {"scaling", "alpha"} for row in result["rows"])
    assert result["grids"] == {"ridge": {"scaling": ["standard", "l2"], "alpha": [100.0, 1.0]}}


EDGES = {
    "in the middle": ([{"alpha": 1.0}] * 5, []),
    "nothing chosen": ([{}] * 5, []),
    "now and then": ([{"alpha": 100.0}] + [{"alpha": 1.0}] * 10, []),
    "one in ten": (
        [{"alpha": 0.01}] + [{"alpha": 1.0}] * 9,
        ["alpha=0.01, an end of what was tried, was chosen in 1 of 10 cells"],
    ),
    "often": ([{"alpha": 100.0}] * 2 + [{"alpha": 1.0}] * 3 + [{}], ["alpha=100, an end of what was tried, was"]),
}


@pytest.mark.parametrize("chosen, expected", EDGES.values(), ids=EDGES)
def test_settings_at_an_end_of_what_was_tried(chosen, expected):
    lines = list(shots.at_edges({"alpha": (100.0, 1.0, 0.01), "scaling": (None, "l2")}, chosen))
    assert [line.startswith(start) for line, start in zip(lines, expected, strict=True)] == [True] * len(expected)


def test_labels_may_be_text_and_classes_that_nothing_was_trained_on_are_wrong(digits, path):
    names = np.array(list("abcdefghij"))
    protocol = Protocol((3,), 1, ("nearest_mean", "ridge"))
    usual = run(protocol, digits, path)
    texts = run(protocol, digits, path.with_name("text.json"), y=names[digits["y"]], yv=names[digits["yv"]])
    assert [row["mean"] for row in texts["rows"]] == [row["mean"] for row in usual["rows"]]
    strangers = run(protocol, digits, path.with_name("strangers.json"), yv=digits["yv"] + 100)
    assert {row["mean"] for row in strangers["rows"]} == {0.0}


def test_a_rare_class_does_not_keep_settings_from_being_chosen(digits, path):
    kept = np.concatenate([np.flatnonzero(digits["y"] == 0)[:1], np.flatnonzero(digits["y"] > 0)])
    result = run(Protocol((None,), 1, ("ridge",), select=True), digits, path, x=digits["x"][kept], y=digits["y"][kept])
    assert all(set(row["chosen"][0]) == {"alpha"} for row in result["rows"])


@pytest.mark.filterwarnings("ignore:self.within_class")
def test_a_head_that_is_any_estimator_of_scikit_learns(digits, path, monkeypatch, caplog):
    monkeypatch.setattr(shots.head_settings, "make", lambda head, kind, own, seed: NearestCentroid(**own))
    result = run(Protocol((3, None), 2, ("centroid",), select=True), digits, path)
    expected = NearestCentroid().fit(digits["x"], digits["y"]).score(digits["xv"], digits["yv"])
    assert result["rows"][1]["mean"] == pytest.approx(expected, abs=1e-6)
    said = [line for line in caplog.messages if line.startswith("centroid: 6 of 6 cells, such as pixels, 3 images")]
    assert len(said) == 1 and "standard deviation" in said[0], "columns that do not vary, said once"


def test_too_few_images_of_a_class(digits, path):
    with pytest.raises(UsageError, match="images, fewer than the 95 asked"):
        run(Protocol((95,), 1, ("ridge",)), digits, path)


@pytest.fixture(scope="module")
def result(digits, tmp_path_factory):
    protocol = Protocol((1, None), 2, ("ridge", "nearest_mean"))
    return run(protocol, digits, tmp_path_factory.mktemp("tables") / shots.FILE)


def test_tables(result):
    made = few_shot_tables.make(result)
    assert [table.title.partition(":")[0] for table in made] == [
        "ridge",
        "nearest_mean",
        "which head is best",
        "squares",
    ]
    by_tap = made[0].rows
    assert by_tap[0] == ["tap", "1", "all"] and [row[0] for row in by_tap[1:]] == ["pixels", "squares"]
    of_ridge = [row for row in result["rows"] if row["head"] == "ridge"]
    few, every = (row for row in of_ridge if row["tap"] == "squares")
    assert by_tap[2][1:] == [f"{few['mean']:.3f} ± {few['spread']:.3f}", f"{every['mean']:.3f}"]
    assert made[3].rows[1] == ["ridge", *by_tap[2][1:]]
    of_one = [row for row in result["rows"] if (row["tap"], row["per_class"]) == ("squares", 1)]
    winner = max(of_one, key=lambda row: row["mean"])
    assert made[2].rows[2][1] == f"{winner['head']} {winner['mean']:.3f}"
    for column, shots_ in enumerate((1, None), start=1):
        means = [row["mean"] for row in of_ridge if row["per_class"] == shots_]
        assert {i - 1 for i, j in made[0].best if j == column} == {
            i for i, mean in enumerate(means) if mean == max(means)
        }


def test_the_verb_writes_tables_and_a_picture(result, tmp_path, capsys):
    results.write(epath.Path(tmp_path), {"few_shot": result})
    files = [tmp_path / f"shots{suffix}" for suffix in (".txt", ".md", ".csv", ".tex", ".svg")]
    assert main(["shots", str(tmp_path), *(f"--output={file}" for file in files)]) == 0
    shown = capsys.readouterr().out
    text, markdown, separated, latex, picture = (file.read_text() for file in files)
    assert text == shown and "ridge: validation accuracy" in text
    best = next(row for row in markdown.splitlines() if row.startswith("| squares |") or row.startswith("| pixels |"))
    assert markdown.count("**") >= 2 * 6 and "±" in best
    assert latex.count(r"\textbf{") == markdown.count("**") / 2 and "$\\pm$" in latex
    rows = list(csv.DictReader(separated.splitlines()))
    assert [float(row["mean"]) for row in rows] == [row["mean"] for row in result["rows"]]
    assert all(name in picture for name in ("images a class", "squares", "nearest_mean", "all"))


@pytest.fixture(scope="module")
def whole_classes(digits, tmp_path_factory):
    """Of seven images a class 2, 7 and all are drawn: seven are all of them, whatever the seed."""
    rows = np.sort(np.concatenate([np.flatnonzero(digits["y"] == label)[:7] for label in range(10)]))
    few = {"x": digits["x"][rows], "y": digits["y"][rows]}
    return run(Protocol((2, 7, None), 3, ("ridge",)), digits, tmp_path_factory.mktemp("w") / shots.FILE, **few)


def test_draws_of_the_same_rows_have_no_spread(whole_classes, tmp_path):
    two, seven, every = whole_classes["rows"][:3]
    assert two["spread"] > 0 and not two["same_rows"] and not every["same_rows"]
    assert seven["spread"] is None and seven["same_rows"] and len(seven["accuracies"]) == 3
    (table, *_) = few_shot_tables.make(whole_classes)
    assert table.rows[0][1:] == ["2", "7 (same rows)", "all"] and "no deviation is known" in table.title
    assert table.rows[1][2] == f"{seven['mean']:.3f}" and "±" in table.rows[1][1]
    for suffix, write in few_shot_tables.WRITERS.items():
        assert "± 0.000" not in write(whole_classes) and ("same rows" in write(whole_classes) or suffix == ".csv")
    row = list(csv.DictReader(few_shot_tables.separated(whole_classes).splitlines()))[1]
    assert (row["per_class"], row["spread"], row["same_rows"]) == ("7", "", "True")
    assert "7 (same rows)" in chart_files.document(shots_section.protocol_charts(whole_classes))
    report = reported(whole_classes)
    assert "<td>same rows</td>" in report and "nothing is known where every draw is of the same rows" in report


def reported(found):
    run_ = RunData(epath.Path("r"), "r", epath.Path("r"), "r", {}, {"few_shot": found}, [], None)
    return shots_section.section(run_).html


# What a comparison by one head was in `result.json` before it became a protocol with baselines.
EARLIER = {
    "per_class": 10,
    "seeds": 3,
    "same_rows": False,
    "rows": [
        {"features": "vgg11, block3:flatten", "size": 1024, "mean": 0.965, "spread": 0.0122, "accuracies": [0.965]},
        {"features": "raw pixels", "size": 192, "mean": 0.9014, "spread": None, "accuracies": [0.9014]},
    ],
}


def test_a_report_shows_the_comparison_of_an_earlier_version():
    html = reported(EARLIER)
    assert "The same head on the network" in html and "mean over 3 draws" in html
    assert "10 training images a class" in html and html.count('class="bar') == 2
    assert "vgg11, block3:flatten" in html and "96.50\u202f%" in html and "1.22\u202f%" in html


def test_a_report_shows_one_head_beside_the_baselines_as_bars(digits, path):
    result = run(Protocol((3,), 2, ("ridge",), baselines=True), digits, path)
    html = reported(result)
    assert "3 training images a class" in html and "mean over 2 draws" in html
    assert html.count('class="bar') == 2 and html.count('class="line') == 0
    assert 'class="line' in reported({**result, "baselines": False}), "without them it is no question of pretraining"


def test_the_verb_on_a_run_without_the_protocol(tmp_path, capsys):
    results.write(epath.Path(tmp_path), {"few_shot": EARLIER})
    assert main(["shots", str(tmp_path)]) == 1
    assert "has no finished few-shot protocol" in capsys.readouterr().err
    assert main(["shots", str(tmp_path), "--output=shots.gif"]) == 2
    assert "must end in one of .txt, .md, .csv, .tex, .svg, .png, .pdf" in capsys.readouterr().err


def config_of(**few_shot):
    config = settings.default()
    config.tap, config.image_size = "block1:avg,block3:avg", 32
    config.data.train_per_class, config.data.validation_per_class = 6, 3
    config.few_shot = few_shot
    return config


BAD = {
    "an unknown field": (dict(heads=("ridge",), per_class=1, shots=3), "has no field shots; it has per_class"),
    "an unknown head": (dict(heads=("ridge", "oracle"), per_class=1), "unknown head 'oracle'"),
    "no number": (dict(heads=("ridge",), per_class=()), "at least one seed, one number of images a class"),
    "no seed": (dict(heads=("ridge",), per_class=1, seeds=0), "at least one seed"),
    "no image": (dict(heads=("ridge",), per_class=(1, 0)), "at least one image a class, or None"),
    "a share of nothing": (dict(heads=("ridge",), per_class=1, holdout=1.5), "holdout=1.5 must lie between"),
    "another's parameter": (
        dict(heads=("ridge",), per_class=1, settings=dict(ridge=dict(n_neighbors=3))),
        "ridge takes no n_neighbors; it takes",
    ),
    "a grid of another's": (
        dict(heads=("ridge",), per_class=1, grids=dict(ridge=dict(C=(1.0, 2.0)))),
        "few_shot.grids.C: the head ridge takes no C; it takes alpha",
    ),
    "a grid of nothing": (
        dict(heads=("ridge",), per_class=1, grids=dict(ridge=dict(alpha=()))),
        "ridge needs values of alpha to choose among",
    ),
    "parameters of no head": (
        dict(heads=("ridge",), per_class=1, settings=dict(knn=dict(n_neighbors=3))),
        "settings of knn, which is none of its heads",
    ),
}


@pytest.mark.parametrize("few_shot, message", BAD.values(), ids=BAD)
def test_bad_settings_are_one_clear_line(few_shot, message):
    with pytest.raises(UsageError, match=message):
        shots.protocol_of(config_of(**few_shot))


def test_a_config_of_an_earlier_version_compares_with_the_baselines():
    assert shots.protocol_of(config_of(per_class=10, seeds=3)) == Protocol((10,), 3, ("logistic",), baselines=True)
    assert shots.protocol_of(settings.default()) is None


def test_the_protocol_of_a_config_that_leaves_all_else_open():
    protocol = shots.protocol_of(config_of(heads="ridge", per_class=[3, None]))
    assert protocol._asdict() == {
        "per_class": (3, None),
        "seeds": 1,
        "heads": ("ridge",),
        "select": False,
        "holdout": 0.2,
        "settings": {},
        "grids": {},
        "baselines": False,
    }


def test_the_baselines_are_pixels_and_random_weights(tmp_path, monkeypatch):
    made, config = [], config_of(heads=("ridge",), per_class=1)
    shapes, rows = {"block1:avg": (2,), "block3:avg": (3,)}, {}

    def extract_to_store(extractor, source, path, *how):
        made.append((extractor, path, how))
        return SimpleNamespace(taps=list(shapes), tap=lambda tap: rows.setdefault((path.name, tap), object()))

    monkeypatch.setattr(
        extract_features, "build_extractor", lambda c: SimpleNamespace(weights=c.model.weights, shapes=shapes)
    )
    monkeypatch.setattr(extract_features, "extract_to_store", extract_to_store)
    compared = extract_features.baselines(config, epath.Path(tmp_path), {"train": 60, "validation": 30})
    assert config.model.weights != "random"
    assert [(extractor.weights, str(path.relative_to(tmp_path)), how) for extractor, path, how in made] == [
        ("random", f"random_features/{split}", ("raise", split, "float32")) for split in ("train", "validation")
    ]
    pixels = compared.pop("raw pixels")
    for side, source in zip(pixels, make_splits(config.data), strict=True):
        images = np.stack([source.image(row) for row in range(len(source))])
        assert side.dtype == np.float32 and side.max() == 1
        np.testing.assert_array_equal(side, images.reshape(len(source), -1) / np.float32(255))
    assert compared == {
        f"{tap}, random weights": (rows["train", tap], rows["validation", tap]) for tap in ("block1:avg", "block3:avg")
    }
    for lacking in ({"train": 59, "validation": 30}, {"train": 60, "validation": 29}):
        with pytest.raises(UsageError, match="compares with the raw pixels of every image, and some were skipped"):
            extract_features.baselines(config, epath.Path(tmp_path), lacking)


@pytest.mark.slow
def test_taps_of_one_extraction_beside_random_weights_and_pixels(tmp_path, capsys, monkeypatch):
    config = config_of(heads=("nearest_mean",), per_class=(2, 4), seeds=2, baselines=True)
    stores, _ = experiment.extract(config, epath.Path(tmp_path))
    data = head_data.of_stores(stores, config.tap.split(","))
    protocol = shots.protocol_of(config)
    result = shots.few_shot(protocol, config, epath.Path(tmp_path), data)
    names = ["raw pixels", "block1:avg, random weights", "block3:avg, random weights", "block1:avg", "block3:avg"]
    assert list(dict.fromkeys(row["tap"] for row in result["rows"])) == names
    assert result["num_validation"] == 30 and "nearest_mean: validation accuracy" in capsys.readouterr().out

    def not_again(*_):
        raise AssertionError("the baselines are made again where every cell is there")

    monkeypatch.setattr(extract_features, "baselines", not_again)
    assert shots.few_shot(protocol, config, epath.Path(tmp_path), data) == result
