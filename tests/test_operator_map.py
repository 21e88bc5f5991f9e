"""Responses that are no diagonal matrices, against brute force: the real optimizer on an oscillating gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from cflow_cli.optimizers import (
    UpdateMap,
    clipped,
    map_of,
    muon_smoothed,
    normalised_gd,
    operator_map_of,
    shampoo,
    soap,
)

SHAPES = {"first": (4, 3), "bias": (3,), "last": (3, 2)}
TREE = {
    name: jnp.asarray(np.random.default_rng(i).standard_normal(s))
    for i, (name, s) in enumerate(SHAPES.items())
}
W, UNRAVEL = ravel_pytree(TREE)
N = W.size


def of(optimizer):
    update = operator_map_of(optimizer, W, UNRAVEL)
    assert update.refusal is None
    return update


def dense(update, state, g, w=W, tangents=None, x=None):
    """D at a state, all of its columns, and what a step leads to."""

    @jax.jit
    def columns(state, g):
        momenta = None
        if tangents is not None:
            momenta = update.response(update.held(state, g, w), tangents)[1]
        after, delta, held = update.averaged(state, g, w, tangents, x, momenta)
        return after, delta, update.response(held, jnp.eye(N))[0]

    return columns(state, g)


def oscillated(update, mean, swing, steps=400):
    """The state after steps of the real optimizer on gradients ḡ + (−1)ᵗ g̃, and the odd part of the last."""

    @jax.jit
    def run():
        def body(state, t):
            after, delta = update(state, mean + (1 - 2 * (t % 2)) * swing, W)
            return after, delta

        end, deltas = jax.lax.scan(body, update.init(W), jnp.arange(steps))
        return end, deltas

    end, deltas = run()
    return end, np.asarray(deltas[-2] - deltas[-1]) / 2


def across(mean, swing):
    """The swing without its part along the mean, leaf by leaf: the cross terms that the theory leaves out vanish."""
    leaves = [
        s - m * jnp.sum(m * s) / jnp.sum(m * m)
        for s, m in zip(*map(jax.tree.leaves, (swing, mean)), strict=True)
    ]
    return ravel_pytree(leaves)[0]


MEAN = UNRAVEL(jnp.asarray(np.random.default_rng(7).standard_normal(N)))
SWING = across(MEAN, UNRAVEL(jnp.asarray(np.random.default_rng(8).standard_normal(N))))
MEAN = ravel_pytree(MEAN)[0]

# The first two have nothing but norms, of which swing and mean are across each other; momenta come exactly.
CASES = {
    "normalised_gd": (normalised_gd(0.1), 1e-12),
    "clipped": (clipped(optax.sgd(0.1, momentum=0.9, nesterov=True), 0.5), 1e-12),
    "lars": (optax.lars(1.0, weight_decay=0.0, momentum=0.8), 1e-12),
}


@pytest.mark.parametrize("name", CASES)
def test_the_response_is_that_of_the_optimizer_on_an_oscillating_gradient(name):
    optimizer, tolerance = CASES[name]
    update = of(optimizer)
    end, odd = oscillated(update, MEAN, SWING)
    rows, x = SWING[None], jnp.ones((1, 1))
    _, _, d = dense(update, end, MEAN, tangents=rows, x=x)
    np.testing.assert_allclose(-d @ SWING, odd, atol=tolerance * np.max(np.abs(odd)), rtol=0)
    np.testing.assert_allclose(d, d.T, atol=1e-14 * np.max(np.abs(d)), rtol=0)


ELEMENTWISE = {
    "adam": optax.adam(0.01, b2=0.95),
    "heavy_ball": optax.sgd(0.1, momentum=0.9),
    "adabelief": optax.adabelief(0.01, b2=0.95),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_it_is_the_diagonal_where_an_optimizer_is_elementwise(name):
    optimizer = ELEMENTWISE[name]
    update, diagonal = of(optimizer), UpdateMap.of(optimizer, W)
    gs = jnp.asarray(np.random.default_rng(3).standard_normal((6, N)))
    ours, flat = update.init(W), diagonal.init(W)
    for g in gs:
        (ours, _), (flat, _) = update(ours, g, W), diagonal(flat, g, W)
    rows = jnp.asarray(np.random.default_rng(4).standard_normal((2, N)))
    x = jnp.asarray([[2.0, 0.5], [0.5, 1.0]])
    after, _, d = dense(update, ours, gs[0], tangents=rows, x=x)
    _, r = diagonal.linear_response(flat)
    flat_after, _ = diagonal.averaged(flat, gs[0], jnp.sum((x @ rows) * rows, 0), W, r)
    expected = jnp.broadcast_to(diagonal.linear_response(flat_after)[0], N)
    np.testing.assert_allclose(jnp.diag(d), expected, rtol=1e-10)
    assert np.max(np.abs(d - jnp.diag(jnp.diag(d)))) < 1e-13 * np.max(d)
    for a, b in zip(jax.tree.leaves(after), _by_leaf(flat_after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def _by_leaf(state):
    """Leaves of a state of flat vectors as those of one of layers."""
    for x in jax.tree.leaves(state):
        yield from jax.tree.leaves(UNRAVEL(x)) if x.shape == (N,) else [x]


def test_even_parts_take_their_average_over_the_oscillation():
    """E‖g‖² = ‖ḡ‖² + tr(GXGᵀ), so that normalised gradient descent has D = η/√ of it."""
    rows = jnp.asarray(np.random.default_rng(4).standard_normal((2, N)))
    x = jnp.asarray([[2.0, 0.5], [0.5, 1.0]])
    update = of(normalised_gd(0.3))
    _, delta, d = dense(update, update.init(W), MEAN, tangents=rows, x=x)
    norm = np.sqrt(MEAN @ MEAN + np.trace(rows.T @ x @ rows)) + 1e-6  # as optax adds
    np.testing.assert_allclose(d, 0.3 / norm * np.eye(N), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(delta, -0.3 / norm * MEAN, rtol=1e-12)


def test_shampoo_averages_gram_matrices_and_multiplies_from_both_sides():
    """D = η L^{−1/4} ⊗ R^{−1/4} on each matrix, with E[GGᵀ] = ḠḠᵀ + Σ X_ij G̃_i G̃_jᵀ in L."""
    rate, b2, eps = 0.1, 0.9, 1e-3
    update = of(shampoo(rate, b2, eps))
    rows = jnp.asarray(np.random.default_rng(4).standard_normal((2, N)))
    x = np.asarray([[2.0, 0.5], [0.5, 1.0]])
    after, _, d = dense(update, update.init(W), MEAN, tangents=rows, x=jnp.asarray(x))
    np.testing.assert_allclose(d, d.T, atol=1e-12 * np.max(d))
    mean, swings = UNRAVEL(MEAN)["first"], [UNRAVEL(row)["first"] for row in rows]

    def root(of):
        m = of(mean, mean) + sum(x[i, j] * of(swings[i], swings[j]) for i in range(2) for j in range(2))
        values, basis = np.linalg.eigh(m + eps * np.trace(m) / len(m) * np.eye(len(m)))
        return m, (basis * values**-0.25) @ basis.T

    left, left_root = root(lambda a, b: a @ b.T)
    _, right_root = root(lambda a, b: a.T @ b)
    np.testing.assert_allclose(after[0].left["first"], (1 - b2) * left, rtol=1e-10, atol=1e-12)
    start = SHAPES["bias"][0]  # layers are in the order of their names
    size = mean.size
    block = d[start : start + size, start : start + size]
    np.testing.assert_allclose(block, rate * np.kron(left_root, right_root), rtol=1e-8, atol=1e-12)


def test_soap_is_adam_in_the_bases_of_shampoo():
    """D = η(1−β)/(1+β) (Q_L⊗Q_R) diag((ν̂ + ε)^{−1/2}) (Q_L⊗Q_R)ᵀ, with the average of (Q_LᵀGQ_R)² in ν."""
    rate, b1, b2, eps, steps = 0.1, 0.6, 0.9, 1e-6, 5
    rng = np.random.default_rng(5)
    gs = jnp.asarray(rng.standard_normal((steps, 6)))
    w, unravel = ravel_pytree(jnp.zeros((3, 2)))
    update = operator_map_of(soap(rate, b1, b2, 0.8, eps, precondition_every=1), w, unravel)
    assert update.refusal is None and update.momenta == 1
    rows, x = jnp.asarray(rng.standard_normal((2, 6))), np.asarray([[2.0, 0.5], [0.5, 1.0]])

    @jax.jit
    def measured():
        state, _ = jax.lax.scan(lambda s, g: update(s, g, w), update.init(w), gs[:-1])
        momenta = update.response(update.held(state, gs[-1], w), rows)[1]
        after, _, held = update.averaged(state, gs[-1], w, rows, jnp.asarray(x), momenta)
        return state, after, update.response(held, jnp.eye(6))[0]

    before, after, d = measured()
    np.testing.assert_allclose(d, d.T, atol=1e-13 * np.max(d))
    layer, age = before[0].layers, steps - 1
    bases = np.kron(layer.left_basis, layer.right_basis)
    np.testing.assert_allclose(bases.T @ bases, np.eye(6), atol=1e-12)
    mean, swings = bases.T @ gs[-1], rows @ bases
    nu = b2 * layer.nu.ravel() + (1 - b2) * (mean**2 + np.einsum("ij,ik,jk->k", x, swings, swings))
    np.testing.assert_allclose(after[0].layers.nu.ravel(), nu, rtol=1e-10)
    scale = rate * (1 - b1) / (1 + b1) / (1 - b1**age) / np.sqrt(nu / (1 - b2**age) + eps)
    np.testing.assert_allclose(d, (bases * scale) @ bases.T, rtol=1e-10, atol=1e-12)


def test_layers_have_their_own_rates_and_decays():
    labels = {"first": "slow", "bias": "fast", "last": "fast"}
    optimizer = optax.partition({"slow": optax.sgd(0.1, momentum=0.9), "fast": optax.sgd(0.3)}, labels)
    update = map_of(optimizer, W, UNRAVEL)
    assert update.is_operator
    _, _, d = dense(update, update.init(W), MEAN)
    expected = ravel_pytree({k: jnp.full(s, 0.1 / 1.9 if k == "first" else 0.3) for k, s in SHAPES.items()})[
        0
    ]
    np.testing.assert_allclose(d, np.diag(expected), atol=1e-15)
    decayed = optax.adamw(0.1, mask=lambda tree: jax.tree.map(lambda a: a.ndim > 1, tree))
    assert map_of(decayed, W, UNRAVEL).is_operator
    assert not map_of(optax.adamw(0.1), W, UNRAVEL).is_operator


REFUSED = {
    "lion": (optax.lion(0.01), "sign-like"),
    "muon": (optax.contrib.muon(0.01), "like a sign"),
    "muon_smoothed": (muon_smoothed(0.01, eps=0.1), "like a sign"),
    "clip": (optax.chain(optax.clip(1.0), optax.sgd(0.1)), "primitive m"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_acts_like_a_sign_or_has_no_parity_is_refused(name):
    optimizer, words = REFUSED[name]
    assert words in operator_map_of(optimizer, W, UNRAVEL).refusal
