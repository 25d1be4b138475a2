"""Every tap of every architecture against torchvision's and timm's own models, recorded in `tests/golden`.

The weights arrive as a state dict with the other library's names, so the name maps are proven as well. Run layer by
layer, not jitted: the architectures share most layer shapes, and compiling each whole network takes minutes.
"""

import jax
import pytest
from golden import reading

from transfer.weights.create import from_tensors

TOLERANCE = 1e-5
# Read from real .pth files instead, in tests/weights.
FROM_FILES = ("resnet18_slim",)
CASES = [name for name in reading.cases() if name not in FROM_FILES]


def test_all_thirteen_architectures_are_recorded_at_a_square_and_an_odd_size() -> None:
    depths = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
    depths += [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    for name in depths:
        sizes = {tap.size[1:3] for tap in reading.cases()[name].taps}
        assert any(height == width for height, width in sizes) and any(h % 2 and w % 2 and h != w for h, w in sizes)


@pytest.mark.parametrize("name", CASES)
def test_every_tap_equals_the_other_librarys(name: str) -> None:
    case = reading.cases()[name]
    fields = {key: value for key, value in case.fields.items() if key != "num_classes"}
    model = from_tensors(case.arch, case.state_dict(), [case.library], **fields)
    with jax.default_matmul_precision("highest"):
        errors = case.errors(model)
    assert {tap for _, tap in errors} >= {"pre_logits", "logits"}
    assert max(errors.values()) <= TOLERANCE, errors


def test_a_wrong_layout_is_noticed() -> None:
    """The tolerance separates right from wrong: fc1 filled without the permutation from CHW to HWC fails."""
    case = reading.cases()["vgg11"]
    tensors = case.state_dict()
    kernel = tensors["classifier.0.weight"]
    outputs = kernel.shape[0]
    tensors["classifier.0.weight"] = kernel.reshape(outputs, 512, 49).transpose(0, 2, 1).reshape(outputs, -1)
    fields = {key: value for key, value in case.fields.items() if key != "num_classes"}
    errors = case.errors(from_tensors(case.arch, tensors, ["torchvision"], **fields))
    wrong = {tap for (_, tap), error in errors.items() if error > TOLERANCE}
    assert wrong == {"fc1", "fc2", "logits"}
