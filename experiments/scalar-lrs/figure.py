"""Scalar RMSProp at larger learning rates reaches the same loss at lower sharpness [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import SHADES, finish, learning_rate, mean, panels, raw, series
from cflow_cli.report import definitions

CAPTION = """
Scalar RMSProp at three learning rates from the same weights, each until its training loss (a; thin; its
50-step mean wide) reaches the same level (dotted): the lowest that all of them reach. Sharpness λ_max(H) at
the midpoints, up to that step (b). The larger η, the lower the sharpness at equal loss, and the sooner that
is reached.
"""
RATES = {"mini": (0.01, 0.02, 0.04), "paper": (0.005, 0.01, 0.02)}


def runs(size):
    """Part 2's run at three learning rates, with their flows for other figures."""
    needed = {}
    for lr in RATES[size]:
        # At mini size the preset's own rate: its run is there for other figures.
        own = [] if (size, lr) == ("mini", 0.02) else [f"lr={lr:g}", "processes=[discrete,midpoint,central]"]
        needed[f"{lr:g}"] = [f"experiment=scalar_{size}", *own, *(["steps=1500"] if size == "paper" else [])]
    return needed


def smooth_loss(run):
    """Mean of the loss over 50 steps."""
    return definitions.smoothed(series(run, "discrete", "loss"))


def common_level(runs):
    """The lowest loss that all runs reach."""
    return max(smooth_loss(run).min() for run in runs.values())


def reach(run, level):
    """First step at which the mean loss is at a level, and the mean sharpness over 50 steps there."""
    loss = smooth_loss(run)
    step = int(loss.index[(loss <= level).to_numpy()][0])
    sharpness = definitions.smoothed(series(run, "midpoint", "sharpness"))
    return step, sharpness.iloc[abs(sharpness.index - step).argmin()]


def draw(runs):
    """Draw loss and sharpness of each run up to the common level."""
    level = common_level(runs)
    figure, axes = panels(1, 2)
    for run, colour in zip(runs.values(), SHADES):
        step, _ = reach(run, level)
        loss, sharpness = series(run, "discrete", "loss"), series(run, "midpoint", "sharpness")
        raw(axes[0], loss[loss.index <= step], color=colour)
        mean(axes[0], loss[loss.index <= step + definitions.WINDOW // 2], color=colour, alpha=0.5)
        axes[1].plot(
            *line(sharpness[sharpness.index <= step]), color=colour, label=f"η = {learning_rate(run):g}"
        )
    axes[0].axhline(level, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
    axes[0].set_title("training loss", loc="left")
    axes[1].set_title("sharpness λ_max(H)", loc="left")
    axes[0].set_ylim(0)
    axes[1].set_ylim(0)
    axes[1].legend()
    return finish(figure)


def line(values):
    """Steps and values."""
    return values.index, values


def claims(runs):
    """From each learning rate to the next larger one, fewer steps and less sharpness at equal loss."""
    level = common_level(runs)
    reached = {lr: reach(run, level) for lr, run in runs.items()}
    for (small, (step, sharpness)), (large, (next_step, next_sharpness)) in zip(
        list(reached.items()), list(reached.items())[1:]
    ):
        where = f"at loss {level:.3g}, η = {large} over η = {small}"
        yield Claim(f"sharpness {where}", next_sharpness / sharpness, high=0.9)
        yield Claim(f"steps {where}", next_step / step, high=0.9)
