"""The central flow predicts RMSProp's oscillation along each direction, in the preconditioner's norm."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, variances

CAPTION = """
Generalised eigenvalues of the covariance Σ of RMSProp's oscillation, those of D^-½ΣD^-½: predicted by the central flow
(thin), and measured as the squared displacement of RMSProp from the flow along the same directions, mean over 50 steps
(wide, pale).
"""
SEVERAL = Check("directions that oscillate", low=2, paper="3")
VARIANCE = Check(
    "{each direction}: mean predicted over mean measured variance since {the middle of its time}",
    *(0.7, 1.3),
    paper="1.9e-4, 5e-5, 2.3e-5 at the end",
)


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(rmsprop):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    variances(ax, rmsprop.directions(), decades=3, headroom=3)
    ax.set_ylabel("variance in the D⁻¹ norm (loss)")
    return figure


def claims(rmsprop):
    """Several directions, each within 30 % over the later half of its time."""
    found = rmsprop.directions()
    yield SEVERAL(len(found))
    for each in found:
        yield VARIANCE(each.ratio, f"direction {each.place + 1}", f"step {each.middle}")
