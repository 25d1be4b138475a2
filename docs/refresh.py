"""Runs the commands of `docs/architectures.md`, `docs/models.md` and the lessons again: their tables and diagrams.

python docs/refresh.py
"""

import contextlib
import io
import re
import runpy
from collections.abc import Callable
from pathlib import Path

from transfer import __main__ as program

PAGE = Path(__file__).parent / "architectures.md"
LESSONS = sorted(PAGE.with_name("lessons").glob("*.md"))
PAGES = (PAGE, PAGE.with_name("models.md"), *LESSONS)
# A command by itself on a line, a verb or a lesson's script, and what it printed.
PRINTED = re.compile(
    r"^`python (-m transfer [^`]+|docs/lessons/\w+\.py)`\n\n<!-- printed -->\n(.*?)<!-- /printed -->$",
    re.MULTILINE | re.DOTALL,
)
DRAWN = re.compile(r"`python (-m transfer draw \S+ --output (\S+))`")


def printed(command: str) -> str:
    """What `python COMMAND` prints; the paths of scripts are those in the repository."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        if command.startswith("-m transfer "):
            if code := program.main(command.split()[2:]):
                raise SystemExit(code)
        else:
            runpy.run_path(str(PAGE.parents[1] / command), run_name="__main__")
    return output.getvalue()


def refreshed(page: str, run: Callable[[str], str] = printed) -> str:
    """The page with the output of each of its commands."""

    def block(match: re.Match[str]) -> str:
        return f"`python {match[1]}`\n\n<!-- printed -->\n{run(match[1])}<!-- /printed -->"

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
