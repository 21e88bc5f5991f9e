"""The central flow predicts the variance along each direction of the oscillation [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import SHADES, finish, learning_rate, panels, since, spectrum
from cflow_cli.report import definitions

CAPTION = """
Variances of the oscillation of gradient descent along the eigenvectors of Σ: predicted by the central flow (thin) and
measured as the squared displacement from the flow, mean over 50 steps (wide, pale).
"""
ANIMATED = True
SHOWN = 3
# Eigenvalues of Σ below this part of its largest count as zero.
NUMERICAL_ZERO = 1e-5


def runs(size):
    """Part 1's run; at mini the one at the larger learning rate, where more than one direction oscillates for long."""
    return {"gd": [f"experiment=gd_{size}", *(["lr=0.2"] if size == "mini" else [])]}


def variances(run):
    """For each eigenvector of Σ: smoothed squared displacement and predicted variance, in units of weight²."""
    # Recorded in the D^-1 norm, and D = η here.
    lr = learning_rate(run)
    measured, predicted = (spectrum(run, "central", kind) * lr for kind in ("sigma_measured", "sigma"))
    for place in predicted.columns[:SHOWN]:
        sigma = predicted[place].dropna()
        sigma = sigma[sigma > NUMERICAL_ZERO * predicted[0].max()]
        if len(sigma) > definitions.WINDOW:
            yield place, definitions.smoothed(measured[place].dropna()), sigma


def draw(runs):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    for place, measured, predicted in variances(runs["gd"]):
        colour = SHADES[place]
        steps = range(int(measured.index[0]), int(measured.index[-1]) + 1)
        ax.plot(steps, measured.reindex(steps), color=colour, linewidth=2.6, alpha=0.35)
        steps = range(int(predicted.index[0]), int(predicted.index[-1]) + 1)
        ax.plot(steps, predicted.reindex(steps), color=colour, linewidth=1.0, label=f"direction {place + 1}")
    ax.set_yscale("log")
    top = ax.get_ylim()[1]
    ax.set_ylim(top / 1e4, 2 * top)
    ax.set_ylabel("variance")
    ax.legend(ncols=3, loc="upper left")
    return finish(figure)


def claims(runs):
    """Several directions, each within 30 % once the flow has settled on it."""
    found = list(variances(runs["gd"]))
    yield Claim("directions that oscillate", len(found), low=2)
    for place, measured, predicted in found:
        middle = (int(predicted.index[0]) + int(predicted.index[-1])) // 2
        both = since(predicted, middle).index.intersection(measured.index)
        # Real oscillations swell and fade together over more than the steps of a moving mean: over all that is there.
        ratio = predicted[both].mean() / measured[both].mean()
        yield Claim(
            f"direction {place + 1}: mean predicted over mean measured variance since step {middle}",
            ratio,
            0.7,
            1.3,
        )
