"""Warm-started block eigensolver for the top of the spectrum of A = D^½ H D^½.

The block follows the eigenvectors along a trajectory. Each step costs one Hessian-vector product per tracked
direction, spent on a Rayleigh–Ritz refresh at the new point, from where the same products take the block a step of
power iteration ahead; only if residuals miss their tolerance does a locally optimal expansion (LOBPCG: the block, its
residuals, the last directions of change) follow, at one new product per direction and iteration. Products with
directions that are kept are combined, never recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.slices import Cut, in_slices

Rows = Float[Array, "block params"]
MatVec = Callable[[Rows], Rows]

# Pairs that are only watched may be this much less accurate: the error of an eigenvalue is of the order of its residual
# squared, at the default tolerance (5 · 0.03)² or 2 % of it.
_SLACK_BELOW_CRITICAL = 5.0
_HIGHEST = jax.lax.Precision.HIGHEST


class RitzPairs(NamedTuple):
    """Ritz pairs of A on a block.

    Parameters
    ----------
    vectors
        Orthonormal rows, largest eigenvalue first; shape (block, n).
    products
        A times them.
    values
        Ritz values, shape (block,).
    residuals
        ‖A v − λ v‖ of each.
    hvps
        Hessian-vector products spent.
    converged
        Whether all wanted pairs met the tolerance.
    """

    vectors: Rows
    products: Rows
    values: Float[Array, " block"]
    residuals: Float[Array, " block"]
    hvps: Int[Array, ""]
    converged: Bool[Array, ""]

    @property
    def ahead(self) -> Rows:
        """Where to look at the next point: the vectors a step of power iteration on, which costs no product.

        Rayleigh–Ritz alone never leaves the span of the block, so that the vectors would lag behind.
        """
        scale = jnp.maximum(jnp.abs(self.values), jnp.max(jnp.abs(self.values)) / 4)
        r = self.products - self.values[:, None] * self.vectors
        return self.vectors + r / scale[:, None]


def gram(a: Rows, b: Rows) -> Float[Array, "rows cols"]:
    """Inner products a bᵀ of rows, in full precision of the dtype."""
    return jnp.matmul(a, b.T, precision=_HIGHEST)


def combine(coefficients: Float[Array, "out rows"], rows: Rows) -> Rows:
    """Linear combinations of rows, in full precision of the dtype."""
    return jnp.matmul(coefficients, rows, precision=_HIGHEST)


def stack_evaluated(parts: list[Float[Array, " params"]]) -> Rows:
    """Stacked, behind a product of matrices: else XLA computes them anew for every row that they multiply."""
    rows = jnp.zeros((len(parts), *parts[0].shape), parts[0].dtype)
    for i, part in enumerate(parts):
        rows = rows.at[i].set(part)
    return combine(jnp.eye(len(parts), dtype=rows.dtype), rows)


def overlaps(a: Rows, b: Rows) -> Float[Array, "rows cols"]:
    """Inner products a bᵀ of rows over all weights."""
    return in_slices(lambda cut: (gram(cut(a), cut(b)), None), a.shape[1], len(a) + len(b))[0]


def preconditioned(hvp: MatVec, d: Float[Array, " params_or_1"]) -> MatVec:
    """V ↦ D^½ H D^½ V on rows, from V ↦ H V and the diagonal of D; its eigenvalues are effective sharpnesses."""
    root = jnp.sqrt(d)
    return lambda rows: root * hvp(root * rows)


def _whiten(m: Float[Array, "rows rows"]) -> tuple[Float[Array, "rows rows"], Bool[Array, " rows"]]:
    """Rows of W with W m Wᵀ = I on the numerical range of m, and which rows those are (the others are zero)."""
    scale = jnp.sqrt(jnp.maximum(jnp.diag(m), jnp.finfo(m.dtype).tiny))
    weights, basis = jnp.linalg.eigh(m / scale[:, None] / scale[None, :])
    good = weights > 100 * m.shape[0] * jnp.finfo(m.dtype).eps * weights[-1]
    root = jnp.where(good, 1 / jnp.sqrt(jnp.where(good, weights, 1)), 0)
    return (root[:, None] * basis.T) / scale[None, :], good


def _ritz_coefficients(
    rows: Rows, products: Rows, size: int
) -> tuple[Float[Array, " size"], Float[Array, "size rows"]]:
    """Largest ``size`` Ritz values on the span of ``rows``, and the coefficients of their vectors."""

    def part(cut: Cut) -> tuple[tuple[Array, Array], None]:
        return (gram(cut(rows), cut(rows)), gram(cut(rows), cut(products))), None

    (m, t), _ = in_slices(part, rows.shape[1], 2 * len(rows))
    return ritz_of_grams(m, t, size)


def ritz_of_grams(
    m: Float[Array, "rows rows"], t: Float[Array, "rows rows"], size: int
) -> tuple[Float[Array, " size"], Float[Array, "size rows"]]:
    """Largest ``size`` values of the pencil t c = λ m c, and the coefficients c.

    Parameters
    ----------
    m, t
        Inner products of some rows with each other, and with their products.
    size
        Number of values; the first rows are those that the vectors follow.
    """
    white, good = _whiten(m)
    t = white @ t @ white.T
    t = (t + t.T) / 2
    # Directions that were dropped as dependent must not compete with negative eigenvalues.
    low = -2 * jnp.max(jnp.abs(t)) - 1
    t = t + jnp.diag(jnp.where(good, 0, low))
    values, basis = jnp.linalg.eigh(t)
    c = (basis.T @ white)[::-1][:size]
    # An eigenvector is known up to its sign: that of the row it follows, so that displacements along it go on.
    side = jnp.sum(c * m[:size], axis=1)
    return values[::-1][:size], jnp.where(side < 0, -1, 1)[:, None] * c


def _rotate(
    rows: Rows, products: Rows, values: Float[Array, " size"], c: Float[Array, "size rows"]
) -> tuple[Rows, Rows, Float[Array, " size"]]:
    """Ritz vectors with coefficients ``c``, their products and the norms of their residuals."""

    def part(cut: Cut) -> tuple[Array, tuple[Rows, Rows]]:
        v, av = combine(c, cut(rows)), combine(c, cut(products))
        return jnp.sum((av - values[:, None] * v) ** 2, axis=1), (v, av)

    squares, (v, av) = in_slices(part, rows.shape[1], 2 * (len(rows) + len(c)))
    return v, av, jnp.sqrt(squares)


def rayleigh_ritz(matvec: MatVec, vectors: Rows) -> RitzPairs:
    """Rayleigh–Ritz on the span of ``vectors``: one product per row."""
    products = matvec(vectors)
    values, c = _ritz_coefficients(vectors, products, vectors.shape[0])
    v, av, residuals = _rotate(vectors, products, values, c)
    count = jnp.asarray(vectors.shape[0], jnp.int32)
    return RitzPairs(v, av, values, residuals, count, jnp.asarray(True))


def track(
    matvec: MatVec,
    vectors: Rows,
    *,
    above: float | Array,
    tolerance: float,
    max_iterations: int | Int[Array, ""],
    critical: float = 0.0,
) -> RitzPairs:
    """Follow the largest eigenpairs of A from a starting block.

    Parameters
    ----------
    matvec
        V ↦ V A on rows, shape (block, n) to (block, n).
    vectors
        Starting rows, shape (block, n); need not be orthonormal.
    above
        Pairs with a Ritz value above this, and always the first, must meet the tolerance.
    tolerance
        Residual of those as a part of their value.
    max_iterations
        Expansions allowed after the refresh; each costs one product per row.
    critical
        Pairs with a smaller value, apart from the first, have to be only five times less accurate: they are tracked
        so as to be known before they matter.

    Notes
    -----
    Locally optimal block preconditioned conjugate gradients, Knyazev, SIAM J. Sci. Comput. 23 (2001), with soft
    locking: residuals of converged pairs drop out of the basis as numerically dependent or serve the others.
    """
    size = vectors.shape[0]
    start = rayleigh_ritz(matvec, vectors)

    def unmet(pairs: RitzPairs) -> Bool[Array, ""]:
        return misses(pairs.values, pairs.residuals, above, tolerance, critical)

    def body(carry: tuple[RitzPairs, Rows, Rows, Array]) -> tuple[RitzPairs, Rows, Rows, Array]:
        pairs, change, change_products, i = carry
        r = pairs.products - pairs.values[:, None] * pairs.vectors
        r = r / jnp.maximum(pairs.residuals, jnp.finfo(r.dtype).tiny)[:, None]
        r = r - combine(gram(r, pairs.vectors), pairs.vectors)
        ar = matvec(r)
        rows = jnp.concatenate([pairs.vectors, r, change])
        products = jnp.concatenate([pairs.products, ar, change_products])
        values, c = _ritz_coefficients(rows, products, size)
        v, av, residuals = _rotate(rows, products, values, c)
        moved = c.at[:, :size].set(0)
        new = RitzPairs(v, av, values, residuals, pairs.hvps + size, pairs.converged)
        return new, combine(moved, rows), combine(moved, products), i + 1

    def unfinished(carry: tuple[RitzPairs, Rows, Rows, Array]) -> Bool[Array, ""]:
        return unmet(carry[0]) & (carry[3] < max_iterations)

    zeros = jnp.zeros_like(vectors)
    pairs, *_ = jax.lax.while_loop(unfinished, body, (start, zeros, zeros, jnp.zeros((), jnp.int32)))
    return pairs._replace(converged=~unmet(pairs))


def misses(
    values: Float[Array, " block"],
    residuals: Float[Array, " block"],
    above: float | Array,
    tolerance: float,
    critical: float,
) -> Bool[Array, ""]:
    """Whether a wanted pair has a residual above its tolerance; see :func:`track`."""
    first = jnp.arange(values.shape[0]) == 0
    wanted = (values > above) | first
    scale = jnp.maximum(jnp.abs(values), 1e-3 * jnp.max(jnp.abs(values)))
    allowed = tolerance * jnp.where((values > critical) | first, 1, _SLACK_BELOW_CRITICAL)
    return jnp.any(wanted & (residuals > allowed * scale))


def random_rows(key: Array, size: int, n: int, dtype: jnp.dtype) -> Rows:
    """Random unit rows, to start or to grow a block with."""
    rows = jax.random.normal(key, (size, n), dtype)
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
