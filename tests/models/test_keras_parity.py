"""Every tap of all nine architectures against `keras.applications` itself, through files that Keras writes.

Both run on JAX in float32 with matrix products in full precision. One image at the published size, three at an odd one:
`measure_parity.py` compares both at both, with three times as much to compile and to compute.
"""

from pathlib import Path

import numpy as np
import pytest

from transfer.models.registry import flat_state
from transfer.weights import catalogue, create_model

keras = pytest.importorskip("keras")

from models import keras_parity  # noqa: E402
from models.catalogue_parity import MARGIN, TOLERANCE, stated  # noqa: E402
from models.parts import compiled  # noqa: E402

pytestmark = pytest.mark.slow

# name, its file without classifier, its file with: every format meets networks with and without batch norm. One depth
# of a family is compared without a classifier, too: what that leaves out is the same in the others.
FILES: list[tuple[str, str | None, str]] = [
    ("vgg16.keras", "legacy weights", "legacy model"),
    ("vgg19.keras", None, "archive"),
    ("resnet50.keras", "archive", "legacy weights"),
    ("resnet101.keras", None, "weights"),
    ("resnet152.keras", None, "archive"),
    ("resnet50v2.keras", "legacy model", "archive"),
    ("resnet101v2.keras", None, "legacy weights"),
    ("resnet152v2.keras", None, "legacy model"),
    ("inception_v3.keras", "weights", "legacy weights"),
]


def test_every_record_of_keras_is_compared() -> None:
    records = {record.name for record in catalogue.records().values() if record.name_map == "keras"}
    assert records == set(keras_parity.APPLICATIONS) == {name for name, *_ in FILES} and len(records) == 9


@pytest.mark.parametrize(("name", "file_format"), [(name, notop) for name, notop, _ in FILES if notop])
def test_every_tap_without_classifier(name: str, file_format: str, tmp_path: Path) -> None:
    errors = keras_parity.compare(name, False, file_format, tmp_path, every_batch=False)
    assert {tap for _, tap in errors} == {*keras_parity.APPLICATIONS[name].taps, "pre_logits"} | (
        {"stem"} if name == "inception_v3.keras" else set()
    )
    assert max(errors.values()) <= min(TOLERANCE, MARGIN * stated([name])), errors


@pytest.mark.parametrize(("name", "file_format"), [(name, top) for name, _, top in FILES])
def test_every_tap_with_the_classifier(name: str, file_format: str, tmp_path: Path) -> None:
    errors = keras_parity.compare(name, True, file_format, tmp_path, every_batch=False)
    assert "logits" in {tap for _, tap in errors}
    assert max(errors.values()) <= min(TOLERANCE, MARGIN * stated([name])), errors


@pytest.mark.parametrize("file_format", keras_parity.FORMATS)
def test_inceptions_layers_may_be_counted_from_any_number(file_format: str, tmp_path: Path) -> None:
    """Keras names its layers by what the process has made before: the first model's are `conv2d`, `conv2d_1`, …"""
    keras.utils.clear_session(free_memory=False)
    names, arrays = [], []
    for offset in (0, 3):
        for _ in range(offset):
            keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
        model = keras_parity.build("inception_v3.keras", include_top=False)
        names.append(model.weights[0].path)
        path = keras_parity.write(model, file_format, tmp_path)
        arrays.append(flat_state(create_model("inception_v3.keras", weights=path)))
    assert len(set(names)) == 2, "Keras counted from the same number twice"
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])


def test_a_real_file_of_keras_equals_keras(shared_data: Path) -> None:
    path = shared_data / "vgg16_keras_notop.h5"
    model = keras.applications.VGG16(weights=str(path), include_top=False)
    ours = compiled(create_model("vgg16.keras", weights=path))
    sizes = [(1, 64, 64, 3), (1, 75, 53, 3)]
    errors = keras_parity.errors("vgg16.keras", model, ours, sizes, scale=60)
    assert max(errors.values()) <= TOLERANCE, errors
