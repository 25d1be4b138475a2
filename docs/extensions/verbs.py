"""`<!-- verbs -->` on a page becomes the help of every verb of `python -m transfer`, as its own parser prints it."""

import importlib
import os

from sphinx.application import Sphinx

from transfer.__main__ import VERBS, Parser

MARK = "<!-- verbs -->"
COLUMNS = "88"


def helped(verb: str) -> str:
    """What `python -m transfer VERB --help` prints."""
    module, function, text = VERBS[verb]
    parser = Parser(prog=f"python -m transfer {verb}", description=text)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    getattr(importlib.import_module(module), function)(parser)
    return parser.format_help()


def insert(app: Sphinx, page: str, content: list[str]) -> None:
    """A section a verb, where the mark stands."""
    if MARK in content[0]:
        os.environ["COLUMNS"] = COLUMNS  # what argparse fills
        sections = [f"## {verb}\n\n```text\n{helped(verb)}```\n" for verb in VERBS]
        content[0] = content[0].replace(MARK, "\n".join(sections))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
