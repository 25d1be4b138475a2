"""What a report consists of: the sections, in the order in which a reader meets them."""

import importlib
from typing import Any, NamedTuple

from markupsafe import Markup

from transfer.report.run_data import RunData

# Modules of `transfer.report`, each with `section(run, options)`, which returns a Section or None where a run has
# nothing to show there.
SECTIONS = (
    "overview",
    "curves",
    "confusion",
    "classes",
    "threshold",
    "reliability",
    "pairs",
    "errors_section",
    "feature_map",
    "depth_section",
    "shots_section",
    "setup",
)
MAPS = ("pca", "tsne", "none")


class Options(NamedTuple):
    """The reader's choices.

    Attributes:
        map: how the features are drawn in two dimensions, one of MAPS.
        seed: of what is drawn by chance: which rows of many, where t-SNE begins.
    """

    map: str = "pca"
    seed: int = 0


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        key: its anchor, and the name of its script (`assets/KEY.js`) and style (`assets/KEY.css`), where it has any.
        title: plain text.
        html: what it shows, escaped already.
        data: what its script is given, JSON; None for none.
    """

    key: str
    title: str
    html: Markup
    data: Any = None


def make(run: RunData, options: Options) -> list[Section]:
    """The sections of a run, those that it has something for."""
    made = (importlib.import_module(f"transfer.report.{name}").section(run, options) for name in SECTIONS)
    return [section for section in made if section is not None]
