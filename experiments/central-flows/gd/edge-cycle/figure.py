"""One cycle at the edge of stability: oscillation grows, sharpness falls, oscillation dies."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, threshold
from cflow_cli.figures.measuring import since
from cflow_cli.report import definitions

CAPTION = """
The first cycle of gradient descent at the edge of stability: training loss (a), sharpness at the midpoints of the
iterates (b), displacement of the iterates from the central flow along its first critical eigenvector (c). Above 2/η
(dotted) the oscillation grows; a large oscillation lowers the sharpness; below 2/η the oscillation dies.
"""
ANIMATED = True
PEAK = Check("largest sharpness over 2/η in the cycle", low=1, paper="1.11")
GROWTH = Check("growth of the oscillation while above 2/η", low=5)
LOSS = Check("loss at its peak over loss at the cycle's start", low=1)
TROUGH = Check("smallest sharpness over 2/η after it", high=0.95, paper="0.90")
DEATH = Check("oscillation when 2/η is reached again over its largest", high=0.2)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def cycle(run):
    """Sharpness over 2/η at the midpoints, and the steps at which it is first above, below, and above 1 again."""
    sharpness = run.series("midpoint", "sharpness") * run.lr / 2
    up = definitions.edge_step(2 * sharpness) or 0
    after = since(sharpness, up)
    peak = after.index[np.argmax(after.to_numpy() >= after.iloc[:100].max())]
    falling = since(after, peak)
    down = int(falling.index[np.argmax(falling.to_numpy() < 1)])
    rising = since(falling, down + 1)
    again = rising.index[np.argmax(rising.to_numpy() >= 1)] if (rising >= 1).any() else rising.index[-1]
    return sharpness, int(up), down, int(again)


def displacement(run):
    """Along the first critical eigenvector of the central flow, in the units of the weights."""
    # Recorded in the D^-1 norm, and D = η here.
    return run.spectrum("central", "displacement")[0] * run.lr**0.5


def draw(gd):
    """Draw loss, sharpness and displacement over the first cycle."""
    sharpness, up, down, again = cycle(gd)
    first, last = up - (down - up), again + (again - down) // 4
    edge = 2 / gd.lr
    figure, axes = panels(1, 3, titles=("training loss", "sharpness", "displacement along u"))
    along = displacement(gd).loc[first:last]
    raw(axes[0], gd.series("discrete", "loss").loc[first:last], linewidth=0.9, alpha=1)
    raw(axes[1], (sharpness * edge).loc[first:last], "midpoint", linewidth=1.2, alpha=1)
    threshold(axes[1], edge, f"2/η = {edge:g}")
    raw(axes[2], along, linewidth=0.9, alpha=1)
    flow(axes[2], along * 0, linewidth=0.8)
    for ax in axes:
        ax.set_xlim(first, last)
    return figure


def claims(gd):
    """Growth above 2/η, then the sharpness falls below 2/η and the oscillation dies."""
    sharpness, up, down, again = cycle(gd)
    size = displacement(gd).abs().rolling(2).max()
    loss = gd.series("discrete", "loss")
    grown, died = size.loc[up:down], size.loc[down + 1 : again]
    yield PEAK(sharpness.loc[up:down].max())
    yield GROWTH(grown.max() / grown.dropna().iloc[0])
    yield LOSS(loss.loc[up:again].max() / loss[up])
    yield TROUGH(sharpness.loc[down:again].min())
    yield DEATH(died.iloc[-1] / grown.max())
