"""Files of ours carry a SHA-256: a flipped bit is an error; they stay what other programs read, and so do theirs."""

import hashlib
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from transfer.errors import TransferError
from transfer.runtime.files import digest
from transfer.store import feature_files
from transfer.weights import create_model, native, readers

FEATURES = np.random.default_rng(0).normal(size=(40, 1, 1, 6)).astype(np.float32)
LABELS = np.arange(40) % 7
ARRAYS = {"a.kernel": FEATURES[0], "a.bias": np.zeros(0, np.float32), "count": np.int64(3)}


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_a_pickle_is_what_pickle_reads(tmp_path):
    feature_files.write(tmp_path / "a.p", FEATURES, LABELS)
    with (tmp_path / "a.p").open("rb") as stream:
        content = pickle.load(stream)
        end = stream.tell()
        seal = pickle.load(stream)
        assert not stream.read()
    assert content.keys() == {"features", "labels"} and np.array_equal(content["features"], FEATURES)
    assert seal == f"{digest.KEY} {hashlib.sha256((tmp_path / 'a.p').read_bytes()[:end]).hexdigest()}"


@pytest.mark.parametrize("suffix", [".p", ".safetensors", ".npz"])
def test_a_changed_feature_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    feature_files.write(path, FEATURES, LABELS)
    place = path.read_bytes().index(FEATURES[20].tobytes())
    flip(path, place)
    with pytest.raises(TransferError, match=f"a{suffix}.* damaged"):
        feature_files.read(path)
    flip(path, place)
    assert np.array_equal(feature_files.read(path)[0], FEATURES)


def test_a_changed_weight_or_setting_is_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    native.write(path, ARRAYS, {"arch": "small", "fields": "{}"})
    assert load_file(path).keys() == readers.read(path).keys() == ARRAYS.keys()
    for text in (FEATURES[0].tobytes(), b"small", b"fields", b"count"):
        flip(path, path.read_bytes().index(text))
        with pytest.raises(TransferError, match="a.safetensors.*damaged"):
            readers.read(path)
        native.write(path, ARRAYS, {"arch": "small", "fields": "{}"})


def test_the_same_contents_are_the_same_bytes(tmp_path):
    described = {name: name * 3 for name in "abcdefgh"}
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in files:
        native.write(path, ARRAYS, described)
    assert len({path.read_bytes() for path in files}) == 1
    with safe_open(files[0], "numpy") as file:
        assert file.metadata().items() > described.items()


def test_files_of_others_are_read_as_they_are(tmp_path):
    save_file({"x": FEATURES}, tmp_path / "plain.safetensors", metadata={"format": "pt", "sha256": "of something else"})
    assert np.array_equal(readers.read(tmp_path / "plain.safetensors")["x"], FEATURES)
    (tmp_path / "two.p").write_bytes(pickle.dumps({"features": FEATURES, "labels": LABELS}) + pickle.dumps("more"))
    assert np.array_equal(feature_files.read(tmp_path / "two.p")[1], LABELS)


def test_a_checksum_beside_a_weight_file(tmp_path):
    model = create_model("lenet5", weights=False)
    from transfer.models import registry

    path = tmp_path / "lenet5.safetensors"
    native.write(path, registry.flat_state(model))
    beside = tmp_path / "lenet5.safetensors.sha256"
    beside.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  lenet5.safetensors\n")
    create_model("lenet5", weights=path)
    beside.write_text("0" * 64 + "  lenet5.safetensors\n")
    with pytest.raises(
        TransferError, match="lenet5.safetensors: damaged, or another file: .*lenet5.safetensors.sha256"
    ):
        create_model("lenet5", weights=path)
