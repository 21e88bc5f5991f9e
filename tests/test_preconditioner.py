"""The stationary preconditioner of RMSProp against an interior-point solver."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from cflow_cli.flows import preconditioner


def interior_point(h, c):
    """min Σp + Σt subject to t p ≥ c² (second-order cones) and 2 diag(p) − H ⪰ 0, x = (p, t)."""
    n = len(c)
    eye, zero = np.eye(n), np.zeros((n, n))
    cones = np.stack([np.hstack([-eye, -eye]), np.hstack([zero, zero]), np.hstack([-eye, eye])], axis=1)
    sizes = np.stack([0 * c, 2 * c, 0 * c], axis=1)
    row, column = np.triu_indices(n)
    order = np.lexsort((row, column))
    row, column = row[order], column[order]
    psd = np.where((row == column)[:, None], -2 * np.hstack([eye, zero])[row], 0)
    right = -h[row, column] * np.where(row == column, 1, np.sqrt(2))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, 1e-11)
    solution = clarabel.DefaultSolver(
        scipy.sparse.csc_matrix((2 * n, 2 * n)),
        np.ones(2 * n),
        scipy.sparse.csc_matrix(np.vstack([cones.reshape(3 * n, 2 * n), psd])),
        np.concatenate([sizes.ravel(), right]),
        [*[clarabel.SecondOrderConeT(3)] * n, clarabel.PSDTriangleConeT(n)],
        settings,
    ).solve()
    return np.asarray(solution.x[:n])


def test_the_program_is_solved_as_by_an_interior_point_method():
    """With and without the second term, entries of c and of H over several decades."""
    n, rng = 12, np.random.default_rng(0)
    q, scale = rng.standard_normal((n, n)), np.exp(rng.uniform(-2, 2, n))
    h = q @ np.diag([50, 40, 30, 20, *np.linspace(5, -3, n - 4)]) @ q.T / n * scale[:, None] * scale
    guess = preconditioner.random_guess(jax.random.PRNGKey(0), 5, jnp.abs(jnp.diag(h)))
    solve = jax.jit(lambda c: preconditioner.solve(lambda rows: rows @ h, c, guess, 1e-8)[0])
    for c in (np.exp(rng.uniform(-4, 1, n)), np.zeros(n)):
        found = solve(jnp.asarray(c))
        assert found.converged
        np.testing.assert_allclose(found.p, interior_point(h, c), rtol=1e-4)
        assert np.linalg.eigvalsh(2 * np.diag(found.p) - h)[0] > -1e-6 * found.p.max()
