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
    product = (1 + 2 * a) * (1 + 2 * b)
    slope = (4 / math.pi) * jax.lax.rsqrt(product - 4 * c**2)
    return (2 / math.pi) * _arcsin(2 * c * jax.lax.rsqrt(product)), slope


def gelu(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """F = cθ + Mq and Ḟ = θ + cM(1 + q/D + 2κ), for the exact gelu x Φ(x).

    D = (1 + a)(1 + b) − c², M = 1/(2π√D), κ = 1/(1 + a) + 1/(1 + b) − 1, q = ab + κc² and
    θ = ¼ + arcsin(c/√((1 + a)(1 + b)))/2π, the probability that two normal variables are both positive.
    """
    product = (1 + a) * (1 + b)
    d = product - c**2
    m = jax.lax.rsqrt(d) / (2 * math.pi)
    kappa = 1 / (1 + a) + 1 / (1 + b) - 1
    theta = 0.25 + _arcsin(c * jax.lax.rsqrt(product)) / (2 * math.pi)
    q = a * b + kappa * c**2
    return c * theta + m * q, theta + c * m * (1 + q / d + 2 * kappa)


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
    angle = jnp.sqrt(1 - size) * jnp.polyval(jnp.array(_ARCCOS[::-1], x.dtype), size, unroll=8)
    return jnp.where(x < 0, math.pi - angle, angle)


def _arcsin(x: Float[Array, ...]) -> Float[Array, ...]:
    return jnp.arcsin(x) if x.dtype != jnp.float32 else math.pi / 2 - _arccos(jnp.clip(x, -1, 1))
