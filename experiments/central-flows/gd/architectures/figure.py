"""Every architecture trains at the edge of stability, at each learning rate."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, raw, threshold
from cflow_cli.figures.measuring import since
from cflow_cli.report import definitions

CAPTION = """
Gradient descent on six architectures (columns) at several learning rates (colours): training loss (upper row) and
sharpness at the midpoints of the iterates over 2/η (lower row). Each reaches its 2/η (dotted).
"""
START = Check("{each architecture at each 2/η}: first sharpness over 2/η", high=0.95)
EDGE = Check("{each architecture at each 2/η}: median since it reached 2/η", 0.9, 1.1, paper="1")
_SORTING = ("data=sorting", "data.n=50")
# Model -> its overrides and learning rates, so small that each reaches the edge in minutes.
MINI = {
    "cnn": (("model=cnn", "model.channels=[8,16]", "model.dense=16", "model.init_scale=1.3"), (0.2, 0.4)),
    "resnet": (("model=resnet", "model.width=8", "model.stages=[1,1]", "model.pool=2"), (0.1, 0.14)),
    "vit": (
        (
            "model=vit",
            *("model.patch=2", "model.width=16", "model.depth=2", "model.heads=2", "model.head_width=16"),
            "model.hidden=32",
        ),
        (0.1, 0.14),
    ),
    "lstm": (("model=lstm", "model.width=16", "model.hidden=16", *_SORTING), (0.5, 1.0)),
    "transformer": (
        ("model=transformer", "model.width=16", "model.depth=2", "model.heads=2", *_SORTING),
        (0.05, 0.07),
    ),
    "mamba": (("model=mamba", "model.width=16", "model.states=8", *_SORTING), (0.07, 0.1)),
}
_PAPER_SORTING = ("data=sorting", "data.n=1000")
PAPER = {
    "cnn": (("model=cnn", "steps=4000"), (0.01, 2 / 150, 0.02)),
    "resnet": (("model=resnet", "steps=4000"), (0.01, 2 / 150, 0.02)),
    "vit": (("model=vit", "steps=6500"), (0.01, 2 / 150, 0.02)),
    "lstm": (("model=lstm", "steps=6000", *_PAPER_SORTING), (2 / 75, 0.04, 0.08)),
    "transformer": (("model=transformer", "steps=6000", *_PAPER_SORTING), (0.02, 2 / 75, 0.04)),
    "mamba": (("model=mamba", "steps=6000", "data=sorting", "data.n=250"), (0.005, 0.01, 0.02)),
}


def runs(size):
    """One run per architecture and learning rate."""
    cells = MINI if size == "mini" else PAPER
    return {
        f"{model} {lr:.4g}": [f"experiment=architectures_{size}", *overrides, f"lr={lr:.6g}"]
        for model, (overrides, rates) in cells.items()
        for lr in rates
    }


def by_model(runs):
    """Model -> its runs."""
    found = {}
    for label, run in runs.items():
        found.setdefault(label.split()[0], []).append(run)
    return found


def effective(run):
    """S_eff of the midpoints."""
    return run.series("midpoint", "effective_sharpness")


def draw(**runs):
    """Draw loss and sharpness, a column per architecture."""
    models = by_model(runs)
    figure, axes = panels(2, len(models), height=1.5)
    for column, (model, own) in enumerate(models.items()):
        upper, lower = axes[column], axes[len(models) + column]
        for run, colour in zip(own, SHADES):
            look = {"color": colour, "linewidth": 0.7, "alpha": 0.9}
            raw(upper, run.series("discrete", "loss"), label=f"2/η = {2 / run.lr:.3g}", **look)
            raw(lower, effective(run) / 2, **look)
        threshold(lower, 1)
        upper.set_title(model, loc="center")
        upper.set_ylim(0)
        upper.legend(fontsize=5.5, handlelength=0.8)
        upper.tick_params(labelbottom=False)
        lower.set_ylim(0, 1.6)
        lower.set_xlabel("step")
    axes[0].set_ylabel("training loss")
    axes[len(models)].set_ylabel("sharpness · η/2")
    return figure


def claims(**runs):
    """Each starts below its 2/η and reaches it."""
    for model, own in by_model(runs).items():
        for run in own:
            values = effective(run) / 2
            reached = definitions.edge_step(2 * values)
            after = since(values, reached or values.index[-1])
            name = f"{model} at 2/η = {2 / run.lr:.3g}"
            yield START(values.iloc[0], name)
            yield EDGE(after.median() if reached else 0, name)
