"""One look for all figures: colours per process, sizes, lines; colour-blind safe, readable in a column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Okabe and Ito's palette, which keeps its contrasts for the common forms of colour blindness and in
# grey. What is real is blue; of the models, the central flow is black.
COLOURS: dict[str, str] = {
    "discrete": "#56B4E9",
    "midpoint": "#0072B2",
    "central": "#000000",
    "stable": "#D55E00",
    "rod": "#009E73",
    "edge": "#CC79A7",
    "ablated": "#E69F00",
    "linear": "#7F3C8D",
    "minibatch": "#8C6D31",
    "two_phase": "#882255",
}
_OTHERS = ("#999999", "#11A579", "#80BA5A")

# Dashes tell lines apart where colour cannot: on paper, and where one covers another.
DASHES: dict[str, Any] = {
    "stable": (0, (5, 1.5)),
    "ablated": (0, (4, 1, 1, 1)),
    "rod": (0, (1, 1)),
    "edge": (0, (3, 1)),
    "two_phase": (0, (6, 1, 2, 1)),
    "linear": (0, (8, 1.5, 2, 1.5)),
}

COLUMN = 3.35
"""Width of a journal's column in inches."""

THRESHOLD: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "linestyle": (0, (2, 2)), "zorder": 0.5}
"""The line at the edge of stability."""

_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.3,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "agg.path.chunksize": 10_000,
}


def colour(process: str) -> str:
    """Colour of a process, the same in every figure; unknown ones get a fixed colour from their name."""
    return COLOURS.get(process) or _OTHERS[sum(process.encode()) % len(_OTHERS)]


def line(process: str) -> dict[str, Any]:
    """Colour and dashes of a process, as keyword arguments of ``plot``."""
    return {"color": colour(process), "linestyle": DASHES.get(process, "-")}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save with this project's settings, whatever the user's matplotlibrc says."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield
