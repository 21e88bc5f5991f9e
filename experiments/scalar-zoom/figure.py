"""One cycle at the edge: β₂ sets whether sharpness or ν gives way [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    SHADES,
    edge_step,
    finish,
    panels,
    second_moment,
    series,
    spectrum,
    threshold,
)

CAPTION = """
The first cycle at the edge of stability of two runs of Scalar RMSProp, which differ in β₂ only, against steps
since their effective sharpness passed 2: displacement of the iterates w from the central flow w̄ along the
critical direction u (a), training loss (b), squared gradient norm (c), ν (d), sharpness (e), effective
sharpness (f); (d) to (f) at midpoints. The oscillation ends in two ways: it raises ν, and it lowers the
sharpness. At the larger β₂ the spike weighs less in ν, so the oscillation grows larger and more of the
reduction comes from the sharpness.
"""
BEFORE = 20


def runs(size):
    """Part 2's run, and one at the larger β₂."""
    preset = f"experiment=scalar_{size}"
    return {
        "0.99": [preset],
        "0.999": [preset, "optimizer.b2=0.999", "processes=[discrete,midpoint,central]"],
    }


def cycle(run):
    """Steps at which S_eff passes 2 upwards for good, is lowest after it, and passes 2 again (or the run ends)."""
    effective = series(run, "midpoint", "effective_sharpness")
    start = edge_step(run, "midpoint")
    after = effective[effective.index >= start]
    down = after.index[(after < 2).to_numpy()]
    fallen = int(down[down > start][0]) if (down > start).any() else int(after.index[-1])
    up = after.index[(after >= 2).to_numpy()]
    end = int(up[up > fallen][0]) if (up > fallen).any() else int(after.index[-1])
    return start, int(after.loc[fallen:end].idxmin()), end


def window(run, process, column=None):
    """What a process does in the cycle, against steps since its start."""
    values = second_moment(run, process) if column is None else series(run, process, column)
    start, _, end = cycle(run)
    values = values[(values.index >= start - BEFORE) & (values.index <= end)]
    return values.set_axis(values.index - start)


def displacement(run):
    """Along the first critical direction, where there is one."""
    start, _, end = cycle(run)
    values = spectrum(run, "central", "displacement")[0].dropna()
    values = values[(values.index >= start - BEFORE) & (values.index <= end)]
    return values.set_axis(values.index - start)


def draw(runs):
    """Draw both cycles in six panels."""
    figure, axes = panels(2, 3, sharex=True)
    for (beta, run), colour in zip(runs.items(), SHADES):
        shown = [
            displacement(run),
            window(run, "discrete", "loss"),
            window(run, "discrete", "grad_norm_sq"),
            window(run, "midpoint"),
            window(run, "midpoint", "sharpness"),
            window(run, "midpoint", "effective_sharpness"),
        ]
        for ax, values in zip(axes, shown):
            ax.plot(values.index, values, color=colour, label=f"β₂ = {beta}")
    titles = ("displacement uᵀD$^{−½}$(w − w̄)", "training loss", "squared gradient norm", "ν")
    for ax, title in zip(axes, (*titles, "sharpness λ_max(H)", "effective sharpness")):
        ax.set_title(title, loc="left")
    for ax in axes[3:]:
        ax.set_xlabel("optimizer steps since S_eff passed 2")
    threshold(axes[5], 2)
    axes[3].legend(loc="upper left")
    return finish(figure)


def measures(run):
    """Trough of the sharpness over the peak before it, ν's rise, and the largest squared gradient norm."""
    start, low, end = cycle(run)
    sharpness = series(run, "midpoint", "sharpness").loc[start:end]
    nu = second_moment(run, "midpoint").loc[start:end]
    peak = int(sharpness.loc[:low].idxmax())
    gradient = series(run, "discrete", "grad_norm_sq").loc[start:end]
    return sharpness.loc[peak:].min() / sharpness[peak], nu.max() / nu[start], gradient.max()


def claims(runs):
    """At the larger β₂ the gradient spikes higher, the sharpness falls further, and ν rises less."""
    (trough, rise, spike), (trough_large, rise_large, spike_large) = (measures(run) for run in runs.values())
    yield Claim("squared gradient norm at its peak, β₂ = 0.999 over 0.99", spike_large / spike, low=1)
    yield Claim("trough of the sharpness over its peak, β₂ = 0.999", trough_large, high=trough)
    yield Claim("ν at its largest over ν where the cycle starts, β₂ = 0.999", rise_large, high=rise)
