"""A file that does not fit says what it looks like: every architecture, by every library's names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from golden import reading
from support.filled import from_tensors

from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import catalogue, create_model, identify
from transfer.weights.names import name_map

SLIM = reading.HERE / "resnet18_slim.pth"
KERAS = [name for name in catalogue.names("*.keras")]
Tensors = Mapping[str, np.ndarray]


def stand_ins(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Tensors of those shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def native_shapes(arch: str, **fields: object) -> dict[str, tuple[int, ...]]:
    return dict(identify._shapes(arch, tuple(fields.items())))  # built once for all the tests of this file


def keras_file(name: str, *, top: bool = True) -> Tensors:
    """What a record's Keras file holds; that these are Keras' names is for the parity tests to say."""
    record = catalogue.get(name)
    shapes = native_shapes(record.arch, **dict(record.fields))
    names = name_map(record.arch, "keras", shapes)
    theirs = {names.sources[path].name: shape for path, shape in shapes.items()}
    return stand_ins({name: shape for name, shape in theirs.items() if top or not names.in_classifier(name)})


def looks_like(tensors: Tensors) -> str:
    found = identify.other_than("nothing", (), tensors)
    assert found is not None and found.sure
    return found.phrase


@pytest.mark.slow
@pytest.mark.parametrize("case", reading.cases())
def test_names_and_shapes_of_the_libraries_own_models(case: str) -> None:
    """With 20 classes, and for VGG and AlexNet with small hidden layers, as the golden files were made."""
    golden = reading.cases()[case]
    phrase = looks_like(stand_ins(golden.shapes))
    assert phrase.startswith(f"{golden.arch} from ") and golden.library in phrase.split(",")[0]
    assert phrase.endswith(f"{golden.fields['num_classes']} classes") or golden.arch == "lenet5"


@pytest.mark.parametrize("name", KERAS)
def test_keras_files_with_and_without_classifier(name: str) -> None:
    arch = catalogue.get(name).arch
    assert looks_like(keras_file(name)) == f"{arch} from Keras ({name})"
    assert looks_like(keras_file(name, top=False)) == f"{arch} from Keras ({name}), without its classifier"


@pytest.mark.parametrize("arch", sorted(registry.architectures()))
def test_our_own_files(arch: str) -> None:
    assert looks_like(stand_ins(native_shapes(arch))).startswith(f"{arch} from this package")


def test_a_standard_file_needs_few_models_built(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = native_shapes("resnet152")
    identify._shapes.cache_clear()
    built: list[str] = []
    build = registry.build
    monkeypatch.setattr(registry, "build", lambda arch, **options: built.append(arch) or build(arch, **options))
    looks_like(stand_ins(shapes))
    assert set(built) <= {"resnet152", "resnet152v2"} and len(built) <= 3


def test_records_are_named() -> None:
    resnet = stand_ins(reading.cases()["wide_resnet50_2"].shapes)
    records = "wide_resnet50_2.tv1, wide_resnet50_2.tv2, wide_resnet50_2.tv_in1k"
    assert looks_like(resnet) == f"wide_resnet50_2 from torchvision or timm ({records}), with 20 classes"
    vgg = stand_ins(native_shapes("vgg16"))  # torchvision's features alone have no usable classifier
    assert looks_like(vgg) == "vgg16 from this package (vgg16.keras, vgg16.tv, vgg16.tv_in1k)"
    slim = native_shapes("vgg11_bn", width=0.25, hidden=(), num_classes=10)
    assert looks_like(stand_ins(slim)) == "vgg11_bn from this package (vgg11_slim.cifar10)"


@pytest.mark.parametrize(
    ("name", "fields"), [("resnet34.tv", {"width": 1 / 16}), ("resnet50.keras", {}), ("vgg16", {}), ("resnet34", {})]
)
def test_the_error_of_a_file_of_another_architecture(name: str, fields: dict) -> None:
    like = "resnet18 from torchvision or timm, with layers of other sizes and 10 classes"
    with pytest.raises(TransferError) as error:
        create_model(name, weights=SLIM, **fields)
    assert str(error.value) == f"{SLIM} does not fit {name}: its 122 tensors look like {like}"


def test_the_error_of_a_file_of_another_library(shared_data: Path) -> None:
    with pytest.raises(TransferError) as error:
        create_model("vgg16.tv", weights=shared_data / "vgg16_keras_notop.h5")
    like = "vgg16 from Keras (vgg16.keras), without its classifier"
    assert str(error.value).endswith(f"does not fit vgg16.tv: its 26 tensors look like {like}")
    case = reading.cases()["resnet18"]
    with pytest.raises(
        TransferError, match=r"look like resnet18 from torchvision or timm \(resnet18.a1_in1k, resnet18.t"
    ):
        from_tensors("resnet18", stand_ins(case.shapes), ["keras", "native"])


def test_a_variant_of_the_same_architecture_is_told_apart() -> None:
    with pytest.raises(
        TransferError, match=r"does not fit resnet50: .* look like resnet50 from Keras \(resnet50\.keras\)$"
    ):
        from_tensors("resnet50", keras_file("resnet50.keras"), ["keras", "native"])


@pytest.mark.slow
def test_a_file_that_is_not_whole_looks_most_like_one() -> None:
    shapes = dict(reading.cases()["resnet50"].shapes)
    for name in [name for name in shapes if name.startswith("layer4.2")]:
        del shapes[name]
    with pytest.raises(
        TransferError, match=r"does not fit resnet18 by .* unexpected .*; it looks most like resnet50 from t"
    ):
        from_tensors("resnet18", stand_ins(shapes))
    with pytest.raises(TransferError, match=r"does not fit resnet50 by torchvision names: \d+ missing [^;]*$"):
        from_tensors("resnet50", stand_ins(shapes))


def test_a_part_of_a_classifier_is_listed() -> None:
    shapes = {name: s for name, s in reading.cases()["vgg11"].shapes.items() if not name.startswith("classifier.6")}
    with pytest.raises(TransferError, match=r"2 missing \(logits\.bias as classifier\.6\.bias, "):
        from_tensors("vgg11", stand_ins(shapes), ["torchvision"], hidden=(48, 40))


def test_something_else_entirely() -> None:
    tensors = stand_ins({"transformer.0.attention.weight": (8, 8), "transformer.0.attention.bias": (8,)})
    assert identify.matches(tensors) == []
    with pytest.raises(TransferError, match=r"does not fit vgg16: none of its 2 tensors \(transformer.0.* knows$"):
        from_tensors("vgg16", tensors)
