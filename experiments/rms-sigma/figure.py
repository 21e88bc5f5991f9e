"""The central flow predicts RMSProp's oscillation along each direction, in the preconditioner's norm [part 3]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import SHADES, finish, panels, since, spectrum
from cflow_cli.report import definitions

CAPTION = """
Generalised eigenvalues of the covariance Σ of RMSProp's oscillation, those of D^-½ΣD^-½: predicted by the central flow
(thin), and measured as the squared displacement of RMSProp from the flow along the same directions, mean over 50 steps
(wide, pale).
"""
SHOWN = 3
# Eigenvalues of Σ below this part of its largest count as zero.
NUMERICAL_ZERO = 1e-5


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def variances(run):
    """For each direction: smoothed squared displacement and predicted variance, in units of the loss."""
    measured, predicted = (spectrum(run, "central", kind) for kind in ("sigma_measured", "sigma"))
    for place in predicted.columns[:SHOWN]:
        sigma = predicted[place].dropna()
        sigma = sigma[sigma > NUMERICAL_ZERO * predicted[0].max()]
        if len(sigma) > definitions.WINDOW:
            yield place, definitions.smoothed(measured[place].dropna()), sigma


def draw(runs):
    """Draw measured and predicted variances."""
    figure, (ax,) = panels(1, 1, height=2.6)
    for place, measured, predicted in variances(runs["rmsprop"]):
        look = {"color": SHADES[place]}
        for values, own in (
            (measured, {"linewidth": 2.6, "alpha": 0.35}),
            (predicted, {"linewidth": 1.0, "label": f"direction {place + 1}"}),
        ):
            steps = range(int(values.index[0]), int(values.index[-1]) + 1)
            ax.plot(steps, values.reindex(steps), **look, **own)
    ax.set_yscale("log")
    top = ax.get_ylim()[1]
    ax.set_ylim(top / 1e3, 3 * top)
    ax.set_ylabel("variance in the D⁻¹ norm (loss)")
    ax.legend(ncols=3, loc="upper left")
    return finish(figure)


def claims(runs):
    """Several directions, each within 30 % over the later half of its time."""
    found = list(variances(runs["rmsprop"]))
    yield Claim("directions that oscillate", len(found), low=2)
    for place, measured, predicted in found:
        middle = (int(predicted.index[0]) + int(predicted.index[-1])) // 2
        both = since(predicted, middle).index.intersection(measured.index)
        # As in part 1: real oscillations swell and fade together over more than the steps of a moving mean.
        ratio = predicted[both].mean() / measured[both].mean()
        yield Claim(
            f"direction {place + 1}: mean predicted over mean measured variance since step {middle}",
            ratio,
            0.7,
            1.3,
        )
