"""With momentum, too, the edge is where S_eff = 2: at each optimizer's own threshold."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import eigenvalues, flow, panels, threshold
from cflow_cli.figures.measuring import late_mean

CAPTION = """
Heavy ball, Nesterov, Adam and NAdam. Above, the three largest effective eigenvalues at the midpoints of the optimizer
(colours) and the largest along the central flow (black); 2 is each optimizer's own threshold. Below, the distance of
the central flow (black) and of the stable flow (dashed) from the optimizer, on a logarithmic scale.
"""
SHOWN = 3
OPTIMIZERS = {"momentum": "heavy ball", "nesterov": "Nesterov", "adam": "Adam", "nadam": "NAdam"}
# At mini size momentum is weak: with more, sharpness changes faster than the oscillation follows (README).
OWN = {
    "mini": {
        "momentum": ["optimizer.momentum=0.5", "lr=0.05", "steps=900"],
        "nesterov": ["optimizer.momentum=0.5", "lr=0.05", "steps=900"],
        "adam": ["optimizer.b2=0.99", "lr=0.003", "steps=800", "warm_start=20"],
        "nadam": ["optimizer.b2=0.99", "lr=0.001", "warm_start=20"],
    },
    "paper": {
        "momentum": ["lr=0.01"],
        "nesterov": ["lr=0.01"],
        "adam": ["optimizer.b2=0.99", "lr=1.0e-4", "warm_start=20"],
        "nadam": ["optimizer.b2=0.99", "lr=1.0e-4", "warm_start=20"],
    },
}
EDGE = Check("{each optimizer}: S_eff of the midpoints, mean over the last half after reaching 2", 1.9, 2.1)
NEARER = Check(
    "{each optimizer}: distance of the stable flow over that of the central flow, at the end", low=3
)


def runs(size):
    """A run of each optimizer."""
    return {
        name: [f"experiment=momentum_{size}", f"optimizer={name}", *own] for name, own in OWN[size].items()
    }


def draw(**runs):
    """Draw eigenvalues above distances, a column per optimizer."""
    count = len(runs)
    titles = [*(f"{OPTIMIZERS[name]}, S_eff" for name in runs), *["distance"] * count]
    figure, axes = panels(2, count, titles=titles, height=1.8)
    for run, upper, lower in zip(runs.values(), axes[:count], axes[count:]):
        eigenvalues(upper, run.spectrum("midpoint").dropna(how="all"), SHOWN, linewidth=0.8)
        flow(upper, run.series("central", "effective_sharpness"), label="central flow")
        threshold(upper, 2)
        upper.set_ylim(0, 3)
        for process in ("stable", "central"):
            distance = run.series(process, "distance_to_discrete")
            flow(lower, distance[distance > 0], process, label=f"{process} flow")
        lower.set_yscale("log")
    above, below = (dict(zip(*reversed(ax.get_legend_handles_labels()))) for ax in (axes[0], axes[count]))
    entries = below | above
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries))
    return figure


def claims(**runs):
    """Each equilibrates at its threshold, and the central flow is several times nearer than the stable flow."""
    for name, run in runs.items():
        yield EDGE(late_mean(run.series("midpoint", "effective_sharpness"), run.edge), OPTIMIZERS[name])
        yield NEARER(run.times_nearer(), OPTIMIZERS[name])
