"""Preconditioned gradient descent on a quadratic diverges along an eigenvector of P⁻¹H, not of H.

On ½ wᵀHw the step w ↦ w − ηP⁻¹Hw multiplies each eigenvector u of P⁻¹H by 1 − ηλ, whatever the eigenvectors of H are:
it is stable as long as S_eff = ηλ_max(P⁻¹H) < 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cflow_cli.figures.claims import Check, truth
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Twenty steps of preconditioned gradient descent, w ↦ w − ηP⁻¹Hw with a diagonal P, on a quadratic of two weights whose
sharp direction is no axis (contours), at an effective sharpness S_eff = ηλ_max(P⁻¹H) below 2 (a) and above (b). Above,
the iterates oscillate and grow along the top eigenvector of P⁻¹H (dashed), not along that of H (dotted).
"""
BELOW = Check("|w| after 20 steps over its start, S_eff below 2", high=0.1)
ABOVE = Check("the same, S_eff above 2", low=2)
SIGN = truth("above 2 the last ten iterates alternate in sign")
NEAR = Check("degrees from the last iterate to the top eigenvector of P⁻¹H", high=1)
FAR = Check("degrees from the last iterate to the top eigenvector of H", low=10)
STEPS = 20
LR = 0.1
ANGLE = np.radians(35.0)
SHARP, FLAT = 12.0, 2.0
# The second weight takes steps four times as long as the first.
P = np.array([2.0, 0.5])
START = (-0.5, 1.0)
CASES = {"S_eff = 0.9 · 2": 1.8, "S_eff = 1.05 · 2": 2.1}


def runs(size):
    """No run: twenty steps of optax on two numbers."""
    return {}


def problem(sharpness):
    """H, and P scaled so that S_eff is ``sharpness``."""
    turn = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    hessian = turn @ np.diag([SHARP, FLAT]) @ turn.T
    return hessian, P * (LR * np.linalg.eigvals(hessian / P[:, None]).max() / sharpness)


def top(matrix):
    """Unit eigenvector of the largest eigenvalue."""
    values, vectors = np.linalg.eig(matrix)
    return vectors[:, np.argmax(values)]


def path(hessian, p):
    """Iterates of preconditioned gradient descent, shape (steps + 1, 2)."""
    scale = optax.stateless(lambda updates, _: updates / jnp.asarray(p, jnp.float32))
    optimizer = optax.chain(scale, optax.sgd(LR))
    w = jnp.asarray(START, jnp.float32)
    state, iterates = optimizer.init(w), [w]
    gradient = jax.grad(lambda w: 0.5 * w @ jnp.asarray(hessian, jnp.float32) @ w)
    for _ in range(STEPS):
        update, state = optimizer.update(gradient(w), state, w)
        w = optax.apply_updates(w, update)
        iterates.append(w)
    return np.asarray(jnp.stack(iterates))


def draw():
    """Draw both paths in the plane with both eigenvectors."""
    figure, axes = panels(1, 2, titles=CASES, height=2.9)
    for ax, sharpness, colour in zip(axes, CASES.values(), SHADES):
        hessian, p = problem(sharpness)
        grid = np.stack(np.meshgrid(np.linspace(-3.4, 3.4, 120), np.linspace(-2.6, 2.6, 90)), axis=-1)
        levels = 0.5 * np.einsum("abi,ij,abj->ab", grid, hessian, grid)
        ax.contour(*grid.transpose(2, 0, 1), levels, levels=14, colors="#bbbbbb", linewidths=0.5)
        for matrix, name, dashes in (
            (hessian / p[:, None], "P⁻¹H", (0, (4, 2))),
            (hessian, "H", (0, (1, 1.5))),
        ):
            ends = np.outer([-5, 5], top(matrix))
            ax.plot(
                *ends.T, color="#555555", linewidth=0.9, linestyle=dashes, label=f"top eigenvector of {name}"
            )
        ax.plot(*path(hessian, p).T, ".-", color=colour, linewidth=0.8, markersize=3)
        ax.plot(*START, "o", color=colour, markersize=4)
        ax.set(
            xlim=(-3.4, 3.4), ylim=(-2.6, 2.6), xlabel="first weight", ylabel="second weight", aspect="equal"
        )
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def angle(a, b):
    """Angle between two lines in degrees."""
    return np.degrees(np.arccos(min(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b), 1.0)))


def growth(iterates):
    """Length of the last iterate over that of the first."""
    return np.linalg.norm(iterates[-1]) / np.linalg.norm(iterates[0])


def claims():
    """Stable below 2; above, it grows and alternates along the top eigenvector of P⁻¹H and no other."""
    (hessian, p), (_, smaller) = (problem(sharpness) for sharpness in reversed(CASES.values()))
    below, above = path(hessian, smaller), path(hessian, p)
    along = above[-10:] @ above[-1]
    yield BELOW(growth(below))
    yield ABOVE(growth(above))
    yield SIGN((along[1:] * along[:-1] < 0).all())
    yield NEAR(angle(above[-1], top(hessian / p[:, None])))
    yield FAR(angle(above[-1], top(hessian)))
