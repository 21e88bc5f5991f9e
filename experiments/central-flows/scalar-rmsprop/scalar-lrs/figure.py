"""Scalar RMSProp at larger learning rates reaches the same loss at lower sharpness."""

from itertools import pairwise

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, raw, trend
from cflow_cli.figures.measuring import until
from cflow_cli.report import smoothing

CAPTION = """
Scalar RMSProp at three learning rates from the same weights, each until its training loss (a; thin; smoothed over 50
steps, wide) reaches the same level (dotted): the lowest that all of them reach. Sharpness λ_max(H) at the midpoints, up
to that step (b). The larger η, the lower the sharpness at equal loss, and the sooner that is reached.
"""
RATES = {"mini": (0.01, 0.02, 0.04), "paper": (0.005, 0.01, 0.02)}
SHARPNESS = Check(
    "sharpness {at equal loss, each η over the next smaller one}", high=0.9, paper="195/320 and 95/195"
)
STEPS = Check(
    "steps {to that loss, each η over the next smaller one}", high=0.9, paper="870/1310 and 460/870"
)


def runs(size):
    """Part 2's run at three learning rates, with their flows for other figures."""
    needed = {}
    for lr in RATES[size]:
        # At mini size the preset's own rate: its run is there for other figures.
        own = [] if (size, lr) == ("mini", 0.02) else [f"lr={lr:g}", "processes=[discrete,midpoint,central]"]
        needed[f"{lr:g}"] = [f"experiment=scalar_{size}", *own, *(["steps=1500"] if size == "paper" else [])]
    return needed


def common_level(runs):
    """The lowest mean loss over 50 steps that all runs reach."""
    return max(run.smoothed("discrete", "loss").min() for run in runs.values())


def reach(run, level):
    """First step at which the mean loss is at a level, and the mean sharpness over 50 steps there."""
    loss, sharpness = run.smoothed("discrete", "loss"), run.smoothed("midpoint", "sharpness")
    step = int(loss.index[(loss <= level).to_numpy()][0])
    return step, sharpness.iloc[abs(sharpness.index - step).argmin()]


def draw(**runs):
    """Draw loss and sharpness of each run up to the common level."""
    level = common_level(runs)
    figure, axes = panels(1, 2, titles=("training loss", "sharpness λ_max(H)"))
    for run, colour in zip(runs.values(), SHADES):
        step, _ = reach(run, level)
        loss, sharpness = run.series("discrete", "loss"), until(run.series("midpoint", "sharpness"), step)
        raw(axes[0], until(loss, step), color=colour)
        trend(axes[0], until(loss, step + smoothing.WINDOW // 2), color=colour, alpha=0.5)
        axes[1].plot(sharpness.index, sharpness, color=colour, label=f"η = {run.lr:g}")
    axes[0].axhline(level, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
    for ax in axes:
        ax.set_ylim(0)
    axes[1].legend()
    return figure


def claims(**runs):
    """From each learning rate to the next larger one, fewer steps and less sharpness at equal loss."""
    level = common_level(runs)
    for (small, run), (large, next_run) in pairwise(runs.items()):
        (step, sharpness), (next_step, next_sharpness) = (reach(each, level) for each in (run, next_run))
        where = f"at loss {level:.3g}, η = {large} over η = {small}"
        yield SHARPNESS(next_sharpness / sharpness, where)
        yield STEPS(next_step / step, where)
