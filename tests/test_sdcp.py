"""The complementarity problem against its conditions, a closed form and a cone solver."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from cflow_cli.flows import sdcp

solve = jax.jit(sdcp.solve)


def random_problem(k, rng, asymmetry=0.0):
    """A monotone problem whose raw entries span many decades."""
    p = k * (k + 1) // 2
    root, skew = rng.standard_normal((p, p + 1)), rng.standard_normal((p, p))
    b = root @ root.T + asymmetry * (skew - skew.T)
    scale = 10.0 ** rng.uniform(-2.5, 2.5, k)
    i, j = sdcp.pairs(k)
    pair = scale[i] * scale[j]
    a = rng.standard_normal((k, k))
    return (a + a.T) / 2 * np.outer(scale, scale), b * np.outer(pair, pair), scale


@pytest.mark.parametrize("k", range(1, 9))
def test_the_three_conditions_hold(k):
    rng = np.random.default_rng(k)
    for asymmetry in (0.0, 0.0, 0.3, 0.3):
        a, b, scale = random_problem(k, rng, asymmetry)
        found = solve(jnp.asarray(a), jnp.asarray(b), jnp.zeros((k, k)))
        assert bool(found.converged)
        # Undo the scaling by hand: the conditions are invariant under congruence.
        x = np.asarray(found.x) * np.outer(scale, scale)
        s = (a + np.asarray(sdcp.unpack(jnp.asarray(b) @ sdcp.pack(found.x), k))) / np.outer(scale, scale)
        size = max(np.abs(x).max(), np.abs(s).max(), 1)
        assert np.linalg.eigvalsh(x)[0] >= -1e-8 * size
        assert np.linalg.eigvalsh(s)[0] >= -1e-7 * size
        assert abs(np.sum(x * s)) <= 1e-7 * size**2


def test_one_direction_has_a_closed_form():
    for a, b in [(-3.0, 2.0), (0.5, 2.0), (-1e-7, 1e5)]:
        found = solve(jnp.asarray([[a]]), jnp.asarray([[b]]), jnp.zeros((1, 1)))
        np.testing.assert_allclose(found.x[0, 0], max(0.0, -a / b), rtol=1e-10)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_cone_solver_finds_the_same(k):
    """For symmetric ℬ the SDCP is min ½⟨X, ℬX⟩ + ⟨𝒜, X⟩ over X ⪰ 0."""
    rng = np.random.default_rng(10 + k)
    p = k * (k + 1) // 2
    root = rng.standard_normal((p, p + 2))
    a, b = rng.standard_normal((k, k)), root @ root.T
    a = (a + a.T) / 2 - 0.5 * np.eye(k)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    # Clarabel stacks the upper triangle by columns and scales it like sdcp.pack.
    cones = [clarabel.PSDTriangleConeT(k)]
    solver = clarabel.DefaultSolver(
        sp.triu(sp.csc_matrix(b)).tocsc(),
        np.asarray(sdcp.pack(jnp.asarray(a))),
        -sp.identity(p, format="csc"),
        np.zeros(p),
        cones,
        settings,
    )
    expected = np.array(solver.solve().x)
    found = solve(jnp.asarray(a), jnp.asarray(b), jnp.zeros((k, k)))
    mine = np.asarray(sdcp.pack(found.x))

    def objective(x):
        return 0.5 * x @ b @ x + x @ np.asarray(sdcp.pack(jnp.asarray(a)))

    np.testing.assert_allclose(objective(mine), objective(expected), rtol=sdcp.tolerance(jnp.float64))
    # An interior point is as far from the minimum as the root of its gap in value.
    np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_directions_outside_stay_outside():
    """A direction that nothing drives keeps X = 0 and does not disturb the others."""
    a = jnp.diag(jnp.asarray([-1.0, 0.3]))
    b = jnp.zeros((3, 3)).at[0, 0].set(4.0)
    np.testing.assert_allclose(solve(a, b, jnp.zeros((2, 2))).x, [[0.25, 0], [0, 0]], atol=1e-12)
