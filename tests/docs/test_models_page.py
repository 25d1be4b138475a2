"""`docs/models.md` shows the catalogue as it is, and explains every name in it."""

import importlib.util
import re
from pathlib import Path

from docs.refresh import PRINTED, printed
from transfer.weights import catalogue

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "models.md").read_text("utf-8")
SPEC = importlib.util.spec_from_file_location("docs_models", DOCS / "models.py")
models = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(models)


def test_the_table_is_what_its_command_prints() -> None:
    ((command, shown),) = PRINTED.findall(PAGE)
    assert command == "-m transfer models --markdown" and shown == printed(command), "run `python docs/refresh.py`"


def test_the_choice_has_the_figures_of_the_catalogue_and_of_the_benchmarks() -> None:
    assert models.refreshed(PAGE) == PAGE, "run `python docs/models.py`"
    assert re.search(r"`resnet50.tv1` +\| 102 +\| .* \| \d+ +\| \d\d,\d{3} +\|", PAGE)  # a speed is found on both


def test_what_stands_behind_the_dot_is_explained() -> None:
    records = catalogue.records()
    explained = set(re.findall(r"^\| `\.(\w+)` \|", PAGE, re.MULTILINE))
    assert explained == {name.partition(".")[2] for name in records}
    architectures = {record.arch for record in records.values()}
    assert f"{len(records)} sets of weights of {len(architectures)} architectures" in PAGE
