"""Gradient descent at the edge of stability and its central flow end in one basin; gradient flow ends outside of it."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.report import style

CAPTION = """
Training loss above the chord along straight lines between ends. A long run at the edge of stability (a): from
gradient descent to its central flow there is no barrier, from either to gradient flow there is one. A short one, with
three initial weights (b): lines to the central flow (black) and to gradient flow (dashed), and between different
initial weights (grey).
"""
STAYS = Check("long run: barrier to its central flow over the loss", high=0.01)
LEAVES = Check("long run: barrier to gradient flow over the loss", low=0.1)
ONE_BASIN = Check(
    "{each initial weights}: barrier to its central flow over that to other initial weights", high=1e-3
)
SEEDS = (0, 1, 2)
LINE = {"kind": "line"}


def runs(size):
    """Part 1's run of central flows, and three shorter ones."""
    return {
        "long": [f"experiment=gd_{size}"],
        **{f"seed {seed}": [f"experiment=connectivity_{size}", f"seed={seed}"] for seed in SEEDS},
    }


def paths(size):
    """Straight lines between ends of one run, and between optimizers of different initial weights."""
    own = {
        f"{label} to {flow}": (f"{label}@discrete", f"{label}@{flow}", LINE)
        for label in ("long", *(f"seed {seed}" for seed in SEEDS))
        for flow in ("central", "stable")
    }
    others = {f"from seed {a}": (f"seed {a}", f"seed {(a + 1) % len(SEEDS)}", LINE) for a in SEEDS}
    return {**own, "long between flows": ("long@central", "long@stable", LINE), **others}


def above_chord(path):
    """Loss above the chord between the losses of the ends, over the larger of them."""
    loss = path.loss()
    return (loss - (1 - loss.index) * loss.iloc[0] - loss.index * loss.iloc[-1]) / path.end_loss


def draw(**found):
    """Draw the losses along the lines."""
    figure, (long, short) = panels(1, 2, height=2.2, titles=("a long run at the edge", "short ones"))
    for label, process, name in (
        ("long to central", "central", "to its central flow"),
        ("long to stable", "stable", "to gradient flow"),
        ("long between flows", "rod", "from the central to gradient flow"),
    ):
        values = above_chord(found[label])
        long.plot(values.index, values, **style.line(process), label=name)
    for seed in SEEDS:
        for label, look in (
            (f"from seed {seed}", {"color": SHADES[seed], "label": f"from seed {seed} to another"}),
            (f"seed {seed} to stable", style.line("stable")),
            (f"seed {seed} to central", style.line("central")),
        ):
            values = above_chord(found[label])
            short.plot(values.index, values, **look)
    for ax in (long, short):
        ax.axhline(0, color="#999999", linewidth=0.6, zorder=0)
        ax.set_xlabel("t")
    long.set_ylim(top=0.75)
    short.set_ylim(top=16)
    for ax in (long, short):
        ax.legend(loc="upper left")
    long.set_ylabel("loss above the chord, over the loss")
    return figure


def claims(**found):
    """Barriers over the loss, and over those between different initial weights."""
    for check, label in ((STAYS, "long to central"), (LEAVES, "long to stable")):
        path = found[label]
        yield check(path["line"]["barrier"] / path.end_loss)
    for seed in SEEDS:
        own, other = (
            found[label]["line"]["barrier"] for label in (f"seed {seed} to central", f"from seed {seed}")
        )
        yield ONE_BASIN(own / other, f"initial weights {seed}")
