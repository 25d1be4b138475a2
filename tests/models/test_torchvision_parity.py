"""Every tap of every architecture against torchvision's and timm's own models, recorded in `tests/golden`.

The weights arrive as a state dict with the other library's names, so the name maps are proven as well. Ours run in
float32 with matrix products in full precision, the recorded models ran in float64. Of the four sizes that are recorded,
one image at the published and three at the odd one; `measure_parity.py` compares all.
"""

import pytest
from golden import reading
from models import catalogue_parity
from models.catalogue_parity import MARGIN, TOLERANCE
from models.parts import compiled

from transfer.models.registry import architectures
from transfer.weights import catalogue

# Read from real .pth files instead, in tests/weights.
FROM_FILES = ("resnet18_slim",)
CASES = [name for name in reading.cases() if name not in FROM_FILES]
TORCHVISION = sorted({r.arch for r in catalogue.records().values() if r.name_map == "torchvision"})


@pytest.mark.parametrize("arch", TORCHVISION)
def test_recorded_at_the_published_and_an_odd_size_one_image_and_three(arch: str) -> None:
    sizes = {tap.size for tap in reading.cases()[arch].taps}
    published = {r.preprocessing.image_size for r in catalogue.records().values() if r.arch == arch}
    assert {size[0] for size in sizes} == {1, 3}
    odd = {size[1:3] for size in sizes if size[1] % 2 and size[2] % 2 and size[1] != size[2]}
    assert {size[1:3] for size in sizes} - odd & published
    assert len(sizes) == 4 and len(odd) == 1


def test_every_torchvision_architecture_is_recorded() -> None:
    assert len(TORCHVISION) == 20 and set(TORCHVISION) <= set(architectures()) & set(reading.cases())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_tap_equals_the_other_librarys(name: str) -> None:
    case = reading.cases()[name]
    errors = case.errors(compiled(case.model()), every_batch=False)
    assert {tap for _, tap in errors} >= {"pre_logits", "logits"}
    worst = max(errors.values())
    assert worst <= TOLERANCE, errors
    proven = [
        r.name for r in catalogue.records().values() if r.name_map != "keras" and name in catalogue_parity.cases(r)
    ]
    if proven:
        assert worst <= MARGIN * catalogue_parity.stated(proven)


def test_a_wrong_layout_is_noticed() -> None:
    """The tolerance separates right from wrong: fc1 filled without the permutation from CHW to HWC fails."""
    case = reading.cases()["vgg11 larger"]
    tensors = case.state_dict()
    kernel = tensors["classifier.0.weight"]
    outputs = kernel.shape[0]
    tensors["classifier.0.weight"] = kernel.reshape(outputs, 512, 49).transpose(0, 2, 1).reshape(outputs, -1)
    wrong = {tap for (_, tap), error in case.errors(compiled(case.model(tensors))).items() if error > TOLERANCE}
    assert wrong == {"fc1", "fc2", "logits"}
