"""The page: the sections of one run, or a comparison and then each run, as one file that fetches nothing."""

import base64
import datetime
import hashlib
from collections.abc import Sequence
from typing import Any

from etils import epath
from markupsafe import Markup

from transfer.evaluation import runs
from transfer.report import comparison, names, sections
from transfer.report.run_data import RunData
from transfer.report.sections import Options
from transfer.report.templates import asset, rendered
from transfer.runtime.files import atomic

FILE = "report.html"


def write(loaded: Sequence[RunData], output: epath.Path, options: Options) -> epath.Path:
    """Writes the report of the runs to a file, whole or not at all; OSError where it cannot be written."""
    atomic.write_text(output, page(loaded, options))
    return output


def page(loaded: Sequence[RunData], options: Options) -> str:
    """The HTML of the runs; several begin with a comparison."""
    chapters = [_chapter(run, options) for run in loaded]
    first = comparison.section(loaded) if len(loaded) > 1 else None
    shown = [*([first] if first else []), *(section for chapter in chapters for section in chapter["sections"])]
    keys = dict.fromkeys(section.key for section in shown)
    script = "\n".join([asset("page.js"), *(asset(f"{key}.js") for key in keys), "report.start();"])
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    html = rendered(
        "page.html",
        title=loaded[0].name if len(loaded) == 1 else f"{len(loaded)} runs",
        # no request to anywhere, and no script but this one
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        style=Markup("\n".join(asset(f"{key}.css") for key in ("chart", "page", *keys))),
        script=Markup(script),
        first=first,
        chapters=chapters,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
    return names.shown(html)


def _chapter(run: RunData, options: Options) -> dict[str, Any]:
    made = sections.make(run, options)
    # what is missing is known only when all sections have looked for it
    return {"name": run.name, "lead": _lead(run), "notes": list(run.notes), "sections": made}


def _lead(run: RunData) -> str:
    """A line about the run."""
    facts, layers = runs.facts(run.result, run.config), run.config.get("unfreeze")
    if facts["head"] == "finetune":
        what = f"{facts['model']}, " + (f"of which {layers} was trained" if layers else "fine-tuned")
    else:
        features = f"{facts['model']}, {facts['tap']}" if facts["model"] else "features from files"
        what = f"{facts['head']} head on {features}".strip()
    return " · ".join(filter(None, [what, facts["data"]]))
