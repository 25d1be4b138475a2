"""The page: the sections of one run, or a comparison and then each run, as one file that fetches nothing."""

import base64
import datetime
import hashlib
from collections.abc import Sequence

from etils import epath
from markupsafe import Markup

from transfer.evaluation import runs
from transfer.report import (
    classes,
    comparison,
    confusion,
    curves,
    depth_section,
    feature_map,
    mistakes,
    overview,
    probabilities,
    shots_section,
)
from transfer.report.run_data import RunData
from transfer.report.templates import Section, asset, rendered, valid_text
from transfer.runtime.files import atomic

FILE = "report.html"
# In the order in which a reader meets them; each returns None where a run has nothing to show there.
SECTIONS = (
    overview.section,
    mistakes.some,
    curves.section,
    confusion.section,
    classes.section,
    probabilities.thresholds,
    probabilities.reliability,
    mistakes.pairs,
    mistakes.largest,
    feature_map.section,
    depth_section.section,
    shots_section.section,
    overview.settings_section,
)


def sections(run: RunData) -> list[Section]:
    """The sections of a run, those that it has something for."""
    return [made for make in SECTIONS if (made := make(run)) is not None]


def write(loaded: Sequence[RunData], output: epath.Path) -> epath.Path:
    """Writes the report of the runs to a file, whole or not at all; OSError where it cannot be written."""
    atomic.write_text(output, page(loaded))
    return output


def page(loaded: Sequence[RunData], made: Sequence[list[Section]] | None = None) -> str:
    """The HTML of the runs, of whose sections `made` may hold those of each; several begin with a comparison."""
    made = made or [sections(run) for run in loaded]
    first = comparison.section(loaded) if len(loaded) > 1 else None
    shown = [*([first] if first else []), *(section for of_run in made for section in of_run)]
    keys = dict.fromkeys(section.key for section in shown)
    script = "\n".join([asset("page.js"), *(asset(f"{key}.js") for key in keys), "report.start();"])
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    html = rendered(
        "page.html",
        title=loaded[0].name if len(loaded) == 1 else f"{len(loaded)} runs",
        # no request to anywhere, and no script but this one
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        style=Markup("\n".join(asset(f"{key}.css") for key in ("chart", "page", "cards", *keys))),
        script=Markup(script),
        first=first,
        # what is missing is known only when all sections have looked for it
        chapters=[
            {"name": run.name, "lead": _lead(run), "notes": list(run.notes), "sections": of_run}
            for run, of_run in zip(loaded, made, strict=True)
        ],
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
    return valid_text(html)


def _lead(run: RunData) -> str:
    """A line about the run."""
    facts, layers = runs.facts(run.result, run.config), run.config.get("unfreeze")
    if facts["head"] == "finetune":
        what = f"{facts['model']}, " + (f"of which {layers} was trained" if layers else "fine-tuned")
    else:
        features = f"{facts['model']}, {facts['tap']}" if facts["model"] else "features from files"
        what = f"{facts['head']} head on {features}".strip()
    return " · ".join(filter(None, [what, facts["data"]]))
