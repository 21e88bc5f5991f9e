"""The eigensolver of :mod:`.block` where D is an operator: pairs (z, u = Dz) with H u = λ z.

There is no D^½, and none is needed: with v = D^½z all Gram matrices of the block solver are those of pairs,

    vᵀv = zᵀu,    vᵀAv = uᵀHu,    ‖Av − λv‖² = rᵀDr,  r = Hu − λz,

and an expansion by D^½r is one by (r, Dr). A refresh costs one product with H and two with D per direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import MatVec, Rows, combine, gram, misses, ritz_of_grams


class Pairs(NamedTuple):
    """Ritz pairs of the pencil H u = λ z, u = Dz.

    Parameters
    ----------
    covectors, vectors
        z and u of each, largest λ first, zᵢᵀuⱼ = δᵢⱼ; shape (block, n).
    products
        H u.
    values
        λ, shape (block,).
    residuals
        √(rᵀDr) of each, r = Hu − λz.
    hvps
        Hessian-vector products spent.
    converged
        Whether all wanted pairs met the tolerance.
    """

    covectors: Rows
    vectors: Rows
    products: Rows
    values: Float[Array, " block"]
    residuals: Float[Array, " block"]
    hvps: Int[Array, ""]
    converged: Bool[Array, ""]

    @property
    def ahead(self) -> Rows:
        """The covectors a step of power iteration on, which costs no product."""
        scale = jnp.maximum(jnp.abs(self.values), jnp.max(jnp.abs(self.values)) / 4)
        return self.covectors + (self.products - self.values[:, None] * self.covectors) / scale[:, None]


class _Basis(NamedTuple):
    z: Rows
    u: Rows
    h: Rows

    def combined(self, c: Float[Array, "out rows"]) -> _Basis:
        return _Basis(*(combine(c, rows) for rows in self))

    def ritz(self, size: int) -> tuple[Array, Array]:
        m, t = gram(self.z, self.u), gram(self.u, self.h)
        return ritz_of_grams((m + m.T) / 2, t, size)


def track(
    hvp: MatVec,
    step_size: Callable[[Rows], Rows],
    covectors: Rows,
    *,
    above: float | Array,
    tolerance: float,
    max_iterations: int | Int[Array, ""],
    critical: float = 0.0,
) -> Pairs:
    """Follow the largest eigenpairs from a starting block.

    Parameters
    ----------
    hvp, step_size
        V ↦ H V and V ↦ D V on rows, shape (block, n) to (block, n).
    covectors
        Starting z, shape (block, n); need not be orthonormal.
    above, tolerance, max_iterations, critical
        As in :func:`cflow_cli.curvature.block.track`.
    """
    size = covectors.shape[0]

    def unmet(values: Array, residuals: Array) -> Bool[Array, ""]:
        return misses(values, residuals, above, tolerance, critical)

    def rest(basis: _Basis, values: Array) -> tuple[Rows, Rows, Array]:
        r = basis.h - values[:, None] * basis.z
        dr = step_size(r)
        return r, dr, jnp.sqrt(jnp.maximum(jnp.sum(r * dr, axis=1), 0))

    Carry = tuple[_Basis, Array, Rows, Rows, Array, _Basis, Array]

    def body(carry: Carry) -> Carry:
        basis, _, r, dr, norms, change, i = carry
        scale = jnp.maximum(norms, jnp.finfo(r.dtype).tiny)[:, None]
        r, dr = r / scale, dr / scale
        inside = gram(r, basis.u)
        r, dr = r - combine(inside, basis.z), dr - combine(inside, basis.u)
        new = _Basis(r, dr, hvp(dr))
        rows = _Basis(*(jnp.concatenate(parts) for parts in zip(basis, new, change, strict=True)))
        values, c = rows.ritz(size)
        found = rows.combined(c)
        moved = c.at[:, :size].set(0)
        return found, values, *rest(found, values), rows.combined(moved), i + 1

    def unfinished(carry: Carry) -> Bool[Array, ""]:
        return unmet(carry[1], carry[4]) & (carry[6] < max_iterations)

    u = step_size(covectors)
    start = _Basis(covectors, u, hvp(u))
    values, c = start.ritz(size)
    basis = start.combined(c)
    nothing = _Basis(*(jnp.zeros_like(covectors),) * 3)
    first = (basis, values, *rest(basis, values), nothing, jnp.zeros((), jnp.int32))
    basis, values, _, _, norms, _, i = jax.lax.while_loop(unfinished, body, first)
    return Pairs(*basis, values, norms, size * (i + 1), ~unmet(values, norms))
