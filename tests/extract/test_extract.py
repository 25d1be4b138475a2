"""The extractor computes what the model computes, whatever the batch; a store filled by it is complete or an error."""

import hashlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_model import RECIPE, TinyModel, TinySource

import transfer
from transfer.errors import TransferError, UsageError
from transfer.extract import Extractor, extract_to_store
from transfer.extract.extractor import parameters_hash, structure_hash
from transfer.extract.program import Program, must_separate
from transfer.models.registry import build, flat_state
from transfer.preprocess import recipe as preprocess
from transfer.store.store import FeatureStore

# `structure_hash` of some architectures: another one, and every store that was begun with it is begun again.
STRUCTURES = {
    "alexnet": "8134995b60c66492",
    "googlenet": "4c49649797546304",
    "lenet5": "4a2f7662e76a0904",
    "resnet18": "2e4cbd02561d26b6",
    "resnet50v2": "9876dfb2c055624a",
}


@pytest.fixture(scope="module")
def model():
    return TinyModel()


@pytest.fixture(scope="module")
def images():
    return np.stack([TinySource().image(row) for row in range(21)])


def extractor_of(model, **settings):
    return Extractor(model, **{"batch_size": 4, "preprocessing": RECIPE, **settings})


def endpoints_of(model, images, recipe=RECIPE):
    model.eval()
    return {name: np.asarray(values) for name, values in model(preprocess.apply(recipe, images))[1].items()}


TAPS = {
    "pre_logits": lambda ends: ends["pre_logits"],
    "block1": lambda ends: ends["block1"],
    "block1:avg": lambda ends: ends["block1"].mean((1, 2)),
    "block1:max": lambda ends: ends["block1"].max((1, 2)),
    "block1:flatten": lambda ends: ends["block1"].reshape(len(ends["block1"]), -1),
    "logits": lambda ends: ends["logits"],
}


