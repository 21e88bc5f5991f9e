"""The central flow predicts the loss of Scalar RMSProp, six architectures at three learning rates."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, trend
from cflow_cli.report import style

CAPTION = """
Training loss of Scalar RMSProp on six architectures (rows), at learning rates that grow from left to right:
at every iterate (pale), smoothed over 50 steps (wide), and the central flow's prediction of that mean, L(w) +
½⟨H, Σ⟩ (black). The dotted line is where the flow reaches the edge of stability.
"""
ARRIVE = Check("{each architecture}: runs that reach the edge of stability", low=3, paper="3 of 3")
ERROR = Check(
    "{each architecture}: |predicted − mean loss| over it, median from the edge on, largest of its runs",
    high=0.1,
)
NAMES = {
    "cnn": "CNN",
    "resnet": "ResNet",
    "vit": "ViT",
    "lstm": "LSTM",
    "transformer": "Transformer",
    "mamba": "Mamba",
}
# Of each architecture: overrides, learning rates; so that each reaches the edge early in a run of a minute.
_STRINGS = ("data=sorting", "data.length=4", "data.n=50")
_SMALL_VIT = ("patch=4", "width=16", "depth=2", "heads=2", "head_width=8", "hidden=32")
MINI = {
    "resnet": (("model.width=8", "model.stages=[1,1]", "model.pool=2", "data.n=50"), (0.02, 0.03, 0.04)),
    "vit": ((*(f"model.{text}" for text in _SMALL_VIT), "data.n=50"), (0.015, 0.02, 0.03)),
    "lstm": (("model.width=16", "model.hidden=32", *_STRINGS), (0.03, 0.04, 0.06)),
    "transformer": (("model.width=16", "model.depth=2", "model.heads=2", *_STRINGS), (0.01, 0.02, 0.04)),
    "mamba": (("model.width=16", "model.states=8", "model.init_scale=5", *_STRINGS), (0.01, 0.02, 0.04)),
}
_SORTING = ("data=sorting", "data.n=1000", "steps=8000")
PAPER = {
    "cnn": (("data=cifar10", "steps=8000"), (0.005, 0.01, 0.02)),
    "resnet": (("data=cifar10", "steps=3000"), (0.007, 0.01, 0.02)),
    "vit": (("data=cifar10", "steps=4000"), (0.007, 0.01, 0.02)),
    "lstm": (_SORTING, (0.01, 0.02, 0.04)),
    "transformer": (_SORTING, (0.005, 0.01, 0.02)),
    "mamba": (("data=sorting", "data.n=250", "steps=5000"), (0.005, 0.01, 0.02)),
}


def runs(size):
    """Three runs of each architecture; at mini size those of the CNN are there for other figures."""
    needed = {}
    if size == "mini":
        others = "processes=[discrete,midpoint,central]"
        for lr, own in ((0.01, ["lr=0.01", others]), (0.02, []), (0.04, ["lr=0.04", others])):
            needed[f"cnn {lr}"] = ["experiment=scalar_mini", *own]
    for model, (options, rates) in (MINI if size == "mini" else PAPER).items():
        for lr in rates:
            first = [f"experiment=scalar_losses_{size}", f"model={model}"]
            needed[f"{model} {lr}"] = [*first, *options, f"lr={lr}"]
    return needed


def draw(**runs):
    """Draw a grid of losses."""
    titles = [f"{NAMES[label.split()[0]]}, η = {run.lr:g}" for label, run in runs.items()]
    figure, axes = panels(len(runs) // 3, 3, titles=titles, height=1.15)
    for ax, run in zip(axes, runs.values()):
        loss = run.series("discrete", "loss")
        raw(ax, loss, label="Scalar RMSProp")
        trend(ax, loss, label="smoothed over 50 steps")
        flow(ax, run.prediction(), label="predicted by the central flow")
        if run.edge_step() is not None:
            ax.axvline(run.edge_step(), **style.THRESHOLD)
        ax.set_ylim(0)
        ax.set_xlim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def claims(**runs):
    """Every run reaches the edge, and from there on its mean loss is predicted within 10 %."""
    for model, name in NAMES.items():
        own = [run for label, run in runs.items() if label.split()[0] == model]
        arrived = [run for run in own if run.edge_step() is not None]
        yield ARRIVE(len(arrived), name)
        yield ERROR(np.max([run.error("loss") for run in arrived] or [np.nan]), name)
