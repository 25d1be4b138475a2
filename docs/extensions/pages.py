"""What the site needs of a Markdown page that the page itself, read where it lies, has no use for."""

import re
from pathlib import Path

from sphinx.application import Sphinx

# [text](../path): into the repository, outside of the site
OUTWARD = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")
TITLE = "results/"


def prepare(app: Sphinx, page: str, content: list[str]) -> None:
    """Titles for tables that are kept without one; links to folders of the repository become their text.

    A link to a file of the repository stays: the site takes the file along as a download.
    """
    folder = Path(app.srcdir, page).parent

    def inward(link: re.Match[str]) -> str:
        return link[0] if (folder / link[2]).is_file() else link[1]

    text = OUTWARD.sub(inward, content[0])
    if page.startswith(TITLE):
        text = f"---\norphan: true\n---\n# {page.removeprefix(TITLE)}\n\n{text}"
    content[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
