"""The central flow predicts the loss of Scalar RMSProp, six architectures at three learning rates [part 2]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import finish, flow, learning_rate, mean, panels, raw, series, since
from cflow_cli.report import definitions, style

CAPTION = """
Training loss of Scalar RMSProp on six architectures (rows), at learning rates that grow from left to right:
at every iterate (pale), its mean over 50 steps (wide), and the central flow's prediction of that mean, L(w) +
½⟨H, Σ⟩ (black). The dotted line is where the flow reaches the edge of stability.
"""
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


def reached(run):
    """Step at which the flow reaches the edge of stability, or None."""
    return definitions.onset(
        series(run, "central", "effective_sharpness"), int(run.manifest.get("warm_start") or 0)
    )


def draw(runs):
    """Draw a grid of losses."""
    figure, axes = panels(len(runs) // 3, 3, height=1.15)
    for ax, (label, run) in zip(axes, runs.items()):
        loss = series(run, "discrete", "loss")
        raw(ax, loss, label="Scalar RMSProp")
        mean(ax, loss, label="its 50-step mean")
        flow(ax, definitions.prediction(run.metrics, "central"), label="predicted by the central flow")
        if reached(run) is not None:
            ax.axvline(reached(run), **style.THRESHOLD)
        ax.set_title(f"{NAMES[label.split()[0]]}, η = {learning_rate(run):g}", loc="left")
        ax.set_ylim(0)
        ax.set_xlim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return finish(figure)


def claims(runs):
    """Every run reaches the edge, and from there on its mean loss is predicted within 10 %."""
    for model, name in NAMES.items():
        own = [run for label, run in runs.items() if label.split()[0] == model]
        edges = [reached(run) for run in own]
        yield Claim(f"{name}: runs that reach the edge of stability", 3.0 - edges.count(None), low=3)
        errors = [error(run, edge) for run, edge in zip(own, edges) if edge is not None]
        yield Claim(
            f"{name}: |predicted − mean loss| over it, median from the edge on, largest of its runs",
            np.max(errors or [np.nan]),
            high=0.1,
        )


def error(run, edge):
    """Median relative error of the prediction of the mean loss, from a step on."""
    predicted = since(definitions.prediction(run.metrics, "central"), edge)
    return definitions.relative_error(series(run, "discrete", "loss"), predicted)
