"""Images a second and MFU over batch size, as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfer.bench.table import pixels, significant
from transfer.errors import TransferError
from transfer.report.style import COLOURS, INK, STYLE
from transfer.runtime.distribution import install_hint

Row = Mapping[str, Any]
DASHES = {"float32": "-", "bfloat16": "--"}


class Line(NamedTuple):
    """One line of the picture: whose (ours or a peer's), of which network, and its points by batch."""

    who: str
    model: str
    pixels: str
    dtype: str
    batches: list[int]
    images_per_second: list[float]
    mfu: list[float | None]


OURS = "transfer"


def lines(rows: Sequence[Row]) -> list[Line]:
    """Ours of every network; of a network by itself its peers', too. MFU of a peer is ours by its speed."""
    measured = [row for row in rows if row["kind"] == "extractor" and not row["failed"]]
    alone = len({row["model"] for row in measured}) == 1
    points: dict[tuple[str, str, str, str], dict[int, tuple[float, float | None]]] = {}
    for row in measured:
        for who, speed in _speeds(row, with_peers=alone):
            mfu = row["mfu"] and row["mfu"] * speed / row["images_per_second"]
            names = who, row["model"], f"{pixels(row['image_size'])} px", row["dtype"]
            points.setdefault(names, {})[row["batch"]] = speed, mfu
    found = []
    for names, by_batch in points.items():
        batches = sorted(by_batch)
        speeds, mfus = zip(*(by_batch[batch] for batch in batches), strict=True)
        found.append(Line(*names, batches, list(speeds), list(mfus)))
    return found


def _speeds(row: Row, with_peers: bool) -> Iterator[tuple[str, float]]:
    yield OURS, row["images_per_second"]
    if with_peers:
        yield from ((name, peer["images_per_second"]) for name, peer in row["peers"].items() if "ratio" in peer)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture, PNG or SVG by its suffix.

    Raises TransferError where no row has figures, or Matplotlib is not installed.
    """
    drawn = lines(rows)
    if not drawn:
        raise TransferError(f"{path}: there is nothing to draw, no row has figures")
    try:
        import matplotlib
    except ImportError as error:
        raise TransferError(f"a plot needs Matplotlib: {install_hint('plots')}") from error
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        # a figure by itself: no window, no global state
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _panel(left, drawn, "images a second", [line.images_per_second for line in drawn])
        _panel(right, drawn, _mfu_title(rows), [_percent(line.mfu) for line in drawn])
        right.set_ylim(bottom=0)
        _scale(left, [value for line in drawn for value in line.images_per_second])
        _legend(figure, left, drawn)
        figure.suptitle(_title(rows, drawn), x=0.01, ha="left", fontsize=11, color=INK)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, metadata=metadata)


def _percent(mfu: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else 100 * value for value in mfu]


def _mfu_title(rows: Sequence[Row]) -> str:
    sources = {row["peak_source"] for row in rows}
    return "MFU, percent of what a matmul reaches" if "matmul" in sources else "MFU, percent of the published peak"


def _panel(axes: Any, drawn: Sequence[Line], title: str, values: Sequence[Sequence[float]]) -> None:
    networks = list(dict.fromkeys(line[:3] for line in drawn))
    for line, heights in zip(drawn, values, strict=True):
        axes.plot(
            line.batches,
            heights,
            DASHES[line.dtype],
            color=COLOURS[networks.index(line[:3]) % len(COLOURS)],
            marker="o",
            markersize=4.5,
            linewidth=2 if line.who == OURS else 1.2,
            label=_label(line, drawn),
        )
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("batch, images")
    axes.set_xscale("log", base=2)
    batches = sorted({batch for line in drawn for batch in line.batches})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()


def _scale(axes: Any, values: Sequence[float]) -> None:
    """From zero; logarithmic where speeds lie decades apart, with plain numbers at 1, 2 and 5."""
    if max(values) < 10 * min(values):
        axes.set_ylim(bottom=0)
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: significant(value)))
    axes.yaxis.set_minor_locator(NullLocator())


# What names a line.
NAMES = ("who", "model", "pixels", "dtype")


def _differs(name: str, drawn: Sequence[Line]) -> bool:
    return len({getattr(line, name) for line in drawn}) > 1


def _label(line: Line, drawn: Sequence[Line]) -> str:
    """What tells this line from the others, no more."""
    return ", ".join(getattr(line, name) for name in NAMES if _differs(name, drawn))


def _legend(figure: Any, axes: Any, drawn: Sequence[Line]) -> None:
    """On the right, in the order in which the lines end; none for a line by itself."""
    if len(drawn) == 1:
        return
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(drawn)), key=lambda i: -drawn[i].images_per_second[-1])
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside right center",
        frameon=False,
        labelcolor=INK,
        handlelength=4,
    )


def _title(rows: Sequence[Row], drawn: Sequence[Line]) -> str:
    """What all lines share, and where they were measured."""
    shared = [getattr(drawn[0], name) for name in NAMES[1:] if not _differs(name, drawn)]
    machines = {_machine(row) for row in rows}
    return ", ".join(shared + ([next(iter(machines))] if len(machines) == 1 else []))


def _machine(row: Row) -> str:
    if row["platform"] == "cpu":
        return f"{row['processor']}, {row['cores']} cores"
    return f"{row['devices']} x {row['device_kind']}"
