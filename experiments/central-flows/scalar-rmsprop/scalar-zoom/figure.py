"""One cycle at the edge: β₂ sets whether sharpness or ν gives way."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, threshold
from cflow_cli.figures.measuring import since

CAPTION = """
The first cycle at the edge of stability of two runs of Scalar RMSProp, which differ in β₂ only, against steps
since their effective sharpness passed 2: displacement of the iterates w from the central flow w̄ along the
critical direction u (a), training loss (b), squared gradient norm (c), ν (d), sharpness (e), effective
sharpness (f); (d) to (f) at midpoints. The oscillation ends in two ways: it raises ν, and it lowers the
sharpness. At the larger β₂ the spike weighs less in ν, so the oscillation grows larger and more of the
reduction comes from the sharpness.
"""
BEFORE = 20
TITLES = (
    *("displacement uᵀD$^{−½}$(w − w̄)", "training loss", "squared gradient norm"),
    *("ν", "sharpness λ_max(H)", "effective sharpness"),
)
SPIKE = Check("squared gradient norm at its peak, β₂ = 0.999 over 0.99", low=1, paper="4.4 over 1.4")
TROUGH = Check(
    "trough of the sharpness over its peak, β₂ = 0.999",
    paper="troughs 49 and 61",
    words="at most that at 0.99",
)
RISE = Check(
    "ν at its largest over ν where the cycle starts, β₂ = 0.999",
    paper="largest ν .055 and .079",
    words="at most that at 0.99",
)


def runs(size):
    """Part 2's run, and one at the larger β₂."""
    preset = f"experiment=scalar_{size}"
    return {
        "0.99": [preset],
        "0.999": [preset, "optimizer.b2=0.999", "processes=[discrete,midpoint,central]"],
    }


def cycle(run):
    """Steps at which S_eff passes 2 upwards for good, is lowest after it, and passes 2 again (or the run ends)."""
    effective = run.series("midpoint", "effective_sharpness")
    last = int(effective.index[-1])
    start = run.edge_step("midpoint")
    start = last if start is None else start
    after = since(effective, start)
    down = after.index[(after < 2).to_numpy()]
    fallen = int(down[down > start][0]) if (down > start).any() else last
    up = after.index[(after >= 2).to_numpy()]
    end = int(up[up > fallen][0]) if (up > fallen).any() else last
    return start, int(after.loc[fallen:end].idxmin()), end


def shown(run):
    """What is drawn in the cycle, against steps since its start."""
    start, _, end = cycle(run)
    for values in (
        run.spectrum("central", "displacement")[0].dropna(),
        run.series("discrete", "loss"),
        run.series("discrete", "grad_norm_sq"),
        run.second_moment("midpoint"),
        run.series("midpoint", "sharpness"),
        run.series("midpoint", "effective_sharpness"),
    ):
        values = values.loc[start - BEFORE : end]
        yield values.set_axis(values.index - start)


def draw(**runs):
    """Draw both cycles in six panels."""
    figure, axes = panels(2, 3, titles=TITLES, sharex=True)
    for (beta, run), colour in zip(runs.items(), SHADES):
        for ax, values in zip(axes, shown(run)):
            ax.plot(values.index, values, color=colour, label=f"β₂ = {beta}")
    for ax in axes[3:]:
        ax.set_xlabel("optimizer steps since S_eff passed 2")
    threshold(axes[5], 2)
    axes[3].legend(loc="upper left")
    return figure


def measures(run):
    """Trough of the sharpness over the peak before it, ν's rise, and the largest squared gradient norm."""
    start, low, end = cycle(run)
    sharpness = run.series("midpoint", "sharpness").loc[start:end]
    nu = run.second_moment("midpoint").loc[start:end]
    peak = int(sharpness.loc[:low].idxmax())
    gradient = run.series("discrete", "grad_norm_sq").loc[start:end]
    return sharpness.loc[peak:].min() / sharpness[peak], nu.max() / nu[start], gradient.max()


def claims(**runs):
    """At the larger β₂ the gradient spikes higher, the sharpness falls further, and ν rises less."""
    (trough, rise, spike), (trough_large, rise_large, spike_large) = (measures(run) for run in runs.values())
    yield SPIKE(spike_large / spike)
    yield TROUGH(trough_large, high=trough)
    yield RISE(rise_large, high=rise)
