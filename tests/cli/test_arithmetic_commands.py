"""The verbs `arithmetic` and `draw` as a person uses them."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from transfer import __main__ as program
from transfer.cli.arithmetic import SECTIONS
from transfer.errors import TransferError
from transfer.models.drawing.blocks import bands
from transfer.models.graph.trace import trace
from transfer.models.layers import conv

GOLDEN = Path(__file__).parents[1] / "golden" / "arithmetic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("arithmetic", "SECTION"),
        ("arithmetic everything", "invalid choice: 'everything'"),
        ("arithmetic stacking", "stacking is a lesson: docs/lessons/stacking.md; python docs/lessons/stacking.py"),
        ("arithmetic stages vgg61", "did you mean vgg19, vgg16"),
        ("draw vgg16", "--output"),
        ("draw vgg16 --output picture.png", "--output=picture.png must end in .svg"),
        ("draw vgg16 --output nowhere/vgg16.svg", "there is no folder"),
        ("draw vgg16 --output vgg16.svg --image_size 0", "--image_size=0 must be at least one pixel"),
        ("draw vgg16 --output vgg16.svg --image_size 16", "at least 32x32 pixels"),
        ("draw vgg16 --output vgg16.svg --image_size 1", "at least 32x32 pixels"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = program.main(arguments.split())
    except SystemExit as stopped:
        code = stopped.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == "" and message in shown.err and shown.err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_whole_text_is_what_it_was(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As `python -m transfer arithmetic SECTION lenet5 vgg11_slim.cifar10` wrote it into `tests/golden/arithmetic/`."""
    assert program.main(["arithmetic", section, "lenet5", "vgg11_slim.cifar10"]) == 0
    assert capsys.readouterr().out == (GOLDEN / f"{section}.txt").read_text("utf-8")


def test_help_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["arithmetic", "--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in SECTIONS)


def test_a_record_is_drawn_at_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "slim.svg"
    assert program.main(["draw", "vgg11_slim.cifar10", "--output", str(file)]) == 0
    assert "vgg11_slim.cifar10 at 48×48, 579,786 parameters" in capsys.readouterr().out
    assert {">24×24×16<", ">pre_logits<", ">logits<"} <= set(re.findall(r">[^<>]+<", file.read_text("utf-8")))
    assert [*tmp_path.iterdir()] == [file]


class Tangled(nnx.Module):
    """Each layer takes all before it: branches that meet again and again."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(3, 4, 3, rngs=rngs)
        self.conv2 = conv(7, 4, 3, rngs=rngs)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        first = self.conv1(images)
        second = self.conv2(jnp.concatenate([images, first], axis=-1))
        x = jnp.concatenate([images, first, second], axis=-1)
        return x, {"all": x}


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(TransferError, match="branches do not join"):
        bands(trace(Tangled(nnx.Rngs(0)), (1, 8, 8, 3)))
