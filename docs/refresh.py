"""Runs the commands of `docs/architectures.md` and `docs/models.md` again: their tables and diagrams.

python docs/refresh.py
"""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

from transfer import __main__ as program

PAGE = Path(__file__).parent / "architectures.md"
PAGES = (PAGE, PAGE.with_name("models.md"))
# A command by itself on a line, and what it printed.
PRINTED = re.compile(
    r"^`python -m transfer ([^`]+)`\n\n<!-- printed -->\n(.*?)<!-- /printed -->$", re.MULTILINE | re.DOTALL
)
DRAWN = re.compile(r"`python -m transfer (draw \S+ --output (\S+))`")


def printed(command: str) -> str:
    """What `python -m transfer COMMAND` prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = program.main(command.split())
    if code:
        raise SystemExit(code)
    return output.getvalue()


def refreshed(page: str, run: Callable[[str], str] = printed) -> str:
    """The page with the output of each of its commands."""

    def block(match: re.Match[str]) -> str:
        return f"`python -m transfer {match[1]}`\n\n<!-- printed -->\n{run(match[1])}<!-- /printed -->"

    return PRINTED.sub(block, page)


def main() -> None:
    """Writes the pages and the diagrams that they show; paths are those of the repository's root."""
    for path in PAGES:
        page = path.read_text("utf-8")
        path.write_text(refreshed(page), "utf-8")
        for command, _ in DRAWN.findall(page):
            print(printed(command), end="")


if __name__ == "__main__":
    main()
