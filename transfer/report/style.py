"""Colours and lines that all pictures share."""

from typing import Any

# Okabe and Ito's colours, which colour-blind readers tell apart; yellow, too pale for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, GRID = "#444444", "#e4e4e4"
STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    # the same bytes from the same figures
    "svg.hashsalt": "transfer",
}
