"""What the README says is what its commands print, and it stays short."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transfer import config as settings
from transfer.models import registry
from transfer.weights import catalogue

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")
MOST_BYTES = 8_000


def section(title: str) -> str:
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_it_is_short_and_begins_with_what_one_needs() -> None:
    assert len(README.encode()) <= MOST_BYTES
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert titles[:3] == ["Quick start", "Your own photographs", "Install"]


def test_the_two_commands_are_those_that_ci_runs() -> None:
    tried = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    for command in (
        "pip install -e . && python train.py --config=configs/quickstart.py",
        "pip install -e '.[test]' && pytest",
    ):
        assert f"```\n{command}\n```" in README and command in tried


def test_its_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in link]
    assert len(links) > 15
    assert not [link for link in links if not (REPOSITORY / link.partition("#")[0]).exists()]


@pytest.mark.slow
def test_quick_start(tmp_path: Path) -> None:
    arguments = ["--config=configs/quickstart.py", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    pixels, random, trained = (row["mean"] for row in result["few_shot"]["rows"])
    assert trained > random + 0.02 and trained > pixels + 0.02
    explained = (REPOSITORY / "docs" / "quick-start.md").read_text("utf-8")
    for page in (README, explained):
        # low bits differ between machines, so that one in 360 images may fall to the other side
        quoted = [float(mean) for mean in re.findall(r" (0\.\d{3}) ± 0\.\d{3}$", page, re.MULTILINE)]
        assert quoted == pytest.approx([pixels, random, trained], abs=0.01)
        (accuracy,) = re.findall(r"^validation: accuracy (0\.\d+)", page, re.MULTILINE)
        assert float(accuracy) == pytest.approx(result["validation_accuracy"], abs=0.01)


def test_the_lines_of_python_print_what_stands_behind_them() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (quoted,) = re.findall(r"# prints (0\.\d+)", code)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert float(printed.getvalue()) == pytest.approx(float(quoted), abs=0.01)


def test_ten_settings_that_there_are() -> None:
    rows = re.findall(r"^\| (`--config.+?) \|", section("Settings"), re.MULTILINE)
    assert len(rows) == 10
    for name in re.findall(r"`--config\.([\w.]+)", " ".join(rows)):
        fields = settings.default()
        for part in name.split("."):
            assert part in fields, name
            fields = fields[part]


# The table's families -> what the names of their architectures begin with.
FAMILIES = {
    "LeNet, AlexNet": ("lenet", "alexnet"),
    "VGG": ("vgg",),
    "GoogLeNet, Inception": ("googlenet", "inception"),
    "ResNet": ("resnet",),
    "Wide ResNet, ResNeXt": ("wide_resnet", "resnext"),
}


def test_families_and_their_accuracies() -> None:
    rows = dict(re.findall(r"^\| ([A-Z].+?) \| .+ \| ([\d. to]+) \|$", section("Networks"), re.MULTILINE))
    assert list(rows) == list(FAMILIES)
    records = catalogue.records().values()
    assert f"{len(records)} sets of pretrained weights" in section("Networks")
    for family, beginnings in FAMILIES.items():
        figures = [each for each in records if each.arch.startswith(beginnings) and each.dataset == "ImageNet-1k"]
        known = [each.acc1 for each in figures if each.acc1 and each.num_classes]
        assert rows[family] in (f"{min(known):.1f} to {max(known):.1f}", f"{min(known):.1f}"), family
    beginnings = tuple(each for several in FAMILIES.values() for each in several)
    assert not [name for name in registry.architectures() if not name.startswith(beginnings)]


def test_speed_is_that_of_the_benchmarks() -> None:
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text("utf-8").partition("<!-- benchmarks cpu -->\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.partition("\n\n")[0].splitlines()]
    column = rows[0].index("the fastest of them")
    ratios = [float(row[column]) for row in rows[2:]]
    assert f"{min(ratios)} to {max(ratios)} times as fast" in " ".join(README.split())
