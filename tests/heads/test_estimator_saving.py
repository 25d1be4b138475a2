"""A saved head is the head: the same predictions, bit for bit, and no file that is not one is believed."""

import json

import numpy as np
import pytest
from etils import epath
from safetensors import safe_open
from sklearn.datasets import load_digits

from tests.heads.every_head import CLASSES, quick
from transfer import heads
from transfer.errors import TransferError, UsageError
from transfer.heads.estimator import Probe, Regressor
from transfer.runtime.files import digest

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DIGITS, LABELS = load_digits(return_X_y=True)
X, XV = DIGITS[:200].astype(np.float32), DIGITS[200:300].astype(np.float32)
YS = {
    "numbers": LABELS[:200],
    "text": np.array([f"class {label}" for label in LABELS[:200]]),
    "objects": np.array([f"class {label}" for label in LABELS[:200]], object),
    "several": np.stack([LABELS[:200] % 2, LABELS[:200] > 4], axis=1),
}


def fitted(name, y, **parameters):
    return quick(name, epochs=2, max_iter=5, **parameters).fit(X, y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* have not converged")  # heads that are fitted for a moment
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("y, scaling", [("objects", "whiten"), ("several", None)])
def test_what_is_loaded_predicts_the_same(tmp_path, name, y, scaling):
    if issubclass(CLASSES[name], Regressor) and y == "objects":
        y = "numbers"
    head = fitted(name, YS[y], scaling=scaling)
    head.save(tmp_path / "head.safetensors")
    found = heads.load(tmp_path / "head.safetensors")
    assert type(found) is type(head) and found.get_params() == head.get_params()
    assert list(vars(found)) == list(vars(head))
    np.testing.assert_array_equal(found.logits(XV), head.logits(XV))
    predicted = head.predict(XV)
    np.testing.assert_array_equal(found.predict(XV), predicted)
    assert found.predict(XV).dtype == predicted.dtype
    found.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "head.safetensors").read_bytes()


@pytest.mark.parametrize("y", YS)
def test_classes_of_any_kind_and_weights_of_theirs(tmp_path, y):
    weights = None if y == "several" else dict(zip(np.unique(YS[y]).tolist(), range(1, 11), strict=True))
    head = fitted("RidgeProbe", YS[y], class_weight=weights)
    head.save(epath.Path(tmp_path / "head.safetensors"))
    found = heads.load(str(tmp_path / "head.safetensors"))
    assert found.class_weight == weights and found.classes_.dtype == head.classes_.dtype
    np.testing.assert_array_equal(found.classes_, head.classes_)


def test_only_a_fitted_head_of_the_registry_is_saved(tmp_path):
    class Mine(Probe):
        """No file of transfer/heads."""

    for head, name, message in (
        (heads.RidgeProbe(), "head.safetensors", "not fitted yet"),
        (Mine(), "head.safetensors", "not of a file NAME_probe.py in transfer/heads"),
        (fitted("RidgeProbe", LABELS[:200]), "head.npz", "ends in .safetensors"),
    ):
        with pytest.raises(UsageError, match=message):
            head.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    fitted("RidgeProbe", LABELS[:200]).save(path)
    return path


def test_damage_is_an_error(saved, tmp_path):
    content = saved.read_bytes()
    for name, damaged in {
        "cut": content[:-5],
        "empty": b"",
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "text": b"not a head at all, and long enough to be one",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(TransferError, match=f"{name}: .*damaged") as caught:
            heads.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(TransferError, match="none.safetensors: cannot be read"):
        heads.load(tmp_path / "none.safetensors")


CHANGES = {
    "no head": (lambda head: None, "no file of a head"),
    "unknown": (lambda head: head | {"name": "os"}, "of a head that is not here: os, RidgeProbe"),
    "another class": (lambda head: head | {"class": "Head"}, "of a head that is not here: ridge, Head"),
    "parameters": (lambda head: head | {"parameters": {"dict": [[{"value": "k"}, {"value": 1}]]}}, "cannot be made"),
    "method": (
        lambda head: head | {"fitted": {"dict": [[{"value": "fit"}, {"value": 1}]]}},
        "fit is nothing that a fit",
    ),
    "hidden": (
        lambda head: head | {"fitted": {"dict": [[{"value": "__class__"}, {"value": 1}]]}},
        "nothing that a fit",
    ),
    "tensor": (lambda head: head | {"fitted": {"tensor": "none"}}, "cannot be made"),
    "kind": (lambda head: head | {"fitted": {"pickle": "none"}}, "cannot be made"),
    "shape": (
        lambda head: head | {"fitted": {"text": ["a"], "dtype": "<U1", "shape": [99999999]}},
        "an array of text is not as it says",
    ),
    "long text": (
        lambda head: head | {"fitted": {"text": ["a" * 10000] + ["b"] * 9999, "dtype": "<U1", "shape": [10000]}},
        "an array of text would take",
    ),
    "nothing": (lambda head: {}, "cannot be made"),
}


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_file_says_is_not_believed(saved, tmp_path, change, message):
    with safe_open(saved, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = change(json.loads(file.metadata()["head"]))
    path = tmp_path / "head.safetensors"
    path.write_bytes(b"".join(digest.safetensors(tensors, {} if head is None else {"head": json.dumps(head)})))
    with pytest.raises(TransferError, match=message) as caught:
        heads.load(path)
    assert "\n" not in str(caught.value)
