"""One cycle at the edge of stability: oscillation grows, sharpness falls, oscillation dies [part 1]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    finish,
    flow,
    learning_rate,
    panels,
    raw,
    series,
    spectrum,
    threshold,
)
from cflow_cli.report import definitions

CAPTION = """
The first cycle of gradient descent at the edge of stability: training loss (a), sharpness at the midpoints of the
iterates (b), displacement of the iterates from the central flow along its first critical eigenvector (c). Above 2/η
(dotted) the oscillation grows; a large oscillation lowers the sharpness; below 2/η the oscillation dies.
"""
ANIMATED = True


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def cycle(run):
    """Sharpness over 2/η at the midpoints, and the steps at which it is first above, below, and above 1 again."""
    sharpness = series(run, "midpoint", "sharpness") * learning_rate(run) / 2
    up = definitions.onset(2 * sharpness) or 0
    after = sharpness[sharpness.index >= up]
    peak = after.index[np.argmax(after.to_numpy() >= after.iloc[:100].max())]
    falling = after[after.index >= peak]
    down = int(falling.index[np.argmax(falling.to_numpy() < 1)])
    rising = falling[falling.index > down]
    again = (
        int(rising.index[np.argmax(rising.to_numpy() >= 1)]) if (rising >= 1).any() else int(rising.index[-1])
    )
    return sharpness, int(up), down, again


def displacement(run):
    """Along the first critical eigenvector of the central flow, in the units of the weights."""
    # Recorded in the D^-1 norm, and D = η here.
    return spectrum(run, "central", "displacement")[0] * learning_rate(run) ** 0.5


def draw(runs):
    """Draw loss, sharpness and displacement over the first cycle."""
    run = runs["gd"]
    sharpness, up, down, again = cycle(run)
    first, last = up - (down - up), again + (again - down) // 4
    edge = 2 / learning_rate(run)
    figure, axes = panels(1, 3)

    def cut(values):
        return values[(values.index >= first) & (values.index <= last)]

    raw(axes[0], cut(series(run, "discrete", "loss")), linewidth=0.9, alpha=1)
    raw(axes[1], cut(sharpness * edge), "midpoint", linewidth=1.2, alpha=1)
    threshold(axes[1], edge, f"2/η = {edge:g}")
    raw(axes[2], cut(displacement(run)), linewidth=0.9, alpha=1)
    flow(axes[2], cut(displacement(run) * 0), linewidth=0.8)
    for ax, title in zip(axes, ("training loss", "sharpness", "displacement along u")):
        ax.set_title(title, loc="left")
        ax.set_xlim(first, last)
    return finish(figure)


def claims(runs):
    """Growth above 2/η, then the sharpness falls below 2/η and the oscillation dies."""
    run = runs["gd"]
    sharpness, up, down, again = cycle(run)
    size = displacement(run).abs().rolling(2).max()
    loss = series(run, "discrete", "loss")
    grown = size[(size.index >= up) & (size.index <= down)]
    died = size[(size.index > down) & (size.index <= again)]
    yield Claim("largest sharpness over 2/η in the cycle", sharpness.loc[up:down].max(), low=1)
    yield Claim("growth of the oscillation while above 2/η", grown.max() / grown.dropna().iloc[0], low=5)
    yield Claim("loss at its peak over loss at the cycle's start", loss.loc[up:again].max() / loss[up], low=1)
    yield Claim("smallest sharpness over 2/η after it", sharpness.loc[down:again].min(), high=0.95)
    yield Claim(
        "oscillation when 2/η is reached again over its largest", died.iloc[-1] / grown.max(), high=0.2
    )
