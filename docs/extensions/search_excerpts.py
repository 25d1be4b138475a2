"""Search results show the words that were found, also where the site is opened from a disk.

Sphinx' search fetches each page that it has found to show an excerpt; a browser refuses that to a page at `file://`, so
that there were titles alone. The script written here holds the pages' texts, and answers those fetches.
"""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "search_excerpts.js"
MAIN = re.compile(r'<article role="main".*?</article>', re.DOTALL)
# Highlighted code is a tag a word; an excerpt shows text.
SPANS = re.compile(r"</?span[^>]*>")
ANSWER = """
if (location.protocol === "file:") {
  const fetchAnything = window.fetch;
  window.fetch = (url, ...rest) => {
    const page = PAGES[new URL(url, location).pathname.slice(new URL(".", location).pathname.length)];
    return page === undefined ? fetchAnything(url, ...rest) : Promise.resolve(new Response(page));
  };
}
"""


def use(app: Sphinx, page: str, template: str, context: dict, tree: object) -> None:
    """The page of the search gets the script, the others do not."""
    if page == "search":
        app.add_js_file(SCRIPT)


def write(app: Sphinx, error: Exception | None) -> None:
    """The script, from the pages as they were built."""
    if error or app.builder.format != "html":
        return
    root = Path(app.outdir)
    found = {path: MAIN.search(path.read_text("utf-8")) for path in sorted(root.rglob("*.html"))}
    pages = {path.relative_to(root).as_posix(): SPANS.sub("", main[0]) for path, main in found.items() if main}
    # a script in the page that holds it must not be ended by one of a page inside it
    text = json.dumps(pages, ensure_ascii=False).replace("</", "<\\/")
    (root / "_static" / SCRIPT).write_text(f"const PAGES = {text};\n{ANSWER}", "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls to have it."""
    app.connect("html-page-context", use)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
