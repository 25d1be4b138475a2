"""The report's charts as files for papers, by Matplotlib: PNG, SVG or PDF, each picture by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from transfer.errors import TransferError
from transfer.report import names
from transfer.report.classes import of_classes, of_labels
from transfer.report.confusion import confusion as counted
from transfer.report.curves import CHARTS as LINES
from transfer.report.feature_map import laid_out, sample
from transfer.report.reliability import believed, bins
from transfer.report.run_data import RunData
from transfer.report.style import COLOURS, INK, STYLE
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import atomic, outputs
from transfer.runtime.progress import Progress

# Of more classes than this, names would lie on each other.
NAMED = 40
# The file's own date or version would make two files of one picture differ. The maker tells it from others' pictures.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "transfer"},
    "svg": {"Date": None, "Creator": "transfer"},
    "pdf": {"CreationDate": None, "Creator": "transfer"},
}
MADE = (b"tEXtSoftware\0transfer", b"<dc:title>transfer</dc:title>", b"/Creator (transfer)")
MAP_ROWS = 2000
# A name's letters on an axis.
LETTERS = 24


def draw(run: RunData, folder: epath.Path, formats: Sequence[str] = ("png",)) -> list[epath.Path]:
    """Writes `curves.png`, `confusion.png`, … into `folder`, each chart that the run has something for; says which.

    Args:
        formats: of "png", "svg", "pdf"; each chart is written in all of them.

    Raises:
        TransferError: Matplotlib is not installed.
        UsageError: a picture of that name is there already and is no chart of a run; nothing is written then.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise TransferError(f"--plots needs Matplotlib: {install_hint('plots')}") from error
    with matplotlib.rc_context(STYLE):
        figures = {name: figure for name, chart in CHARTS.items() if (figure := chart(run)) is not None}
        paths = {(name, suffix): folder / f"{name}.{suffix}" for name in figures for suffix in formats}
        for path in paths.values():
            outputs.check_output(path, _is_chart, "a chart", "plots")
        folder.mkdir(parents=True, exist_ok=True)
        with Progress("Plots", len(paths), "files") as progress:
            for (name, suffix), path in paths.items():
                with atomic.writing(path) as stream:
                    figures[name].savefig(stream, format=suffix, dpi=200, metadata=METADATA[suffix])
                progress.update()
    written = list(paths.values())
    print(f"Plots: {', '.join(path.name for path in written) or 'none, the run has nothing to draw'} in {folder}")
    return written


def _is_chart(found: bytes) -> bool:
    return any(maker in found for maker in MADE)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure by itself: no window, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _plain(text: Any) -> str:
    """As Matplotlib shows it letter by letter, cut: a dollar would begin a formula."""
    short = names.shown(text)
    short = short if len(short) <= LETTERS else short[: LETTERS - 1] + "…"
    return short.replace("$", r"\$")


