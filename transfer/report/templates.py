"""HTML from templates in `assets/`, which escape whatever they are given; how names and numbers are written in it."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from transfer.evaluation.predictions import Predictions
from transfer.report.svg import Chart

ASSETS = Path(__file__).parent / "assets"
# What stands for a number that is not known.
NONE = "–"


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        key: its anchor, and the name of its script (`assets/KEY.js`) and style (`assets/KEY.css`), where it has any.
        title: plain text.
        html: what it shows, escaped already.
        data: what its script is given, JSON; None for none.
        charts: what `--plots` writes of it as `KEY.png`, drawn when it is called.
    """

    key: str
    title: str
    html: Markup
    data: Any = None
    charts: Callable[[], Sequence[Chart]] = tuple


def rendered(name: str, **values: Any) -> Markup:
    """The template `assets/NAME` filled in; a value that it wants and is not given raises jinja2.UndefinedError."""
    return Markup(_environment().get_template(name).render(**values))


def asset(name: str) -> str:
    """The text of `assets/NAME`, empty where there is no such file."""
    path = ASSETS / name
    return path.read_text("utf-8") if path.exists() else ""


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(ASSETS)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"percent": percent, "number": number, "count": count, "embedded": embedded}
    return made


def percent(value: Any, digits: int = 1) -> str:
    """A share as "97.5 %"."""
    return NONE if not is_number(value) else f"{100 * value:.{digits}f}\u202f%"


def number(value: Any, digits: int = 4) -> str:
    """A number in so many digits behind the point."""
    return NONE if not is_number(value) else f"{value:.{digits}f}"


def count(value: Any) -> str:
    """A whole number with thin spaces between its thousands."""
    return NONE if not is_number(value) else f"{int(value):,}".replace(",", "\u202f")


def embedded(data: Any) -> Markup:
    """JSON as it may stand in a <script> of HTML: nothing in it ends the element or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def is_number(value: Any) -> bool:
    """Whether a value of a file is a number that can be shown."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def valid_text(text: object) -> str:
    """Text that a page can hold: lone surrogates, which names of files may have, become question marks."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def output_names(predictions: Predictions) -> list[str]:
    """A name for each class, label or value of predictions: its own, else its number."""
    names = [valid_text(name) for name in predictions.class_names]
    return names + [str(number) for number in range(len(names), predictions.num_outputs)]
