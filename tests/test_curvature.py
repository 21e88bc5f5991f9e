"""The block eigensolver and the derivatives of a problem against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cflow_cli import Problem
from cflow_cli.curvature.block import random_rows, track
from cflow_cli.curvature.slices import in_slices
from cflow_cli.errors import UserError


def small_network(w):
    """Loss of a 3-4-2 tanh network on fixed data, w of length 26."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((9, 3))), jnp.asarray(rng.standard_normal((9, 2)))
    h = jnp.tanh(x @ w[:12].reshape(3, 4) + w[12:16])
    return 0.5 * jnp.mean(jnp.sum((h @ w[16:24].reshape(4, 2) + w[24:26] - y) ** 2, axis=1))


def test_derivatives_agree_with_dense_ones():
    w, u, v = jnp.asarray(np.random.default_rng(1).standard_normal((3, 26)))
    problem = Problem.from_function(small_network, w)
    hessian = jax.hessian(small_network)(w)
    third = jax.jacfwd(jax.hessian(small_network))(w)
    linear = problem.linearize(w)
    np.testing.assert_allclose(linear.loss, small_network(w), rtol=1e-14)
    np.testing.assert_allclose(linear.gradient, jax.grad(small_network)(w), rtol=1e-12)
    np.testing.assert_allclose(
        linear.hvp(jnp.stack([u, v])), jnp.stack([hessian @ u, hessian @ v]), rtol=1e-9
    )
    np.testing.assert_allclose(problem.hvp(w, u), hessian @ u, rtol=1e-9)
    np.testing.assert_allclose(
        problem.third(w, u, v), jnp.einsum("i,ijk,j->k", u, third, v), rtol=1e-9, atol=1e-12
    )


def test_third_derivatives_agree_with_finite_differences():
    w, u, v = jnp.asarray(np.random.default_rng(2).standard_normal((3, 26)))
    problem = Problem.from_function(small_network, w)
    h = 1e-4
    difference = (problem.hvp(w + h * u, v) - problem.hvp(w - h * u, v)) / (2 * h)
    np.testing.assert_allclose(problem.third(w, u, v), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32)], ids=["matrix", "integers"])
def test_a_start_that_is_no_vector_is_refused(bad):
    with pytest.raises(UserError, match="flat floating-point vector"):
        Problem.from_function(lambda w: jnp.sum(w), bad)


def symmetric(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return jnp.asarray(q @ np.diag(values) @ q.T)


SPECTRA = {
    "separated": np.concatenate([[2.4, 2.0, 1.8, 1.6], np.linspace(1.2, -1.0, 296)]),
    "clustered": np.concatenate([[2.0, 2.0, 1.99999, 1.6], np.linspace(1.2, -3.0, 296)]),
    "indefinite": np.concatenate([[2.0], np.linspace(0.5, -5.0, 299)]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_agree_with_a_dense_decomposition(name):
    a = symmetric(SPECTRA[name])
    values, basis = np.linalg.eigh(a)
    pairs = track(
        lambda rows: rows @ a,
        random_rows(jax.random.PRNGKey(0), 6, 300, jnp.float64),
        above=1.5,
        tolerance=1e-9,
        max_iterations=500,
    )
    k = int((SPECTRA[name] > 1.5).sum())
    assert bool(pairs.converged)
    np.testing.assert_allclose(pairs.values[:k], values[::-1][:k], rtol=1e-12)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(6), atol=1e-10)
    inside = np.linalg.norm(basis[:, ::-1][:, :k].T @ pairs.vectors[:k].T)
    np.testing.assert_allclose(inside, np.sqrt(k), rtol=1e-8)


def test_a_warm_start_costs_one_product_per_direction():
    a = symmetric(SPECTRA["separated"])
    settings = {"above": 1.5, "tolerance": 1e-2, "max_iterations": 100}
    settled = track(lambda r: r @ a, random_rows(jax.random.PRNGKey(0), 6, 300, jnp.float64), **settings)
    again = track(
        lambda r: r @ (a + 1e-4 * symmetric(SPECTRA["separated"], seed=1)), settled.vectors, **settings
    )
    assert int(again.hvps) == 6


def test_pairs_that_miss_the_tolerance_say_so():
    a = symmetric(SPECTRA["clustered"])
    start = random_rows(jax.random.PRNGKey(0), 6, 300, jnp.float64)
    assert not bool(track(lambda r: r @ a, start, above=1.5, tolerance=1e-6, max_iterations=2).converged)


def test_eigenvalues_are_followed_through_crossings():
    """Two families of eigenvalues cross while their eigenvectors stay orthogonal: neither may be lost."""
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((60, 60)))
    fixed = np.linspace(0.9, -1.0, 56)

    @jax.jit
    def follow(rows, t, key, iterations):
        values = jnp.concatenate([jnp.asarray([2 - t, 1 + t, 1.7, 1.3 + 0.5 * t]), fixed])
        a = (q * values) @ q.T
        rows = rows.at[-1].add(0.05 * random_rows(key, 1, 60, jnp.float64)[0])
        pairs = track(lambda r: r @ a, rows, above=1.5, tolerance=1e-3, max_iterations=iterations)
        return pairs.vectors, pairs.values, jnp.sort(values)[::-1]

    rows = random_rows(jax.random.PRNGKey(1), 6, 60, jnp.float64)
    for i, t in enumerate(np.linspace(0, 1, 200)):
        rows, values, exact = follow(rows, t, jax.random.PRNGKey(i), 100 if i == 0 else 4)
        count = int((exact > 1.5).sum())
        np.testing.assert_allclose(values[:count], exact[:count], rtol=1e-4, err_msg=f"t={t}")


def test_sums_over_slices_are_those_over_all_weights():
    a, b = (jnp.asarray(np.random.default_rng(s).standard_normal((3, 1000))) for s in (0, 1))

    def part(cut):
        return cut(a) @ (cut(b) * cut(jnp.full(1, 2.0))).T, (cut(a, 2) - cut(b, 2), jnp.sum(cut(b[0]) * 0))

    # Slices of 256, the last of them shorter, against all at once.
    found, (columns, number) = in_slices(part, 1000, 10**6)
    np.testing.assert_allclose(found, 2 * a @ b.T, rtol=1e-12)
    np.testing.assert_array_equal(columns, (a - b)[:2])
    assert number == 0