def curves(run: RunData) -> Any:
    """Loss and accuracy over epochs; None for a head without."""
    rows = [row for row in run.history if isinstance(row.get("epoch"), int | float)]
    if not rows:
        return None
    figure, panels = _figure(7.2, 2.9, 2)
    for axes, (title, _, lines) in zip(panels, LINES, strict=True):
        for number, (name, key) in enumerate(lines):
            values = [row.get(key) if isinstance(row.get(key), int | float) else np.nan for row in rows]
            epochs = [row["epoch"] for row in rows]
            axes.plot(epochs, values, color=COLOURS[number], linestyle=("-", "--")[number], label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(title.lower())
    panels[-1].legend(frameon=False, labelcolor=INK)
    return figure


def confusion(run: RunData) -> Any:
    """Shares of each actual class; None for other kinds of predictions."""
    if run.predictions is None or run.predictions.kind != "classes":
        return None
    found, titles = counted(run.predictions), run.class_names
    size = len(titles)
    shares = np.zeros((size, size))
    shares[found.actual, found.predicted] = found.count / np.maximum(found.rows[found.actual], 1)
    side = min(max(3.6, 1.6 + 0.3 * size), 9)
    figure, (axes,) = _figure(side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(False)
    if size <= NAMED:
        axes.set_xticks(range(size), map(_plain, titles), rotation=90)
        axes.set_yticks(range(size), map(_plain, titles))
    if size <= 12:
        for row, column in zip(*np.nonzero(shares), strict=True):
            colour = "white" if shares[row, column] > 0.5 else INK
            text = f"{shares[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("actual class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the actual class")
    return figure


def classes(run: RunData) -> Any:
    """Recall of each class or label with its interval, as the report has them; of many the worst."""
    if run.predictions is None or run.predictions.kind == "values":
        return None
    rows = (of_classes if run.predictions.kind == "classes" else of_labels)(run.predictions)
    rows = [row for row in rows if row["value"] is not None]
    total = len(rows)
    if total > NAMED:
        rows = sorted(rows, key=lambda row: row["value"])[:NAMED]
    figure, (axes,) = _figure(5.2, 1.2 + 0.22 * len(rows))
    values = np.array([row["value"] for row in rows])
    ends = np.array([[row["low"], row["high"]] for row in rows]).T
    errors = np.maximum(np.abs(ends - values), 0)
    axes.barh(range(len(rows)), values, xerr=errors, color=COLOURS[5], ecolor=INK, capsize=2, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(rows)), [_plain(row["name"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1)
    axes.set_xlabel("recall" + (f" (the worst {NAMED} of {total})" if total > NAMED else ""))
    return figure


def reliability(run: RunData) -> Any:
    """How often a row is right, by its confidence, with intervals; below, how many rows there are."""
    if run.predictions is None or run.predictions.kind == "values" or not run.predictions.probable:
        return None
    every = bins(*believed(run.predictions))
    known = [one for one in every if one["rows"]]
    figure, (axes,) = _figure(3.8, 3.6)
    axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="as sure as right")
    values = np.array([one["accuracy"] for one in known])
    ends = np.array([[one["low"], one["high"]] for one in known]).T
    axes.errorbar(
        [one["confidence"] for one in known],
        values,
        yerr=np.maximum(np.abs(ends - values), 0),
        color=COLOURS[0],
        marker="o",
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label="this run",
    )
    most = max(one["rows"] for one in every)
    heights = [0.15 * one["rows"] / most for one in every]
    left, width = [one["from"] for one in every], [one["to"] - one["from"] for one in every]
    axes.bar(left, heights, width, align="edge", color=COLOURS[5], alpha=0.5, label="rows")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, labelcolor=INK, loc="upper left")
    return figure


def feature_map(run: RunData) -> Any:
    """The first two principal components; a colour and a mark for each class, of up to 14."""
    found = run.predictions
    if found is None or found.kind != "classes":
        return None
    rows = sample(len(found), MAP_ROWS, 0)
    features = run.features(rows)
    if features is None or len(rows) < 3:
        return None
    places, _ = laid_out(features, "pca", 0)
    figure, (axes,) = _figure(5.4, 4)
    labels = found.labels[rows]
    if found.num_outputs <= 2 * len(COLOURS):
        for number, title in enumerate(run.class_names):
            own = places[labels == number]
            colour, mark = COLOURS[number % len(COLOURS)], "ox"[number // len(COLOURS)]
            axes.scatter(own[:, 0], own[:, 1], s=12, color=colour, marker=mark, linewidths=0.8, label=_plain(title))
        axes.legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.scatter(places[:, 0], places[:, 1], s=6, c=labels, cmap="viridis")
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    return figure


def shots(run: RunData) -> Any:
    """Accuracy over training images a class, by tap and head; None where that was not run."""
    found = run.result.get("few_shot")
    if not isinstance(found, dict) or "heads" not in found or not found.get("rows"):
        return None
    heads = list(dict.fromkeys(row["head"] for row in found["rows"]))
    taps = list(dict.fromkeys(row["tap"] for row in found["rows"]))
    counts = list(dict.fromkeys(row["per_class"] for row in found["rows"]))
    figure, panels = _figure(1.6 + 2.6 * len(heads), 3, len(heads))
    for axes, head in zip(panels, heads, strict=True):
        for number, tap in enumerate(taps):
            own = [row for row in found["rows"] if (row["head"], row["tap"]) == (head, tap)]
            places = [counts.index(row["per_class"]) for row in own]
            means, spreads = [row["mean"] for row in own], [row.get("spread") or 0 for row in own]
            style = {"color": COLOURS[number % len(COLOURS)], "marker": "os^vD"[number % 5], "markersize": 3.5}
            axes.errorbar(places, means, yerr=spreads, elinewidth=0.8, label=_plain(tap), **style)
        axes.set_xticks(range(len(counts)), ["all" if count is None else str(count) for count in counts])
        axes.set_title(_plain(head), loc="left", fontsize=10, color=INK)
        axes.set_xlabel("images a class")
    panels[0].set_ylabel("validation accuracy")
    panels[-1].legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


CHARTS: dict[str, Callable[[RunData], Any]] = {
    "curves": curves,
    "confusion": confusion,
    "classes": classes,
    "reliability": reliability,
    "map": feature_map,
    "shots": shots,
}
