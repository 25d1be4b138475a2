"""Predictions of a run: what is kept of logits, and the file."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import logsumexp

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
    "classes that a head does not know": (np.where(np.arange(6) < 4, LOGITS, -np.inf), LABELS % 4),
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
    below = wide - wide.max(axis=1, keepdims=True)
    expected = logsumexp(below, axis=1) - below[np.arange(4), labels]
    expected = np.where(expected < 1e38, expected, -np.log(SMALLEST))  # of what is impossible
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
    unlike = [{"num_outputs": 7}, {"ranked": False}, {"probable": False}, {"kind": "labels"}]
    for wrong in ([], *([parts[0], dataclasses.replace(parts[1], **other)] for other in unlike)):
        with pytest.raises(RowsError, match="parts of predictions are of one kind and as many outputs, and there is"):
            Predictions.concatenate(wrong)
    with pytest.raises(RowsError, match="ids of rows repeat; each row of predictions needs its own"):
        Predictions.concatenate([parts[0], parts[0]])


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
    "a class too many": ((LOGITS, [0, 1, 2, 3, 4, 5, 6]), {}, "labels run from 0 to 6, but scores are of 6 classes"),
    "a class below 0": ((LOGITS, [0, 1, 2, 3, 4, 5, -1]), {}, "labels run from -1 to 5, but scores are of 6 classes"),
    "half a class": ((LOGITS, LABELS / 2 + 0.25), {}, "scores are of 6 classes"),
    "labels that are no labels": ((LOGITS, LOGITS), {"kind": "labels"}, "must be 0 or 1"),
    "another kind": ((LOGITS, LABELS), {"kind": "ranks"}, "'ranks' are not known"),
}


@pytest.mark.parametrize("arguments, others, message", BAD.values(), ids=BAD)
def test_bad_rows(arguments, others, message):
    with pytest.raises(RowsError, match=message):
        Predictions.of_logits(*arguments, **others)


def written(path, name="classes"):
    """The arrays of a file of predictions."""
    of_kind(name, class_names=[f"class {i}" for i in range(6)]).write(path)
    return dict(np.load(path, allow_pickle=False))


def put(array, value, place=0):
    changed = array.astype(np.result_type(array, type(value)) if isinstance(value, float) else array.dtype)
    changed.flat[place] = value
    return changed


# How an array of a file is changed -> what is said of it.
DAMAGED = {
    "another format": ("facts", lambda a: a + 1, "predictions of another format than 1; a newer version wrote them"),
    "fewer facts": ("facts", lambda a: a[:3], "predictions of another format than 1"),
    "facts of fractions": ("facts", lambda a: a * 1.0, "predictions of another format than 1"),
    "another kind": ("kind", lambda a: np.asarray(b"ranks"), "its arrays are not predictions of rows; it is damaged"),
    "a kind of several": ("kind", lambda a: np.asarray([b"a", b"b"]), "its names are not text; it is damaged"),
    "a class too many": ("labels", lambda a: put(a, 6), "its classes are not below 6; it is damaged"),
    "a class below 0": ("top", lambda a: put(a, -1), "its classes are not below 6; it is damaged"),
    "classes of fractions": ("labels", lambda a: a * 1.0, "its classes are not below 6; it is damaged"),
    "too many rivals": ("rivals", lambda a: put(a, 6), "its classes are not below 6; it is damaged"),
    "fewer ids": ("ids", lambda a: a[:2], r"labels has shape \(7,\), not \(2,\); it is damaged"),
    "ids that repeat": ("ids", lambda a: a[[0, 0, *range(2, 7)]], "its arrays are not predictions of rows"),
    "no ids": ("ids", lambda a: a[:0], "its arrays are not predictions of rows; it is damaged"),
    "ids in a column": ("ids", lambda a: a[:, None], "its arrays are not predictions of rows; it is damaged"),
    "fewer places": ("top", lambda a: a[:, :4], r"top has shape \(7, 4\), not \(7, 5\); it is damaged"),
    "scores of classes": ("scores", lambda a: LOGITS, r"scores has shape \(7, 6\), not \(7, 0\); it is damaged"),
    "NaN": ("nll", lambda a: put(a, np.nan), "its numbers are not those of predictions; it is damaged"),
    "a share below 0": ("probability", lambda a: put(a, -0.1, 3), "its numbers are not those of predictions"),
    "a share above 1": ("probability", lambda a: put(a, 1.1, 3), "its numbers are not those of predictions"),
    "a share that is none": ("probability", lambda a: put(a, np.nan, 3), "its numbers are not those of predictions"),
    "fewer names": ("class_names", lambda a: a[:5], "it names 5 of 6 classes; it is damaged"),
    "objects": ("nll", lambda a: np.array([None] * 7), "nll"),
}


@pytest.mark.parametrize("array, change, message", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_array_is_one_line(array, change, message, tmp_path):
    path = tmp_path / "predictions.npz"
    arrays = written(path)
    np.savez(path, **arrays | {array: change(arrays[array])})
    with pytest.raises(TransferError, match=f"^{path}: .*{message}"):
        Predictions.read(path)


@pytest.mark.parametrize("kind", ["labels", "values"])
@pytest.mark.parametrize("array, value", [("scores", -np.inf), ("scores", np.inf), ("labels", np.nan)])
def test_damaged_labels_and_values_are_one_line(kind, array, value, tmp_path):
    path = tmp_path / "predictions.npz"
    arrays = written(path, kind)
    np.savez(path, **arrays | {array: put(arrays[array], value)})
    if kind == "labels" and value == -np.inf:  # of a label that the head does not know
        assert Predictions.read(path).scores[0, 0] == value
        return
    with pytest.raises(TransferError, match=f"^{path}: its numbers are not those of predictions; it is damaged$"):
        Predictions.read(path)


@pytest.mark.parametrize("content", [None, b"hello"], ids=["truncated", "no zip"])
def test_what_is_no_file_of_predictions_is_one_line(content, tmp_path):
    path = tmp_path / "predictions.npz"
    written(path)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(TransferError, match=f"^{path}: "):
        Predictions.read(path)
    np.savez(path, features=LOGITS)
    missing = "class_names, facts, ids, kind, labels, nll, probability, scores, top missing"
    with pytest.raises(TransferError, match=f"^{path}: no predictions of a run: {missing}$"):
        Predictions.read(path)
