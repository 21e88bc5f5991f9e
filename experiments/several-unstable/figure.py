"""Several eigenvalues reach 2/η, one after the other, and stay [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    SHADES,
    eigenvalues,
    finish,
    flow,
    late_mean,
    learning_rate,
    panels,
    spectrum,
    threshold,
)
from cflow_cli.report import definitions

CAPTION = """
The four largest Hessian eigenvalues of gradient descent, measured at the midpoints of its iterates (colours) and of
the central flow (black). Each one that reaches 2/η (dotted) stays there, on average.
"""
ANIMATED = True
SHOWN = 4


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def arrivals(run):
    """Step at which each of the largest eigenvalues of the central flow reaches the edge; those that do."""
    table = spectrum(run, "central")
    found = {place: definitions.onset(table[place]) for place in table.columns[:SHOWN]}
    return {place: step for place, step in found.items() if step is not None}


def draw(runs):
    """Draw the largest eigenvalues of the midpoints and of the central flow."""
    run = runs["gd"]
    lr = learning_rate(run)
    figure, (ax,) = panels(1, 1, height=2.6)
    eigenvalues(ax, spectrum(run, "midpoint"), SHOWN, scale=lr, linewidth=0.9)
    table = spectrum(run, "central")
    for place in table.columns[:SHOWN]:
        flow(ax, table[place] / lr, linewidth=1.0, label="central flow" if place == 0 else None)
    threshold(ax, 2 / lr, f"2/η = {2 / lr:g}")
    for place, step in arrivals(run).items():
        ax.plot([step], [2 / lr], "o", color=SHADES[place], markersize=4, zorder=5)
    ax.set_ylabel("Hessian eigenvalues")
    ax.set_ylim(0, 1.6 * 2 / lr)
    ax.legend(ncols=3, loc="upper left")
    return finish(figure)


def claims(runs):
    """At least two arrive, and each stays."""
    run = runs["gd"]
    entered = arrivals(run)
    yield Claim("eigenvalues that reach 2/η", len(entered), low=2)
    table = spectrum(run, "midpoint") / 2
    for place, step in entered.items():
        late = late_mean(table[place], step)
        yield Claim(f"λ{place + 1} over 2/η, mean over the last half after step {step}", late, 0.95, 1.05)
