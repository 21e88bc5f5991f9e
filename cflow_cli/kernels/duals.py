"""Expectations over Gaussian pairs that carry a kernel through an activation.

For (u, v) ~ N(0, [[a, c], [c, b]]) the *dual* of an activation φ is F = E φ(u) φ(v), with Ḟ = ∂F/∂c = E φ′(u) φ′(v).
For relu: Cho and Saul, NeurIPS 2009; for erf: Williams, NeurIPS 1996. That of gelu follows alike from derivatives of
the bivariate normal distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation

Dual = Callable[[Array, Array, Array], tuple[Array, Array]]
"""Variances a and b and covariance c, arrays that broadcast, to F and Ḟ."""

# arccos x = √(1 − x) p(x) on [0, 1] with an error of 2e-8 (Abramowitz and Stegun, 4.4.46). XLA's own is half of the
# cost of a kernel.
_ARCCOS = (
    1.5707963050,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.0308918810,
    -0.0170881256,
    0.0066700901,
    -0.0012624911,
)


def dual(activation: str) -> Dual:
    """F and Ḟ of an activation: in closed form for relu, erf, gelu and identity, else by quadrature.

    Parameters
    ----------
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.

    Raises
    ------
    UserError
        For one that is neither smooth nor has a closed form here: quadrature would not converge.
    """
    if activation in CLOSED_FORMS:
        return CLOSED_FORMS[activation]
    function, roughness = get_activation(activation)
    if roughness is not None:
        raise UserError(
            f"no exact kernel is known here for model.activation={activation}, and {roughness}, so quadrature would "
            f"not converge: choose {', '.join(CLOSED_FORMS)}, or a smooth one such as tanh"
        )
    return quadrature(function)


def relu(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """F = s (√(1 − ρ²) + ρ t)/2π and Ḟ = t/2π, with s = √(ab), ρ = c/s, t = π − arccos ρ."""
    s = jnp.sqrt(a * b)
    rho = jnp.clip(c / jnp.where(s > 0, s, 1), -1, 1)
    # On the diagonal ρ is 1 up to rounding, of which arccos would make an error of its root.
    rho = jnp.where(1 - rho < 4 * jnp.finfo(rho.dtype).eps, 1, rho)
    angle = math.pi - _arccos(rho)
    return s * (jnp.sqrt((1 - rho) * (1 + rho)) + rho * angle) / (2 * math.pi), angle / (2 * math.pi)


def erf(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """F = (2/π) arcsin(2c/√((1 + 2a)(1 + 2b))) and Ḟ = (4/π)/√((1 + 2a)(1 + 2b) − 4c²)."""
    scale = jax.lax.rsqrt(1 + 2 * a) * jax.lax.rsqrt(1 + 2 * b)
    part, root = _arcsin(2 * c * scale)
    return part, (4 / math.pi) * scale / root


def gelu(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """F = cθ + Mq and Ḟ = θ + cM(1 + q/D + 2κ), for the exact gelu x Φ(x).

    D = (1 + a)(1 + b) − c², M = 1/(2π√D), κ = 1/(1 + a) + 1/(1 + b) − 1, q = ab + κc² and
    θ = ¼ + arcsin(c/√((1 + a)(1 + b)))/2π, the probability that two normal variables are both positive.
    """
    u, v = jax.lax.rsqrt(1 + a), jax.lax.rsqrt(1 + b)
    part, root = _arcsin(c * (u * v))
    of_d = u * v / root  # 1/√D
    m = of_d / (2 * math.pi)
    kappa = u**2 + v**2 - 1
    theta = 0.25 + 0.25 * part
    q = a * b + kappa * c**2
    return c * theta + m * q, theta + c * m * (1 + q * of_d**2 + 2 * kappa)


def identity(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """F = c and Ḟ = 1."""
    c = jnp.broadcast_to(c, jnp.broadcast_shapes(a.shape, b.shape, c.shape))
    return c, jnp.ones_like(c)


CLOSED_FORMS: dict[str, Dual] = {"relu": relu, "erf": erf, "gelu": gelu, "identity": identity}
"""Activation -> its dual."""


def quadrature(function: Callable[[Array], Array], nodes: int = 64) -> Dual:
    """The dual of any smooth function, by Gauss–Hermite quadrature in two dimensions.

    Parameters
    ----------
    function
        Elementwise; its slope comes by automatic differentiation.
    nodes
        In each dimension. 64 give erf and its Ḟ to 1e-6 for variances up to 3 and correlations up to 0.95.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    x, y = (grid.ravel() for grid in np.meshgrid(points, points, indexing="ij"))
    both = np.outer(weights, weights).ravel()
    kept = both > 1e-18 * both.max()  # the corners, where the density is below rounding

    def with_slope(u: Array) -> tuple[Array, Array]:
        return jax.jvp(function, (u,), (jnp.ones_like(u),))

    def evaluate(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
        a, b, c = jnp.broadcast_arrays(a, b, c)
        root = jnp.sqrt(a)
        along = jnp.where(a > 0, c / jnp.where(a > 0, root, 1), 0)
        across = jnp.sqrt(jnp.maximum(b - along**2, 0))

        def add(
            total: tuple[Array, Array], node: tuple[Array, Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            x, y, weight = node
            (f, df), (g, dg) = with_slope(root * x), with_slope(along * x + across * y)
            return (total[0] + weight * f * g, total[1] + weight * df * dg), None

        grid = jnp.asarray(x[kept], a.dtype), jnp.asarray(y[kept], a.dtype), jnp.asarray(both[kept], a.dtype)
        zero = jnp.zeros_like(a)
        return jax.lax.scan(add, (zero, zero), grid)[0]

    return evaluate


def _arccos(x: Float[Array, ...]) -> Float[Array, ...]:
    if x.dtype != jnp.float32:
        return jnp.arccos(x)
    size = jnp.abs(x)
    angle = jnp.sqrt(1 - size) * _polynomial(size)
    return jnp.where(x < 0, math.pi - angle, angle)


def _arcsin(x: Float[Array, ...]) -> tuple[Float[Array, ...], Float[Array, ...]]:
    """(2/π) arcsin x and √(1 − x²), which share a root: roots and divisions are most of what a kernel costs.

    A right angle as the unit, because XLA makes a program of three times the time of one that multiplies by 2/π later.
    """
    unit = 2 / math.pi
    if x.dtype != jnp.float32:
        return unit * jnp.arcsin(x), jnp.sqrt((1 - x) * (1 + x))
    size = jnp.minimum(jnp.abs(x), 1)
    root = jnp.sqrt(1 - size)
    return jnp.sign(x) * (1 - root * _polynomial(size, unit)), root * jnp.sqrt(1 + size)


def _polynomial(size: Float[Array, ...], factor: float = 1.0) -> Float[Array, ...]:
    return jnp.polyval(jnp.array([factor * each for each in _ARCCOS[::-1]], size.dtype), size, unroll=8)
