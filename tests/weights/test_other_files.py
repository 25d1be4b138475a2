"""Files that are right but unusual: without classifier, with an unusable one, in the names of a sister library."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from golden import reading
from keras_notop import keras_notop
from support.filled import from_tensors

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import cache, catalogue, create_model, native
from transfer.weights.asked import Asked
from transfer.weights.catalogue import WeightFile

KERAS = catalogue.names("*.keras")
WIDTH = 1 / 16


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS)
def test_num_classes_0_takes_keras_smaller_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = catalogue.get(name)
    assert record.notop is not None
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    path = cache.local_path(record.notop)
    arrays = keras_notop(path, record.arch, {**dict(record.fields), "width": WIDTH})
    own = dataclasses.replace(record.notop, md5=cache.digests(path)["md5"], url="http://127.0.0.1:9/nowhere")
    monkeypatch.setattr(catalogue, "records", lambda: {name: dataclasses.replace(record, notop=own)})

    assert cache.fetch(catalogue.get(name), notop=True) == (path, cache.digests(path)["sha256"])
    model = create_model(name, num_classes=0, width=WIDTH)
    loaded = registry.flat_state(model)
    assert loaded.keys() == arrays.keys() and not any(p.startswith("logits") for p in loaded)
    for p, array in loaded.items():
        np.testing.assert_array_equal(array, arrays[p], err_msg=p)


def vgg_file(path: Path, value: float) -> dict[str, np.ndarray]:
    """A small VGG16 in torchvision's names whose classifier holds `value` only."""
    case = reading.cases()["vgg16"]
    tensors = case.state_dict()
    tensors = {n: np.full_like(t, value) if n.startswith("classifier.") else t for n, t in tensors.items()}
    native.write(path, tensors)
    return tensors


HIDDEN = {"hidden": (48, 40)}


def test_the_features_of_vgg16_come_without_their_unusable_classifier(tmp_path: Path) -> None:
    tensors = vgg_file(tmp_path / "x.safetensors", np.nan)
    model = create_model("vgg16.tv_features", weights=tmp_path / "x.safetensors", **HIDDEN)
    arrays = registry.flat_state(model)
    assert len(arrays) == 26 and "logits.bias" not in arrays
    np.testing.assert_array_equal(arrays["block1.conv1.bias"], tensors["features.0.bias"])
    assert len(registry.flat_state(create_model("vgg16.tv_features", weights=False))) == 26


def test_a_new_classifier_takes_nothing_of_the_unusable_one(tmp_path: Path) -> None:
    vgg_file(tmp_path / "x.safetensors", np.nan)
    model = create_model("vgg16.tv_features", weights=tmp_path / "x.safetensors", num_classes=5, **HIDDEN)
    arrays = registry.flat_state(model)
    assert arrays["logits.bias"].shape == (5,) and all(np.isfinite(array).all() for array in arrays.values())
    assert set(model.renewed) == {p for p in arrays if p.startswith(("fc1", "fc2", "logits"))}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_in_a_file_is_refused(tmp_path: Path, value: float) -> None:
    vgg_file(tmp_path / "x.safetensors", value)
    with pytest.raises(TransferError) as error:
        create_model("vgg16", weights=tmp_path / "x.safetensors", **HIDDEN)
    assert str(error.value) == (
        f"{tmp_path / 'x.safetensors'} cannot be used for vgg16: there is NaN or infinity in 6 of its tensors "
        "(classifier.0.bias, classifier.0.weight, classifier.3.bias, …); num_classes=0 leaves the classifier out"
    )
    assert len(registry.flat_state(create_model("vgg16", weights=tmp_path / "x.safetensors", num_classes=0))) == 26


def test_one_nan_anywhere_is_named() -> None:
    tensors = dict(reading.cases()["resnet18_slim"].state_dict())
    for dtype in (np.float32, np.float16, np.float64):
        broken = tensors["layer3.1.bn2.running_var"].astype(dtype)
        broken[7] = np.nan
        with pytest.raises(TransferError, match=r"NaN or infinity in 1 of its tensors \(layer3.1.bn2.running_var\)$"):
            from_tensors("resnet18", {**tensors, "layer3.1.bn2.running_var": broken}, width=WIDTH)
    # what is not loaded does not count
    from_tensors("resnet18", {**tensors, "bn1.num_batches_tracked": np.array(np.nan)}, width=WIDTH)


@pytest.mark.parametrize(("name", "case"), [("vgg16.tv_in1k", "vgg16"), ("vgg16.tv", "vgg16 timm")])
def test_torchvision_and_timm_read_each_others_files(name: str, case: str, tmp_path: Path) -> None:
    golden = reading.cases()[case]
    native.write(tmp_path / "model.safetensors", golden.state_dict())
    ours = registry.flat_state(create_model(name, weights=tmp_path / "model.safetensors", **HIDDEN))
    expected = registry.flat_state(golden.model())
    assert ours.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(ours[path], array, err_msg=path)


def test_keras_files_are_not_taken_for_torchvisions() -> None:
    assert not {"torchvision", "timm", "transformers"} & set(create_libraries("resnet50.keras"))
    assert create_libraries("resnet50.tv1") == ["torchvision", "timm", "transformers", "native"]
    assert create_libraries("resnet50.a1") == ["timm", "torchvision", "transformers", "native"]
    assert create_libraries("alexnet.tv") == ["torchvision", "native"]


def create_libraries(name: str) -> list[str]:
    record = catalogue.get(name)
    return list(Asked(name, record.arch, record).libraries)


def test_a_record_without_a_hash_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    record = dataclasses.replace(catalogue.get("resnet18.tv"), file=WeightFile("x.pth", "http://127.0.0.1:9/x.pth"))
    (tmp_path / "x.pth").write_bytes(b"anything")
    assert cache.fetch(record)[0] == tmp_path / "x.pth"
