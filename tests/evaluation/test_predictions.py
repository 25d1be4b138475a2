"""Predictions of a run: what is kept of logits, and the file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from transfer.errors import RowsError, TransferError
from transfer.evaluation.predictions import ARRAYS, SMALLEST, Predictions

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((7, 6)).astype(np.float32)
LABELS = RANDOM.integers(6, size=7)
OF_KIND = {
    "classes": (LOGITS, LABELS),
    "labels": (LOGITS, LOGITS > 0.3),
    "values": (LOGITS, LOGITS + 1),
    "one value": (LOGITS[:, 0], LOGITS[:, 1]),
    "two classes": (LOGITS[:, :2], LABELS % 2),
    "one class": (LOGITS[:, :1], LABELS * 0),
}


def of_kind(name, **others):
    return Predictions.of_logits(*OF_KIND[name], kind="values" if "value" in name else
                                 "labels" if name == "labels" else "classes", **others)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda width: arrays.arrays(np.float32, (4, width), elements=st.sampled_from([-np.inf, -3, 0, 1.5, 90, -1e30]))
    )
)
def test_of_classes(logits):
    labels = np.arange(4) % logits.shape[1]
    found = Predictions.of_logits(logits, labels)
    wide = np.maximum(logits, np.finfo(np.float32).min).astype(np.float64)
    order = np.argsort(-wide, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.top, order)
    assert (found.top[:, 0] == logits.argmax(axis=1)).all()
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probability = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probability, np.take_along_axis(probability, order, 1), atol=1e-6)
    expected = -np.log(np.maximum(probability[np.arange(4), labels], SMALLEST))
    np.testing.assert_allclose(found.nll, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda width: arrays.arrays(np.float32, (6, width), elements=st.sampled_from([-np.inf, -3, 0, 1e-8, 2e-8, 90]))
    ),
    st.integers(0, 99),
)
def test_rivals_of_the_right_class(logits, seed):
    """Whatever the order of the classes; what is nearly equal beside a large score is no tie."""
    random = np.random.default_rng(seed)
    labels, order = random.integers(logits.shape[1], size=6), random.permutation(logits.shape[1])
    found = Predictions.of_logits(logits, labels)
    assert found.rivals.tolist() == [sum(row >= row[right]) - 1 for row, right in zip(logits, labels, strict=True)]
    moved = Predictions.of_logits(logits[:, order], np.argsort(order)[labels])
    np.testing.assert_array_equal(moved.rivals, found.rivals)


def test_rows_in_blocks_are_the_same(monkeypatch):
    whole = of_kind("classes")
    monkeypatch.setattr("transfer.evaluation.predictions.BLOCK", 13)
    parts = of_kind("classes")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("name", OF_KIND)
@pytest.mark.parametrize("ranked", [True, False])
def test_written_and_read(name, ranked, tmp_path):
    ids = [f"f/ü{i}.png" for i in range(7)]
    names = [f"class {i}" for i in range(of_kind(name).num_outputs)]
    found = of_kind(name, ids=ids, class_names=names, ranked=ranked, probable=ranked)
    found.write(tmp_path / "p.npz")
    again = Predictions.read(tmp_path / "p.npz")
    for array in ARRAYS:
        np.testing.assert_array_equal(getattr(again, array), getattr(found, array))
        assert getattr(again, array).dtype == getattr(found, array).dtype
    assert again.class_names == tuple(names) and list(again.ids) == ids and len(again) == 7
    assert (again.kind, again.num_outputs, again.ranked) == (found.kind, found.num_outputs, ranked)
    assert again.probable == (ranked and found.kind != "values") and [*tmp_path.iterdir()] == [tmp_path / "p.npz"]
    assert list(again.rows(np.array([3, 1])).ids) == [ids[3], ids[1]]


@pytest.mark.parametrize("name", OF_KIND)
def test_a_file_of_an_earlier_version_is_read(name, tmp_path):
    """It had no rivals: they are the places among the highest, as far as those go."""
    found = of_kind(name)
    found.write(tmp_path / "p.npz")
    arrays = dict(np.load(tmp_path / "p.npz", allow_pickle=False))
    np.savez(tmp_path / "p.npz", **{key: array for key, array in arrays.items() if key != "rivals"})
    np.testing.assert_array_equal(Predictions.read(tmp_path / "p.npz").rivals, np.minimum(found.rivals, 5))


def test_parts_are_the_whole():
    logits, labels = OF_KIND["classes"]
    parts = [
        Predictions.of_logits(logits[rows], labels[rows], list("abcdefg")[rows]) for rows in (slice(3), slice(3, 7))
    ]
    whole, joined = of_kind("classes", ids=list("abcdefg")), Predictions.concatenate(parts)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    for wrong in ([], [parts[0], parts[0]], [parts[0], of_kind("labels")]):
        with pytest.raises(RowsError):
            Predictions.concatenate(wrong)


def test_without_probabilities():
    found = of_kind("classes", probable=False)
    assert np.isnan(found.nll).all() and np.isnan(found.probability).all() and found.top.shape == (7, 5)
    assert of_kind("classes", ranked=False).top.shape == (7, 1)


def test_right():
    np.testing.assert_array_equal(of_kind("classes").right, LOGITS.argmax(axis=1) == LABELS)
    np.testing.assert_array_equal(of_kind("labels").right, ((LOGITS > 0) == (LOGITS > 0.3)).all(axis=1))


BAD = {
    "no rows": ((np.empty((0, 3)), []), {}, "shape"),
    "labels of another length": ((LOGITS, LABELS[:3]), {}, "not of the same rows"),
    "ids of another length": ((LOGITS, LABELS), {"ids": ["a"]}, "1 ids are not of the same rows"),
    "ids that repeat": ((LOGITS, LABELS), {"ids": ["a"] * 7}, "ids of rows repeat"),
    "NaN": ((LOGITS * np.nan, LABELS), {}, "NaN or infinity"),
    "infinity": ((LOGITS * 0 + np.inf, LABELS), {}, "NaN or infinity"),
    "a class too many": ((LOGITS, LABELS + 6), {}, "scores are of 6 classes"),
    "half a class": ((LOGITS, LABELS / 2 + 0.25), {}, "scores are of 6 classes"),
    "labels that are no labels": ((LOGITS, LOGITS), {"kind": "labels"}, "must be 0 or 1"),
    "another kind": ((LOGITS, LABELS), {"kind": "ranks"}, "'ranks' are not known"),
}


@pytest.mark.parametrize("arguments, others, message", BAD.values(), ids=BAD)
def test_bad_rows(arguments, others, message):
    with pytest.raises(RowsError, match=message):
        Predictions.of_logits(*arguments, **others)


@pytest.mark.parametrize(
    "how", ["truncated", "no zip", "another file", "another format", "classes", "rivals", "ids", "NaN", "objects"]
)
def test_a_damaged_file_is_one_line(how, tmp_path):
    path = tmp_path / "predictions.npz"
    of_kind("classes").write(path)
    arrays = dict(np.load(path, allow_pickle=False))
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "no zip":
        path.write_bytes(b"hello")
    elif how == "another file":
        np.savez(path, features=LOGITS)
    else:
        changed = {
            "another format": {"facts": arrays["facts"] + 1},
            "classes": {"labels": arrays["labels"] + 9},
            "ids": {"ids": arrays["ids"][:2]},
            "rivals": {"rivals": arrays["rivals"] + 6},
            "NaN": {"nll": arrays["nll"] * np.nan},
            "objects": {"nll": np.array([None] * 7)},
        }
        np.savez(path, **{**arrays, **changed[how]})
    with pytest.raises(TransferError, match=f"^{path}: "):
        Predictions.read(path)