@pytest.mark.slow
@pytest.mark.parametrize("tap", TAPS)
def test_taps(model, images, tap):
    features = extractor_of(model, tap=tap)(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, TAPS[tap](endpoints_of(model, images)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tap", [["block1:max", "pre_logits"], "block1:max, pre_logits"], ids=["list", "commas"])
def test_several_taps_in_one_pass(model, images, tap):
    extractor = extractor_of(model, tap=tap)
    features = extractor(images)
    assert list(features) == list(extractor.shapes) == ["block1:max", "pre_logits"]
    for name, values in features.items():
        np.testing.assert_array_equal(values, extractor_of(model, tap=name)(images))
    assert list(extractor_of(model, tap=["pre_logits"])(images)) == ["pre_logits"]


@pytest.mark.parametrize("rows", [0, 1, 4, 7, 21])
def test_any_number_of_images(model, images, rows):
    extractor = extractor_of(model)
    features = extractor(images[:rows])
    assert features.shape == (rows, 5)
    wanted = [extractor(images[row : row + 1])[0] for row in range(rows)]
    np.testing.assert_array_equal(features, np.reshape(wanted, (rows, 5)))
    assert len(extractor._programs) == (1 if rows else 0)  # the padded last batch is not a second compilation


def test_settings_override_the_record(model, images):
    class Record:
        name = "tiny.test"

    recorded = nnx.clone(model)
    recorded.record, recorded.preprocessing = Record(), RECIPE
    assert transfer.Extractor(recorded).preprocessing == RECIPE
    assert Extractor(recorded).fingerprint()["model"] == "tiny.test"
    extractor = Extractor(recorded, image_size=9, resize="float")
    assert (extractor.preprocessing.image_size, extractor.preprocessing.resize) == ((9, 9), "float")
    wanted = endpoints_of(model, images, extractor.preprocessing)["pre_logits"]
    np.testing.assert_allclose(extractor(images), wanted, rtol=1e-5, atol=1e-6)


def test_batch_norm_uses_its_running_statistics(model, images):
    training = nnx.clone(model)
    training.train()
    np.testing.assert_array_equal(extractor_of(training)(images), extractor_of(model)(images))
    assert not training.norm.use_running_average  # the caller's model stays as it was


def test_bfloat16_is_close_and_returned_as_float32(model, images):
    features = extractor_of(model, dtype="bfloat16")(images)
    wanted = extractor_of(model)(images)
    assert features.dtype == np.float32
    error = np.abs(features - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < 2e-2


def test_later_changes_of_the_model_do_not_count(images):
    model = TinyModel()
    extractor, before = extractor_of(model), extractor_of(model)
    wanted, fingerprint = before(images), before.fingerprint()
    model.conv.kernel[...] = model.conv.kernel[...] * 2
    np.testing.assert_array_equal(extractor(images), wanted)
    assert extractor.fingerprint() == fingerprint


BAD_SETTINGS = {
    "tap": (dict(tap="block9:avg"), "tap='block9': the model has no such end point; it has block1, pre_logits, logits"),
    "pooling": (dict(tap="block1:sum"), "unknown pooling; known are avg, max, flatten"),
    "twice": (dict(tap=["logits", "logits"]), "one name, or several different ones"),
    "no tap": (dict(tap=[]), "one name, or several different ones"),
    "dtype": (dict(dtype="float16"), "dtype='float16' is not one of float32, bfloat16"),
    "precision": (dict(precision="low"), "precision='low' is not one of highest, high, default"),
    "batch size": (dict(batch_size=0), "batch_size=0"),
    "resize": (dict(resize="cv2"), "cv2"),
    "no recipe": (dict(preprocessing=None), "pass preprocessing="),
}


@pytest.mark.parametrize("settings, message", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings(model, settings, message):
    with pytest.raises(UsageError, match=message):
        extractor_of(model, **settings)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)]
)
def test_bad_images(model, bad):
    with pytest.raises(UsageError, match=r"uint8 \(N, height, width, 3\), not"):
        extractor_of(model)(bad)


@pytest.mark.parametrize("shape", [(8, 10), None], ids=["one size", "mixed sizes"])
@pytest.mark.parametrize("tap", ["pre_logits", ["pre_logits", "block1"]], ids=str)
def test_a_store_holds_the_features_of_its_source(model, tmp_path, shape, tap):
    source = TinySource(shape=shape)
    extractor = extractor_of(model, tap=tap)
    store = extract_to_store(extractor, source, tmp_path / "store")
    assert store.complete and store.metadata["skipped"] == []
    assert store.ids == source.ids and store.class_names == source.class_names
    np.testing.assert_array_equal(store.labels, source.labels)
    for name in extractor.shapes:
        wanted = [_one(extractor(source.image(row)[None]), name) for row in range(len(source))]
        np.testing.assert_allclose(store.tap(name)[:], wanted, rtol=1e-5, atol=1e-6)


def _one(features, name):
    return (features[name] if isinstance(features, dict) else features)[0]


def test_features_may_take_half_the_bytes(model, tmp_path):
    stores = {
        dtype: extract_to_store(extractor_of(model), TinySource(), tmp_path / dtype, features_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert stores["bfloat16"].features.dtype.itemsize == 2
    wanted = stores["float32"].features[:].astype(stores["bfloat16"].features.dtype)
    np.testing.assert_array_equal(stores["bfloat16"].features[:], wanted)
    with pytest.raises(TransferError, match="features_dtype was 'bfloat16', now 'float32'"):
        extract_to_store(extractor_of(model), TinySource(), tmp_path / "bfloat16")


def test_a_finished_store_is_left_alone(model, tmp_path):
    extract_to_store(extractor_of(model), TinySource(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    unreadable = TinySource(broken=range(21))
    assert len(extract_to_store(extractor_of(model), unreadable, tmp_path)) == 21
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("shape", [(8, 10), None], ids=["one size", "mixed sizes"])
def test_a_broken_image_stops_or_is_skipped(model, tmp_path, shape):
    broken = TinySource(broken=(9, 10, 20), shape=shape)
    with pytest.raises(TransferError, match=r"train/0009.jpg is not an image"):
        extract_to_store(extractor_of(model), broken, tmp_path / "store")
    done = FeatureStore.open(tmp_path / "store", incomplete=True)
    assert not done.complete and done.ids == broken.ids[:4]  # the batch before the broken one was not fetched yet
    store = extract_to_store(extractor_of(model), broken, tmp_path / "store", on_error="skip")
    whole = extract_to_store(extractor_of(model), TinySource(shape=shape), tmp_path / "whole")
    kept = np.delete(np.arange(21), [9, 10, 20])
    assert store.metadata["skipped"] == ["train/0009.jpg", "train/0010.jpg", "train/0020.jpg"]
    assert store.ids == [whole.ids[row] for row in kept]
    np.testing.assert_array_equal(store.labels, whole.labels[kept])
    np.testing.assert_array_equal(store.features[:], whole.features[kept])
    with pytest.raises(TransferError, match="lacks 3 images that could not be read, the first is train/0009.jpg"):
        extract_to_store(extractor_of(model), broken, tmp_path / "store")


OTHERS = {
    "parameters": (dict(model=TinyModel(seed=1)), {}, "parameters was"),
    "structure": (dict(model=TinyModel(stride=3)), {}, "structure was"),
    "size": (dict(image_size=16), {}, "preprocessing.image_size was [12, 12], now [16, 16]"),
    "dtype": (dict(dtype="bfloat16"), {}, "dtype was 'float32', now 'bfloat16'"),
    "precision": (dict(precision="default"), {}, "precision was 'high', now 'default'"),
    "tap": (dict(tap="logits"), {}, "taps.logits was absent, now [4]"),
    "data": ({}, dict(name="other"), "data was 'tiny', now 'other'"),
    "images": ({}, dict(rows=20), "num_images was 21, now 20"),
}


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished")
    extract_to_store(extractor_of(model), TinySource(), path)
    return path


@pytest.mark.parametrize("settings, source, message", OTHERS.values(), ids=OTHERS)
def test_a_store_of_other_settings_is_never_reused(model, finished, settings, source, message):
    extractor = extractor_of(**{"model": model, **settings})
    with pytest.raises(TransferError, match="was made with other settings") as caught:
        extract_to_store(extractor, TinySource(**source), finished)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_features_that_are_not_finite_are_named(tmp_path):
    model = TinyModel()
    model.conv.bias[...] = model.conv.bias[...] + np.inf
    with pytest.raises(TransferError, match=r"tap pre_logits of train/0000.jpg is NaN or infinite"):
        extract_to_store(extractor_of(model), TinySource(), tmp_path)


def test_bad_arguments(model, tmp_path):
    with pytest.raises(UsageError, match="on_error='ignore' is not one of raise, skip"):
        extract_to_store(extractor_of(model), TinySource(), tmp_path, on_error="ignore")
    with pytest.raises(TransferError, match="tiny has no images"):
        extract_to_store(extractor_of(model), TinySource(rows=0), tmp_path)


def test_one_image_a_batch(model):
    assert extractor_of(model, batch_size=1).batch_size == 1


@pytest.mark.parametrize(
    ("platform", "dtype", "words"),
    [
        ("cpu", jnp.float32, ["highest", "highest", "default"]),
        *((platform, jnp.float32, ["highest", "highest", "default"]) for platform in ("gpu", "cuda", "rocm")),
        ("tpu", jnp.float32, ["highest", "high", "default"]),
        ("tpu", jnp.bfloat16, ["default", "default", "default"]),
    ],
)
def test_precision_as_jax_calls_it(platform, dtype, words):
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    programs = [Program(None, (), None, mesh, 1, dtype, precision) for precision in ("highest", "high", "default")]
    assert [program._matmul_precision for program in programs] == words


@pytest.mark.parametrize(
    ("platform", "devices", "processes", "separate"),
    [("tpu", 4, 2, True), ("tpu", 1, 2, False), ("tpu", 4, 1, False), ("gpu", 4, 2, False)],
)
def test_where_each_device_has_a_program_of_its_own(monkeypatch, platform, devices, processes, separate):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)] * devices), size=devices)
    assert must_separate(mesh) is separate


@pytest.mark.parametrize("arch", STRUCTURES)
def test_stores_of_earlier_versions_are_of_the_same_structure(arch):
    assert structure_hash(build(arch, seed=None)) == STRUCTURES[arch]


def test_the_hash_of_parameters_is_what_its_docstring_says():
    arrays = flat_state(build("lenet5", width=0.2))
    text = [f"{k} float32 {arrays[k].shape}\n".encode() + np.asarray(arrays[k]).tobytes() for k in sorted(arrays)]
    assert parameters_hash(build("lenet5", width=0.2)) == hashlib.sha256(b"".join(text)).hexdigest()


def test_hashes_follow_what_is_computed():
    model = TinyModel()
    assert parameters_hash(model) == parameters_hash(TinyModel()) != parameters_hash(TinyModel(seed=1))
    assert structure_hash(model) == structure_hash(TinyModel(seed=1)) != structure_hash(TinyModel(stride=3))
    before = parameters_hash(model)
    model.norm.mean[...] = model.norm.mean[...] + 1
    assert parameters_hash(model) != before  # batch statistics are parameters too
    model.weights_sha256 = "0" * 64
    assert structure_hash(model) == structure_hash(TinyModel())
