"""What the site needs of a Markdown page that the page itself, read where it lies, has no use for."""

import re
from pathlib import Path

from sphinx.application import Sphinx

# [text](../path): into the repository, outside of the site
OUTWARD = re.compile(r"\[([^\[\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")
TITLE = "results/"


def prepare(app: Sphinx, page: str, content: list[str]) -> None:
    """Titles for tables that are kept without one; links to folders and pages of the repository become their text.

    A link to any other file of the repository stays: the site takes the file along as a download.
    """
    root, folder = Path(app.srcdir), Path(app.srcdir, page).parent

    def inward(link: re.Match[str]) -> str:
        path = (folder / link[2]).resolve()
        taken = path.is_relative_to(root) or (path.is_file() and path.suffix != ".md")
        return link[0] if taken else link[1]

    text = OUTWARD.sub(inward, content[0])
    if page.startswith(TITLE):
        text = f"---\norphan: true\n---\n# {page.removeprefix(TITLE)}\n\n{text}"
    content[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls to have it."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
