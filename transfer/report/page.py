"""The page: the sections of one run, or a comparison and then each run, as one file that fetches nothing."""

import base64
import datetime
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from markupsafe import Markup

from transfer.report import comparison, names, sections
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import asset, rendered
from transfer.runtime.files import atomic

FILE = "report.html"


class Part(NamedTuple):
    """A section in its place on the page.

    Attributes:
        anchor: its id, different from that of the same section of another run.
        data: JSON for its script, escaped; empty for none.
    """

    key: str
    anchor: str
    title: str
    html: Markup
    data: Markup


class Chapter(NamedTuple):
    """A run on the page."""

    name: str
    lead: str
    notes: Sequence[str]
    parts: Sequence[Part]


def write(runs: Sequence[RunData], output: epath.Path, options: Options) -> epath.Path:
    """Writes the report of the runs to a file, whole or not at all.

    Raises OSError where the file cannot be written.
    """
    atomic.write_text(output, page(runs, options))
    return output


def page(runs: Sequence[RunData], options: Options) -> str:
    """The HTML of the runs; several begin with a comparison."""
    chapters = [_chapter(run, place, options) for place, run in enumerate(runs)]
    first = _comparison(runs) if len(runs) > 1 else []
    keys = dict.fromkeys(part.key for part in [*first, *(part for one in chapters for part in one.parts)])
    script = Markup(_script(keys))
    html = rendered(
        "page.html",
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        policy=_policy(script),
        style=Markup("\n".join([asset("chart.css"), asset("page.css"), *(asset(f"{key}.css") for key in keys)])),
        script=script,
        first=first,
        chapters=chapters,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
    return names.shown(html)


def _comparison(runs: Sequence[RunData]) -> list[Part]:
    return [_part(comparison.section(list(runs)), "comparison")]


def _chapter(run: RunData, place: int, options: Options) -> Chapter:
    parts = [_part(section, f"{section.key}-{place}") for section in sections.make(run, options)]
    # what is missing is known only when all have looked for it
    return Chapter(run.name, _lead(run), list(run.notes), parts)


def _lead(run: RunData) -> str:
    """What the run is, in a line."""
    result, config = run.result, run.config
    model = result.get("model") or (config.get("model") or {}).get("name")
    tuned = config.get("train") == "finetune"
    head = result.get("head") or (config.get("head") or {}).get("name") or "head"
    data = result.get("dataset") or (config.get("data") or {}).get("source")
    trained = f"of which {config['unfreeze']} was trained" if config.get("unfreeze") else "trained end to end"
    what = f"{model}, {trained}" if tuned else f"{_article(head)} {head} head on {_of(model, run)}"
    return f"{what} · {data}" if data else what


def _article(word: str) -> str:
    return "An" if str(word)[:1] in "aeiou" or word == "mlp" else "A"


def _of(model: Any, run: RunData) -> str:
    tap = run.result.get("tap") or run.config.get("tap")
    return f"{model}, {tap}" if model else "features from files"


def _part(section: Section, anchor: str) -> Part:
    data = Markup("") if section.data is None else embedded(section.data)
    return Part(section.key, anchor, section.title, section.html, data)


def embedded(data: Any) -> Markup:
    """JSON as it may stand in a <script> of HTML: nothing in it ends the element or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _script(keys: Sequence[str] | dict[str, None]) -> str:
    """The page's own script, those of its sections, and the start of all."""
    own = [asset(f"{key}.js") for key in keys]
    return "\n".join([asset("page.js"), *own, "report.start();"])


def _policy(script: str) -> str:
    """A content security policy: no request to anywhere, and no script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
