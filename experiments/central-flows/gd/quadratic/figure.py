"""Gradient descent on a quadratic: stable below S = 2/η, oscillating and growing above.

On ½ Σ Sᵢxᵢ² each coordinate is multiplied by 1 − ηSᵢ at every step: it converges for Sᵢ < 2/η, and alternates
in sign and grows for Sᵢ > 2/η, whatever the others do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cflow_cli.figures.claims import Check, truth
from cflow_cli.figures.drawing import SHADES, panels, threshold

CAPTION = """
Gradient descent on ½Sx² (a) and on ½(S₁x² + S₂y²) (b, c) at η = 0.1, so that 2/η = 20. Below 2/η the iterates
converge; above they oscillate and grow, in (b, c) along the sharp direction x only.
"""
BELOW = Check("|x| after 20 steps over its start, S below 2/η", high=0.1)
ABOVE = Check("the same, S above 2/η", low=2)
SIGN = truth("above 2/η the sign alternates at every step")
GROWTH = Check("two weights, growth along the sharp one", low=2)
LEFT = Check("two weights, what is left along the flat one", high=0.1)
LR = 0.1
STEPS = 20
START = (0.1, 1.0)
ONE = {"S = 0.9 · 2/η": 18.0, "S = 1.05 · 2/η": 21.0}
TWO = {"both below 2/η": (18.0, 2.0), "one above 2/η": (21.0, 2.0)}


def runs(size):
    """No run: twenty steps of optax on two numbers."""
    return {}


def path(curvatures, start):
    """Iterates of gradient descent on ½ Σ Sᵢxᵢ², shape (steps + 1, weights)."""
    optimizer = optax.sgd(LR)
    x = jnp.asarray(start, jnp.float32)
    state, iterates = optimizer.init(x), [x]
    gradient = jax.grad(lambda x: 0.5 * jnp.sum(jnp.asarray(curvatures) * x**2))
    for _ in range(STEPS):
        update, state = optimizer.update(gradient(x), state, x)
        x = optax.apply_updates(x, update)
        iterates.append(x)
    return np.asarray(jnp.stack(iterates))


def draw():
    """Draw x against step, and the plane of two weights."""
    figure, axes = panels(1, 3, titles=("one weight", *TWO))
    for (label, curvature), colour in zip(ONE.items(), SHADES):
        axes[0].plot(path([curvature], START[:1])[:, 0], ".-", color=colour, label=label, markersize=3)
    threshold(axes[0], 0)
    axes[0].set_ylabel("x")
    axes[0].set_ylim(-0.75, 1.1)
    axes[0].legend(loc="upper left")
    for ax, curvatures, colour in zip(axes[1:], TWO.values(), SHADES):
        iterates = path(curvatures, START)
        x, y = np.meshgrid(np.linspace(-0.7, 0.7, 80), np.linspace(-0.1, 1.1, 80))
        levels = 0.5 * (curvatures[0] * x**2 + curvatures[1] * y**2)
        ax.contour(x, y, levels, levels=12, colors="#bbbbbb", linewidths=0.5)
        ax.plot(*iterates.T, ".-", color=colour, linewidth=0.8, markersize=3)
        ax.set_xlabel("x, sharp direction")
        ax.set_ylabel("y")
    return figure


def claims():
    """Converges below, alternates and grows above, along the sharp eigenvector only."""
    below, above = (path([curvature], START[:1])[:, 0] for curvature in ONE.values())
    both = path(TWO["one above 2/η"], START)
    yield BELOW(abs(below[-1] / below[0]))
    yield ABOVE(abs(above[-1] / above[0]))
    yield SIGN((above[1:] * above[:-1] < 0).all())
    yield GROWTH(abs(both[-1, 0] / both[0, 0]))
    yield LEFT(abs(both[-1, 1] / both[0, 1]))
