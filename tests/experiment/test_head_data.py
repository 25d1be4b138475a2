"""The rows that a head is trained and validated on: from files, told apart by their labels, scaled, weighted."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils.class_weight import compute_class_weight

from transfer.errors import TransferError
from transfer.experiment import head_data, train_head
from transfer.experiment.head_data import Data, Labelled
from transfer.runtime import distributed

X = np.arange(1, 13, dtype=np.float32).reshape(4, 1, 1, 3) ** 1.5


@pytest.fixture
def read(tmp_path):
    """Reads files of X with these labels to train and to validate on."""

    def read_them(train, validation, kind="classes"):
        paths = [str(tmp_path / f"{side}.npz") for side in ("train", "validation")]
        for path, labels in zip(paths, (train, validation), strict=True):
            np.savez(path, features=X[: len(labels)], labels=np.array(labels))
        return head_data.read_files(paths, kind, 7)

    return read_them


# what labels are -> of the files: what they are then, the classes and their names, how many scores a row gets
KINDS = {
    "classes": ([7, -2, 7, 9], [9, 3], ([2, 0, 2, 3], [3, 1]), [-2, 3, 7, 9], ("-2", "3", "7", "9"), 4),
    "texts": (list("bab") + ["fish"], ["a", "cat"], ([1, 0, 1, 3], [0, 2]), ["a", "b", "cat", "fish"], None, 4),
    "labels": ([[0, 1, 1]] * 4, [[1, 0, 0]] * 2, ([[0, 1, 1]] * 4, [[1, 0, 0]] * 2), [0, 1, 2], ("0", "1", "2"), 3),
    "values": ([[0.5, -1]] * 4, [[2, 3]] * 2, ([[0.5, -1]] * 4, [[2, 3]] * 2), None, (), 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_labels_of_files_mean(kind, read, capsys):
    train, validation, expected, classes, names, outputs = KINDS[kind]
    kind = "classes" if kind == "texts" else kind
    data, hashes = read(train, validation, kind)
    for side, labels in zip((data.train, data.validation), expected, strict=True):
        assert side.labels.tolist() == labels and side.ids == [str(row) for row in range(len(labels))]
        assert list(side.taps) == ["features"] and side.taps["features"].tobytes() == X[: len(labels)].tobytes()
        assert side.num_bytes == len(labels) * 3 * 4
    assert (data.kind, data.chunk_rows, data.num_outputs) == (kind, 7, outputs)
    assert (data.classes if classes is None else data.classes.tolist()) == classes
    assert data.class_names == (tuple(classes) if names is None else names)
    assert data.given(data.train).tolist() == train
    assert data.sizes() == {"num_classes": outputs, "num_train": 4, "num_validation": 2}
    assert set(hashes) == {"training", "validation"} and len(set(hashes.values())) == 2
    assert read(train, validation[:1], kind)[1]["training"] == hashes["training"]
    training, validating = capsys.readouterr().out.splitlines()[:2]
    assert training.startswith("Training file ") and training.endswith("train.npz")
    assert validating.startswith("Validation file ") and validating.endswith("validation.npz")


NUMBERS = "--training_file has labels of int64, --validation_file of <U1; make both alike"
UNLIKE = {
    "numbers and texts": ([0, 1], ["a", "b"], "classes", NUMBERS),
    "texts and numbers": (["a"], [1], "classes", "--training_file has labels of <U1, --validation_file of int64; make"),
    "labels": ([[0, 1]], [[0, 1, 0]], "labels", "--training_file has 2 labels a row, --validation_file 3"),
    "values": ([[0.5, 1]], [[0.25]], "values", "--training_file has 2 values a row, --validation_file 1"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_two_files_whose_labels_are_unlike(case, read):
    train, validation, kind, message = UNLIKE[case]
    with pytest.raises(TransferError, match=f"^{message}"):
        read(train, validation, kind)


@pytest.mark.parametrize("name", ["training", "validation"])
def test_every_process_must_have_the_rows_of_the_first(name, read, monkeypatch):
    def fail(reason, _):
        if reason:
            raise TransferError(reason)

    order = iter(("training", "validation"))
    monkeypatch.setattr(distributed, "fail_everywhere", fail)
    monkeypatch.setattr(distributed, "broadcast", lambda value, _: "another" if next(order) == name else value)
    message = f"^has --{name}_file=.*npz, whose rows are not those of process 0; give all processes the same files"
    with pytest.raises(TransferError, match=message):
        read([0, 1], [0, 1])


def of(train, validation, classes=9):
    sides = (
        Labelled({"tap": np.zeros((len(y), 2), "f4")}, np.array(y), list(map(str, y))) for y in (train, validation)
    )
    return Data(*sides, "classes", np.arange(classes), tuple(f"class {label}" for label in range(classes)))


@pytest.mark.parametrize(
    "train, validation, message",
    [
        ([0, 1], [1, 0, 1], None),
        ([0, 1, 2], [1], None),
        ([0, 1], [1, 9, -1], None),  # what is no class is for the head to refuse
        ([0, 1], [3, 1, 2, 3], "3 validation rows are of classes that no training row is of: class 2, class 3"),
        ([8], [0, 1, 2, 3, 4], f"5 validation rows are of .*: {', '.join(f'class {i}' for i in range(5))}$"),
        ([8], [5, 4, 3, 2, 1, 0], r"6 validation rows are of .*: class 0, class 1, class 2, class 3, class 4, …$"),
    ],
)
def test_classes_that_nothing_was_trained_on(train, validation, message):
    lost = of(train, validation).untrained_classes()
    assert lost is None if message is None else np.char.count([lost], "\n")[0] == 0
    if message is not None:
        with pytest.raises(TransferError, match=f"^{message}"):
            raise TransferError(lost)
    assert of(train, validation)._replace(kind="labels").untrained_classes() is None


def test_rows_are_scaled_by_those_to_train_on():
    random = np.random.default_rng(0)
    x = [random.normal(size=(rows, 2, 3)).astype(np.float32) * 4 + 1 for rows in (20, 9)]
    y = [random.integers(0, 2, len(rows)) for rows in x]
    sides = (Labelled({"tap": rows}, labels, list(map(str, labels))) for rows, labels in zip(x, y, strict=True))
    data = Data(*sides, "classes", np.arange(2), ("a", "b"))
    flat = [rows.reshape(len(rows), -1) for rows in x]
    scaler = StandardScaler().fit(flat[0])
    for name, scaled in {"standard": [scaler.transform(rows) for rows in flat], "l2": map(normalize, flat)}.items():
        for split, rows, labels in zip(train_head.scaled(name, data)[1:], scaled, y, strict=True):
            np.testing.assert_allclose(split.features, rows, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(split.labels, labels)
    scaler, *splits = train_head.scaled(None, data)
    assert scaler is None and [split.features is rows for split, rows in zip(splits, x, strict=True)] == [True, True]


def test_balanced_weights_are_scikit_learn_s():
    labels = np.array([[0], [3], [3], [3], [3], [1], [1]])  # class 2 has no row
    weights = train_head._class_weights("balanced", labels, 4)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.reshape(-1))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, np.insert(expected, 2, 0), rtol=1e-6)
    assert train_head._class_weights(None, labels, 4) is None
