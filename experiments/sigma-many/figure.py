"""The central flow predicts the variance along each direction of the oscillation [part 1]."""

from cflow_cli.figures.drawing import directions, finish, learning_rate, panels, variance_claims, variances

CAPTION = """
Variances of the oscillation of gradient descent along the eigenvectors of Σ: predicted by the central flow (thin) and
measured as the squared displacement from the flow, mean over 50 steps (wide, pale).
"""
ANIMATED = True


def runs(size):
    """Part 1's run; at mini the one at the larger learning rate, where more than one direction oscillates for long."""
    return {"gd": [f"experiment=gd_{size}", *(["lr=0.2"] if size == "mini" else [])]}


def found(runs):
    """Variances along each eigenvector of Σ, in units of weight²."""
    # Recorded in the D^-1 norm, and D = η here.
    return directions(runs["gd"], learning_rate(runs["gd"]))


def draw(runs):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    variances(ax, found(runs), decades=4, headroom=2)
    ax.set_ylabel("variance")
    return finish(figure)


def claims(runs):
    """Several directions, each within 30 % over the later half of its time."""
    return variance_claims(found(runs))
