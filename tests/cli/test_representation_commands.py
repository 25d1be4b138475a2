"""`python -m transfer similarity` and `transferability`, as a person runs them, on stores of two runs."""

import csv

import numpy as np
import pytest
from scipy.special import softmax

from transfer.__main__ import main
from transfer.evaluation.similarity import cka_matrix, linear_cka
from transfer.evaluation.transferability import leep, logme
from transfer.store.store import FeatureStore
from transfer.store.writer import StoreWriter

ROWS, TAPS = 30, {"block1": (2, 2, 3), "pre_logits": (50,), "logits": (5,)}


def written(path, rows, seed=0, dtype="float32", ids="image"):
    """A store of some rows of one source, in that order."""
    features = {tap: np.random.default_rng(seed).standard_normal((ROWS, *shape)) for tap, shape in TAPS.items()}
    source = dict(labels=rows % 3, ids=[f"{ids} {row}" for row in rows], class_names=("a", "b", "c"), data="digits")
    known = dict(fingerprint={"seed": seed}, batch_size=8, features_dtype=dtype)
    with StoreWriter(path, taps=TAPS, **source, **known) as store:
        for start in range(0, len(rows), 8):
            store.write(start, {tap: values[rows[start : start + 8]] for tap, values in features.items()})
        store.finish()
    return FeatureStore.open(path)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    shuffled = np.random.default_rng(3).permutation(ROWS)[:25]
    return {
        "one": written(folder / "one", np.arange(ROWS)),
        "other": written(folder / "other", np.arange(ROWS), seed=1, dtype="bfloat16"),
        "part": written(folder / "part", shuffled),
        "turned": written(folder / "turned", np.arange(ROWS)[::-1]),
    }


@pytest.fixture
def verb(capsys, stores):
    """Runs a verb on stores by their names; (exit code, lines of stdout, stderr)."""

    def run(name, *arguments):
        capsys.readouterr()
        code = main([name, *(stores[a].path if a in stores else str(a) for a in arguments)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def test_taps_of_one_store_with_each_other(stores, verb, tmp_path):
    code, lines, _ = verb("similarity", "one", "--output", tmp_path / "cka.csv")
    expected = cka_matrix({tap: stores["one"].tap(tap) for tap in TAPS})
    assert code == 0 and lines[0] == f"linear CKA over {ROWS} rows"
    assert lines[1].split() == list(TAPS)
    assert lines[3].split() == ["pre_logits", *(f"{value:.4f}" for value in expected[1])]
    heading, *rows = csv.reader((tmp_path / "cka.csv").open())
    assert heading == ["", *TAPS]
    np.testing.assert_array_equal([[float(value) for value in row[1:]] for row in rows], expected)


def test_taps_of_two_stores_of_the_same_images(stores, verb):
    code, lines, _ = verb("similarity", "one", "other", "--tap=block1,logits", "--debiased")
    value = linear_cka(stores["one"].tap("block1"), stores["other"].tap("logits"), debiased=True)
    assert code == 0 and lines[0].startswith("debiased linear CKA")
    assert lines[2].split() == ["block1", lines[2].split()[1], f"{value:.4f}"]


def test_rows_are_aligned_by_id(stores, verb, caplog):
    code, lines, _ = verb("similarity", "part", "one")
    assert code == 0 and lines[0] == "linear CKA over 25 rows" and "25 of 30 rows are in both" in caplog.text
    assert [line.split()[1 + i] for i, line in enumerate(lines[2:])] == ["1.0000"] * 3, "the same features"


def test_all_rows_in_another_order_are_nothing_to_warn_of(stores, verb, caplog):
    code, lines, _ = verb("similarity", "turned", "one", "--rows=30")
    assert code == 0 and lines[0] == "linear CKA over 30 rows" and "in both" not in caplog.text
    assert [line.split()[1 + i] for i, line in enumerate(lines[2:])] == ["1.0000"] * 3, "the same features"
    assert verb("similarity", "turned", "one", "--rows=31")[1] == lines == verb("similarity", "turned", "one")[1]


def test_a_seeded_part_of_the_rows(stores, verb):
    code, lines, _ = verb("similarity", "one", "other", "--rows=12", "--seed=4")
    assert code == 0 and lines[0] == "linear CKA over 12 rows"
    assert verb("similarity", "one", "other", "--rows=12", "--seed=5")[1][2] != lines[2]


def test_scores_of_taps(stores, verb, tmp_path):
    code, lines, _ = verb("transferability", "one", "other", f"--output={tmp_path / 'scores.csv'}")
    one, other = stores["one"], stores["other"]
    assert code == 0 and len(lines) == 7
    assert lines[1].split() == [one.path, "block1", "12", "30", f"{logme(one.tap('block1'), one.labels):.4f}"]
    expected = [
        logme(other.tap("logits"), other.labels),
        leep(softmax(np.asarray(other.tap("logits")[:], np.float64), axis=1), other.labels),
    ]
    assert lines[6].split()[-2:] == [f"{value:.4f}" for value in expected]
    last = list(csv.reader((tmp_path / "scores.csv").open()))[-1]
    assert [float(value) for value in last[-2:]] == expected


BAD = {
    "three stores": (["similarity", "one", "one", "one"], 2, "compares one or two stores, not 3"),
    "no such tap": (["similarity", "one", "--tap=fc2"], 1, "has no tap 'fc2'; it has block1, pre_logits, logits"),
    "no store": (["transferability", "nowhere"], 1, "no feature store at nowhere"),
    "no rows": (["transferability", "one", "--rows=0"], 2, "--rows=0 must be at least 1"),
    "another suffix": (["similarity", "one", "--output=cka.png"], 2, "must end in .csv"),
}


@pytest.mark.parametrize("arguments, code, message", BAD.values(), ids=BAD)
def test_bad_arguments(verb, arguments, code, message):
    found = verb(*arguments)
    assert found[0] == code and message in found[2]


def test_stores_of_other_images(verb, tmp_path):
    stranger = written(tmp_path / "stranger", np.arange(8), ids="photograph")
    code, _, err = verb("similarity", "one", stranger.path)
    assert code == 1 and "have no id in common: not the same images" in err
