"""A path through networks of half their units has a bound on its loss without training; it falls with width."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels

CAPTION = """
Training loss along the nine segments of a dropout path between two networks of two hidden layers, of 32 (a) and 128
units (b): half networks with their own output layer times two (blue), and with the output layer of least loss (red).
Marks are corners; dashed, the bound.
"""
BELOW = Check("{each path}: largest loss minus the bound", high=1e-5, paper="at most ε (theorem 1)")
REFIT = Check("{each width}: bound with the output layer of least loss over that with its own", high=0.3)
WIDTH = Check("{each output layer}: bound at the larger width over that at the smaller", high=1.0)
WIDTHS = {"mini": (32, 128), "paper": (128, 512)}
TOPS = {"own": ("#0072B2", "own output layer"), "best": ("#D55E00", "output layer of least loss")}


def runs(size):
    """Two initial weights at each width, trained until the loss is small."""
    return {
        f"{name} {seed}": [f"experiment=dropout_{size}", f"model.widths=[{width},{width}]", f"seed={seed}"]
        for name, width in zip(("narrow", "wide"), WIDTHS[size])
        for seed in (0, 1)
    }


def paths(size):
    """The path with either output layer at each width."""
    return {
        f"{name} {top}": (
            f"{name} 0",
            f"{name} 1",
            {"kind": "dropout", "refit": top == "best", "points": 145},
        )
        for name in ("narrow", "wide")
        for top in TOPS
    }


def draw(**found):
    """Draw the losses of the paths."""
    widths = [found[f"{name} 0"].config["model"]["widths"][0] for name in ("narrow", "wide")]
    figure, axes = panels(
        1, 2, height=2.2, titles=[f"{width} units in a layer" for width in widths], sharey=True
    )
    for ax, name in zip(axes, ("narrow", "wide")):
        for top, (colour, label) in TOPS.items():
            path = found[f"{name} {top}"]
            loss, segments = path.loss("dropout"), 9
            corners = loss.iloc[:: (len(loss) - 1) // segments]
            ax.plot(loss.index, loss, color=colour, label=label)
            ax.plot(corners.index, corners, "o", color=colour, markersize=2.5)
            ax.axhline(path["dropout"]["bound"], color=colour, linewidth=0.7, linestyle=(0, (3, 3)))
        ax.set_yscale("log")
        ax.set_xlabel("t")
    axes[0].set_ylabel("training loss")
    axes[1].legend()
    return figure


def claims(**found):
    """No point lies above the bound, which falls with width and with the output layer of least loss."""
    bounds = {}
    for name in ("narrow", "wide"):
        for top in TOPS:
            path = found[f"{name} {top}"]["dropout"]
            bounds[name, top] = path["bound"]
            yield BELOW(path["max_loss"] - path["bound"], f"{name}, {TOPS[top][1]}")
    for name in ("narrow", "wide"):
        yield REFIT(bounds[name, "best"] / bounds[name, "own"], name)
    for top, (_, label) in TOPS.items():
        yield WIDTH(bounds["wide", top] / bounds["narrow", top], label)
