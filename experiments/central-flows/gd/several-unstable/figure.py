"""Several eigenvalues reach 2/η, one after the other, and stay."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, eigenvalues, flow, panels, threshold
from cflow_cli.figures.measuring import late_mean
from cflow_cli.report import definitions

CAPTION = """
The four largest Hessian eigenvalues of gradient descent, measured at the midpoints of its iterates (colours) and of
the central flow (black). Each one that reaches 2/η (dotted) stays there, on average.
"""
ANIMATED = True
SHOWN = 4
ARRIVE = Check("eigenvalues that reach 2/η", low=2, paper="3, at steps 1750, 2000, 3000")
STAY = Check("{each eigenvalue} over 2/η, mean over the last half after {its arrival}", 0.95, 1.05)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def arrivals(run):
    """Step at which each of the largest eigenvalues of the central flow reaches the edge; those that do."""
    table = run.spectrum("central")
    found = {place: definitions.edge_step(table[place]) for place in table.columns[:SHOWN]}
    return {place: step for place, step in found.items() if step is not None}


def draw(gd):
    """Draw the largest eigenvalues of the midpoints and of the central flow."""
    edge = 2 / gd.lr
    figure, (ax,) = panels(1, 1, height=2.6)
    eigenvalues(ax, gd.spectrum("midpoint"), SHOWN, scale=gd.lr, linewidth=0.9)
    table = gd.spectrum("central")
    for place in table.columns[:SHOWN]:
        flow(ax, table[place] / gd.lr, linewidth=1.0, label="central flow" if place == 0 else None)
    threshold(ax, edge, f"2/η = {edge:g}")
    for place, step in arrivals(gd).items():
        ax.plot([step], [edge], "o", color=SHADES[place], markersize=4, zorder=5)
    ax.set_ylabel("Hessian eigenvalues")
    ax.set_ylim(0, 1.6 * edge)
    ax.legend(ncols=3, loc="upper left")
    return figure


def claims(gd):
    """At least two arrive, and each stays."""
    entered = arrivals(gd)
    yield ARRIVE(len(entered))
    table = gd.spectrum("midpoint") / 2
    for place, step in entered.items():
        yield STAY(late_mean(table[place], step), f"λ{place + 1}", f"step {step}")
