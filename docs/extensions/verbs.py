"""`<!-- verbs -->` on a page becomes the help of every verb of `python -m transfer`, as it prints it."""

import os

from sphinx.application import Sphinx

from transfer.cli.verbs import ALL, help_of

MARK = "<!-- verbs -->"
COLUMNS = "88"


def insert(app: Sphinx, page: str, content: list[str]) -> None:
    """A section a verb, where the mark stands."""
    if MARK in content[0]:
        os.environ["COLUMNS"] = COLUMNS  # what argparse fills
        sections = [f"## {verb}\n\n```text\n{help_of(verb)}```\n" for verb in ALL]
        content[0] = content[0].replace(MARK, "\n".join(sections))


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls to have it."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
