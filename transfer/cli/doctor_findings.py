"""What a check of `python -m transfer doctor` finds."""

from typing import Any, NamedTuple


class Problem(NamedTuple):
    """Something that is wrong: in a line that says what to do; `fatal` where the package cannot be used before."""

    text: str
    fatal: bool = False


class Examined(NamedTuple):
    """The result of a check.

    Attributes:
        facts: name to text or number, as `--json` has them and the terminal shows them.
        problems: what is wrong, the worst first.
    """

    facts: dict[str, Any]
    problems: list[Problem]


def size(count: float) -> str:
    """Bytes as a person reads them, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
