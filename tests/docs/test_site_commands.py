"""Every command that a page shows is one that its program takes: its own parser reads it, the config has the field."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from transfer import config as settings
from transfer.cli.verbs import EXPERIMENTS, VERBS, Parser
from transfer.experiment import config_file

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("lessons/*.md")), DOCS.parent / "README.md"]
# A block, or code within a line.
SHOWN = re.compile(r"^```[^\n]*\n(.*?)^```|`(python [^`\n]+)`", re.MULTILINE | re.DOTALL)
PLACEHOLDERS = ("VERB", "…", "...")
# Pages that write their own config, model or folder before they use it.
FOLLOWED = ("adding-a-backbone.md",)


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each command `python PROGRAM …` in the page's blocks."""
    for block, inline in SHOWN.findall(page.read_text("utf-8")):
        for line in (block or inline).replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                start = f"python {program} "
                command = part.strip().removeprefix("$ ")
                if command.startswith(start) and not any(word in command for word in PLACEHOLDERS):
                    yield shlex.split(command, comments=True)[len(start.split()) :]


VERBS_SHOWN = [
    pytest.param(page, arguments, id=f"{page.stem}: {' '.join(arguments)[:60]}")
    for page in PAGES
    for arguments in commands(page, "-m transfer")
    if arguments[0] not in EXPERIMENTS
]
RUNS_SHOWN = [
    pytest.param(page, arguments, id=f"{page.stem}: {' '.join(arguments)[:60]}")
    for program in ("train.py", "extract.py", *(f"-m transfer {verb}" for verb in EXPERIMENTS))
    for page in PAGES
    if page.name not in FOLLOWED
    for arguments in commands(page, program)
]


def test_there_are_many() -> None:
    assert len(VERBS_SHOWN) > 20 and len(RUNS_SHOWN) > 20


@pytest.mark.parametrize(("page", "arguments"), VERBS_SHOWN)
def test_a_verb_that_is_shown_takes_what_it_is_given(page: Path, arguments: list[str]) -> None:
    verb, *rest = arguments
    module, _ = VERBS[verb]
    parser = Parser(prog=verb)
    parser.add_argument("--debug", action="store_true")
    getattr(importlib.import_module(module), verb)(parser)
    if rest and "--help" not in rest:  # a verb by itself is only named
        parser.parse_args(rest)


@pytest.mark.parametrize(("page", "arguments"), RUNS_SHOWN)
def test_a_run_that_is_shown_has_a_config_and_settings_that_are_there(page: Path, arguments: list[str]) -> None:
    fields = settings.default()
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--config" and "NAME" not in value:
            name = value.partition(":")[0]
            assert name in config_file.packaged() or (DOCS.parent / name).is_file(), value
        elif flag == "--flagfile":
            assert (DOCS.parent / value).is_file(), value
        elif flag.startswith("--config."):
            section = fields
            for name in flag.split(".")[1:]:
                assert name in section or section is fields.get("few_shot"), flag
                section = section[name]


def test_the_sections_of_a_report_are_those_that_its_page_explains() -> None:
    from transfer.report.page import SECTIONS

    sources = "".join(path.read_text() for path in (DOCS.parent / "transfer" / "report").glob("*.py"))
    rows = re.findall(r"^\| ([A-Z][^|]+?) \|", (DOCS / "report.md").read_text("utf-8"), re.MULTILINE)
    titles = [title for row in rows for title in re.split(r"[,;] (?=[A-Z])", row)]
    assert len(titles) >= len(SECTIONS)
    assert not [title for title in titles if f'"{title}"' not in sources]
