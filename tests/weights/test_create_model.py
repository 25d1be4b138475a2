"""`create_model` from the files of every source, and from no file at all."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from golden import reading

import transfer
from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.weights import cache, catalogue, create_model, native
from transfer.weights.create import convert_file

SLIM = reading.HERE / "resnet18_slim.pth"
WIDTH = 1 / 16


def arrays_of(model: object) -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in registry.flat_state(model).items()}  # type: ignore[arg-type]


def shapes_of(model: object, side: int = 32) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Shapes of the output and the end points for one image, without computing them."""
    output, endpoints = jax.eval_shape(model, jax.ShapeDtypeStruct((1, side, side, 3), np.float32))  # type: ignore[arg-type]
    return output.shape, {tap: value.shape for tap, value in endpoints.items()}


def assert_same(a: object, b: object) -> None:
    left, right = arrays_of(a), arrays_of(b)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


@pytest.mark.slow
def test_a_real_pth_gives_torchvisions_outputs() -> None:
    model = create_model("resnet18", weights=SLIM, width=WIDTH)
    errors = reading.cases()["resnet18_slim"].errors(functools.partial(nnx.jit(lambda m, x: m(x)), model))
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("file", ["resnet18_slim.pth", "resnet18_slim_stream.pth"])
@pytest.mark.parametrize("name", ["resnet18", "resnet18.tv", "resnet18.a1", "resnet18.tv_in1k"])
def test_both_pth_formats_give_the_same_model_by_any_name(name: str, file: str) -> None:
    bare = create_model("resnet18", weights=SLIM, width=WIDTH)
    assert_same(create_model(name, weights=reading.HERE / file, width=WIDTH), bare)


def test_the_model_knows_its_record_and_its_file() -> None:
    model = create_model("resnet18.tv", weights=str(SLIM), width=WIDTH)
    assert model.record == catalogue.get("resnet18.tv")
    assert model.weights_sha256 == cache.digests(SLIM)["sha256"]
    bare = create_model("resnet18", weights=SLIM, width=WIDTH)
    assert bare.record is None and bare.weights_sha256 == model.weights_sha256


def test_the_number_of_classes_is_the_files() -> None:
    output, endpoints = shapes_of(create_model("resnet18.tv", weights=SLIM, width=WIDTH))
    assert output == (1, 10) and endpoints["logits"] == (1, 10)


def test_num_classes_0_drops_the_classifier() -> None:
    model = create_model("resnet18.tv", weights=SLIM, num_classes=0, width=WIDTH)
    output, endpoints = shapes_of(model)
    assert "logits" not in endpoints and output == (1, 32)


def test_another_number_of_classes_renews_the_last_layer_alone(caplog: pytest.LogCaptureFixture) -> None:
    whole = arrays_of(create_model("resnet18", weights=SLIM, width=WIDTH))
    with caplog.at_level("INFO", logger="absl"):
        first, same, other = (
            arrays_of(create_model("resnet18", weights=SLIM, width=WIDTH, num_classes=3, seed=seed))
            for seed in (0, 0, 1)
        )
    line = "a new classifier for 3 classes instead of 10, which starts with random weights (logits.bias, logits.kernel)"
    assert line in caplog.text
    assert first["logits.kernel"].shape == (32, 3)
    np.testing.assert_array_equal(first["logits.kernel"], same["logits.kernel"])
    assert not np.array_equal(first["logits.kernel"], other["logits.kernel"])
    assert all(np.array_equal(first[path], whole[path]) for path in whole if not path.startswith("logits."))


def test_a_keras_file_without_classifier(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="absl"):
        model = create_model("vgg16.keras", weights=shared_data / "vgg16_keras_notop.h5")
    assert "has no classifier" in caplog.text and model.record.name == "vgg16.keras"
    output, endpoints = shapes_of(model)
    assert output == (1, 512) and "logits" not in endpoints
    renewed = create_model(
        "vgg16.keras", weights=shared_data / "vgg16_keras_notop.h5", num_classes=5, hidden=(8,), adaptive_pool=True
    )
    assert shapes_of(renewed)[0] == (1, 5)


def test_converted_files_are_read_back_exactly(tmp_path: Path) -> None:
    converted = tmp_path / "slim.safetensors"
    model = create_model("resnet18", weights=SLIM, width=WIDTH)
    native.write(converted, registry.flat_state(model), native.describe("resnet18", {"width": WIDTH}))
    assert_same(create_model("resnet18", weights=converted), model)  # the fields come from the file
    assert_same(create_model("resnet18.tv", weights=converted, width=WIDTH), model)
    again = tmp_path / "again.safetensors"
    assert convert_file(converted, "resnet18", again) == len(arrays_of(model))
    assert_same(create_model("resnet18", weights=again), model)


def test_random_weights_follow_the_seed() -> None:
    fields = {"width": WIDTH, "num_classes": 4}
    a, b, c = (create_model("resnet18.tv", weights=False, seed=seed, **fields) for seed in (1, 1, 2))
    assert_same(a, b)
    assert not np.array_equal(arrays_of(a)["logits.kernel"], arrays_of(c)["logits.kernel"])
    assert a.record.name == "resnet18.tv" and a.weights_sha256 is None
    assert create_model("resnet18", weights=False, width=WIDTH).record is None


def test_list_models_takes_wildcards() -> None:
    expected = ["vgg16.keras", "vgg16.tv", "vgg16.tv_features", "vgg16.tv_in1k", "vgg16_bn.tv", "vgg16_bn.tv_in1k"]
    assert transfer.list_models("vgg16*") == expected
    assert "vgg11_slim.cifar10" in transfer.list_models()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg15.keras", {}, "unknown model 'vgg15.keras'; did you mean vgg1.\\.keras"),
        ("resnet50.tv", {}, "did you mean resnet50.tv"),
        ("zzz", {}, "see `python -m transfer models`"),
        ("vgg16", {}, "has no weights of its own; choose vgg16.keras, vgg16.tv"),
        ("VGG16", {}, r"'VGG16'; did you mean vgg16\.keras, vgg16\.tv, vgg16\.tv_in1k or vgg16\.tv_features\?"),
        ("ResNet-50", {}, r"did you mean resnet50\.a1_in1k, resnet50\.keras, resnet50\.tv1, "),
        ("Inception_V3", {}, r"did you mean inception_v3\.keras, "),
        ("VGG16.keras", {}, r"did you mean vgg16\.keras\?"),
        ("LeNet-5", {}, r"did you mean lenet5\?"),
        ("vgg61", {}, r"did you mean .*vgg16\.keras"),
        ("resnet50", {}, r"\(resnet50\.a1_in1k is right on the most images of ImageNet-1k, 81\.214 %\), or take"),
        ("lenet5", {}, "has no weights of its own; take a weight file or random weights, --config.model.weights=FILE"),
        ("resnet18", {"weights": False, "depth": 3}, "resnet18 has no field"),
    ],
)
def test_wrong_names(name: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(name, **options)


@pytest.mark.parametrize("name", sorted({record.arch for record in catalogue.records().values()}))
def test_an_architecture_however_it_is_spelt_names_its_records(name: str) -> None:
    first = catalogue.names(f"{name}.*")[0]
    for spelt in (name.upper(), name.replace("_", "-"), name.title().replace("_", "")):
        for look_up in (create_model, catalogue.get):
            with pytest.raises(UsageError, match=rf"(choose|did you mean) {re.escape(first)}(,|\?| |$)"):
                look_up(spelt)


def test_a_file_that_fits_its_architecture_but_for_sizes_is_compared_with_it() -> None:
    with pytest.raises(TransferError, match=r"_slim.pth does not fit resnet18\.tv by torchvision names: \d+ misshapen"):
        create_model("resnet18.tv", weights=SLIM)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="nowhere.pth: no such weight file"):
        create_model("resnet18.tv", weights=tmp_path / "nowhere.pth")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that may write no more than 100 kB to a file stands for the full disk."""
    target = tmp_path / "x.safetensors"
    shutil.copy(SLIM, target)
    write = (
        "import resource, sys, numpy as np\n"
        "from transfer.cli.main import guarded\n"
        "from transfer.weights import native\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.exit(guarded(lambda: native.write({str(target)!r}, {{'a': np.zeros(100_000)}}), False))"
    )
    done = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {target}: File too large")
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert target.read_bytes() == SLIM.read_bytes()
