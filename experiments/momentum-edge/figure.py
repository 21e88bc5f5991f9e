"""With momentum, too, the edge is where S_eff = 2: at each optimizer's own threshold [beyond the paper]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    distance_ratio,
    edge_step,
    eigenvalues,
    finish,
    flow,
    panels,
    series,
    since,
    spectrum,
    threshold,
)

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


def runs(size):
    """A run of each optimizer."""
    return {
        name: [f"experiment=momentum_{size}", f"optimizer={name}", *own] for name, own in OWN[size].items()
    }


def draw(runs):
    """Draw eigenvalues above distances, a column per optimizer."""
    figure, axes = panels(2, len(runs), height=1.8)
    for (name, run), upper, lower in zip(runs.items(), axes[: len(runs)], axes[len(runs) :]):
        eigenvalues(upper, spectrum(run, "midpoint").dropna(how="all"), SHOWN, linewidth=0.8)
        flow(upper, series(run, "central", "effective_sharpness"), label="central flow")
        threshold(upper, 2)
        upper.set_ylim(0, 3)
        upper.set_title(f"{OPTIMIZERS[name]}, S_eff", loc="left")
        for process in ("stable", "central"):
            distance = series(run, process, "distance_to_discrete")
            flow(lower, distance[distance > 0], process, label=f"{process} flow")
        lower.set_yscale("log")
        lower.set_title("distance", loc="left")
    above, below = (dict(zip(*reversed(ax.get_legend_handles_labels()))) for ax in (axes[0], axes[len(runs)]))
    entries = below | above
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries))
    return finish(figure)


def claims(runs):
    """Each equilibrates at its threshold, and the central flow is several times nearer than the stable flow."""
    for name, run in runs.items():
        after = since(series(run, "midpoint", "effective_sharpness"), edge_step(run))
        yield Claim(
            f"{OPTIMIZERS[name]}: S_eff of the midpoints, mean over the last half after reaching 2",
            after.iloc[len(after) // 2 :].mean() if len(after) > 1 else float("nan"),
            1.9,
            2.1,
        )
        yield Claim(
            f"{OPTIMIZERS[name]}: distance of the stable flow over that of the central flow, at the end",
            distance_ratio(run),
            low=3,
        )
