"""The central flow predicts the variance along each direction of the oscillation."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, variances

CAPTION = """
Variances of the oscillation of gradient descent along the eigenvectors of Σ: predicted by the central flow (thin) and
measured as the squared displacement from the flow, mean over 50 steps (wide, pale).
"""
ANIMATED = True
SEVERAL = Check("directions that oscillate", low=2, paper="3")
VARIANCE = Check(
    "{each direction}: mean predicted over mean measured variance since {the middle of its time}",
    *(0.7, 1.3),
    paper="0.0087, 0.006, 0.0038",
)


def runs(size):
    """Part 1's run; at mini the one at the larger learning rate, where more than one direction oscillates for long."""
    return {"gd": [f"experiment=gd_{size}", *(["lr=0.2"] if size == "mini" else [])]}


def found(run):
    """Variances along each eigenvector of Σ, in units of weight²."""
    # Recorded in the D^-1 norm, and D = η here.
    return run.directions(run.lr)


def draw(gd):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    variances(ax, found(gd), decades=4, headroom=2)
    ax.set_ylabel("variance")
    return figure


def claims(gd):
    """Several directions, each within 30 % over the later half of its time."""
    yield SEVERAL(len(found(gd)))
    for each in found(gd):
        yield VARIANCE(each.ratio, f"direction {each.place + 1}", f"step {each.middle}")
