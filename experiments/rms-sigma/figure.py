"""The central flow predicts RMSProp's oscillation along each direction, in the preconditioner's norm [part 3]."""

from cflow_cli.figures.drawing import directions, finish, panels, variance_claims, variances

CAPTION = """
Generalised eigenvalues of the covariance Σ of RMSProp's oscillation, those of D^-½ΣD^-½: predicted by the central flow
(thin), and measured as the squared displacement of RMSProp from the flow along the same directions, mean over 50 steps
(wide, pale).
"""


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(runs):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    variances(ax, directions(runs["rmsprop"]), decades=3, headroom=3)
    ax.set_ylabel("variance in the D⁻¹ norm (loss)")
    return finish(figure)


def claims(runs):
    """Several directions, each within 30 % over the later half of its time."""
    return variance_claims(directions(runs["rmsprop"]))
