"""The page of settings names every setting, with its default and a meaning."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")

from transfer import config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    """The extension of the site that makes the page."""
    sys.path.insert(0, str(DOCS / "extensions"))
    try:
        import settings
    finally:
        sys.path.pop(0)
    return settings


def names(tree: dict, prefix: str = "") -> set[str]:
    """Every setting by its whole name."""
    found = set()
    for name, value in tree.items():
        found |= names(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return found


def test_every_setting_has_its_default_and_a_meaning(page) -> None:
    found = {each.path: each for each in page.every()}
    everything = names(config.default().to_dict())
    tried = {f"sweep.{name}" for name in config.HEAD_SETTINGS}  # the page says that a sweep takes those of the head
    assert set(found) == everything - tried
    assert all(len(each.meaning.split()) >= 2 for each in found.values())
    assert found["batch_size"].default == 64 and found["batch_size"].meaning == "Extraction batch size, in images."
    assert found["head.C"].kind is float and "scikit-learn" in found["head.C"].meaning


def test_the_fields_of_few_shot_are_those_that_there_are() -> None:
    from transfer.experiment.few_shot import Protocol

    table = (DOCS / "settings.md").read_text("utf-8").partition("## Few images a class\n")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == Protocol._fields
    assert f"held out: {Protocol._field_defaults['holdout']}" in table


def test_a_setting_without_a_meaning_is_an_error(page) -> None:
    with pytest.raises(ValueError, match="no comment above 'seed'"):
        page._setting("seed", {"seed": ""})


def test_the_list_has_them_all(page) -> None:
    text = page.markdown()
    assert len(re.findall(r"^`--config\.[\w.]+`.*, default `.*`\n: [^\n]{5,}$", text, re.MULTILINE)) == len(
        page.every()
    )
    assert "`--config.image_size`, a whole number, default `None`\n: Height and width" in text
    assert page.MARK in (DOCS / "settings.md").read_text("utf-8")
