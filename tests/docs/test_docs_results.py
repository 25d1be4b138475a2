"""`docs/results.md` and the README show the tables as they were measured; `docs/results.sh` measures them."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("docs_results", DOCS / "results.py")
results = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(results)


@pytest.mark.parametrize("path", results.PAGES, ids=lambda path: path.name)
def test_tables_are_those_that_are_kept(path):
    page = path.read_text("utf-8")
    assert results.BLOCK.search(page)
    assert results.refreshed(page) == page, "run `python docs/results.py`"


def test_everything_that_is_kept_is_shown_or_named():
    page = (DOCS / "results.md").read_text("utf-8") + (DOCS / "results.sh").read_text("utf-8")
    for path in results.KEPT.iterdir():
        name = path.name if path.suffix != ".csv" else path.stem
        assert name in page or path.stem in page, f"{path.name} is nowhere"


def test_configs_and_pictures_exist():
    page = (DOCS / "results.md").read_text("utf-8")
    for name in re.findall(r"\]\((results/[^)]+)\)", page):
        assert (DOCS / name).is_file(), name
    for name in re.findall(r"--config=(configs/\w+\.py)", page):
        assert (DOCS.parent / name).is_file(), name
