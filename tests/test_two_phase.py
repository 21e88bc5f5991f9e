"""Two-phase flow against plain optax, closed forms and the real optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import columns, network, start, valley

from cflow_cli import Problem, simulate
from cflow_cli.flows.options import TwoPhase
from cflow_cli.flows.two_phase import Point, alternate, ends
from cflow_cli.optimizers import UpdateMap

NESTEROV = optax.sgd(0.2, momentum=0.5, nesterov=True)


@pytest.mark.parametrize(
    "optimizer",
    [NESTEROV, optax.adamw(0.03, weight_decay=0.1)],
    ids=["nesterov", "adamw"],
)
def test_without_its_four_changes_both_phases_are_runs_of_optax(optimizer):
    """z̄ ± (−1)ᵗζ, second moments included, from two runs that start apart."""

    def run(w):
        def body(carry, _):
            w, state = carry
            delta, state = optimizer.update(jax.grad(network)(w), state, w)
            return (optax.apply_updates(w, delta), state), w

        return jax.lax.scan(body, (w, optimizer.init(w)), length=25)

    w = start()
    apart = 0.05 * jnp.asarray(np.random.default_rng(1).standard_normal(86))
    (first, _), (second, _) = jax.jit(run)(w + apart), jax.jit(run)(w - apart)
    update = UpdateMap.of(optimizer, w)
    zero = jax.tree.map(jnp.zeros_like, update.init(w))

    def body(z, _):
        plus, minus = (jax.grad(network)(end.weights) for end in ends(*z))
        return alternate(update, *z, plus, minus), None

    z, _ = jax.jit(lambda z: jax.lax.scan(body, z, length=25))((Point(w, update.init(w)), Point(apart, zero)))
    after = ends(*z)[::-1]  # an odd number of steps
    for end, (weights, state) in zip(after, (first, second), strict=True):
        assert jnp.linalg.norm(weights - w) > 0.1
        np.testing.assert_allclose(end.weights, weights, rtol=1e-9, atol=1e-12)
        for own, real in zip(jax.tree.leaves(end.optimizer), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(own, real, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "growth"),
    [
        (optax.sgd(0.1), 1),
        (optax.sgd(0.1, momentum=0.5), 3),
        (optax.sgd(0.1, momentum=0.9), 19),
        # (1 + β)(1 + 2β)/(1 + 3β), from the roots of z² − (1 + β)(1 − h)z + β(1 − h) with h = S_eff (1 + β)/(1 + 2β).
        (optax.sgd(0.1, momentum=0.5, nesterov=True), 1.2),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), 1.9 * 2.8 / 3.7),
        (optax.adam(0.1, b1=0.9), 19),
    ],
    ids=["gd", "heavy ball 0.5", "heavy ball 0.9", "nesterov 0.5", "nesterov 0.9", "adam"],
)
def test_growth_above_the_edge(optimizer, growth):
    w = jnp.ones(2)
    update = UpdateMap.of(optimizer, w)
    _, state = optimizer.update(w, update.init(w), w)
    np.testing.assert_allclose(update.growth(state), growth, rtol=1e-3)


@pytest.mark.parametrize(("beta", "rise"), [(0.0, 0.01), (0.5, 0.003)], ids=["gd", "momentum"])
def test_bursts_in_a_valley(beta, rise):
    """⟨x²⟩ = 2c/b, and S_eff passes 2 by √(2 r ln(σ/ε)/κ), as the optimizer's does."""
    lr, b, kick = 0.1, 4.0, 1e-6
    edge, growth = (2 + 2 * beta) / lr, (1 + beta) / (1 - beta)
    c = rise * edge * (1 - beta) / (2 * lr * b)  # S_eff rises by 2ηbc/((1 − β)edge) per step
    result = simulate(
        Problem.from_function(valley(0.97 * edge, b, c), jnp.zeros(2)),
        optax.sgd(lr, momentum=beta or None),
        processes=["midpoint", TwoPhase()],
        steps=int(8 / rise),
        kick=kick,
        measurements=(),
    )
    (real,) = columns(result, "midpoint", "effective_sharpness")
    own, variance = columns(result, "two_phase", "effective_sharpness", "sigma_trace")
    np.testing.assert_allclose(own.mean(), real.mean(), atol=0.01)
    np.testing.assert_allclose(own.max(), real.max(), atol=0.03)
    law = np.sqrt(2 * rise * np.log(np.sqrt(2 * c / b) / kick) / growth)
    np.testing.assert_allclose(own.max() - 2, law, rtol=0.15)
    first, *_, last = np.flatnonzero((own[1:] > 2) & (own[:-1] <= 2))  # whole bursts
    np.testing.assert_allclose(variance[first:last].mean(), 2 * c / b, rtol=0.05)


def test_without_kicks_an_oscillation_starts_from_rounding():
    """In float32 its first burst comes when the optimizer's does, where x rests at 1 and is known to ε only."""
    lr, b, c = 0.1, 4.0, 0.075
    hillside = valley(18.0, b, c)
    result = simulate(
        Problem.from_function(
            lambda w: hillside(w - jnp.asarray([1.0, 0.0], w.dtype)), jnp.asarray([1.3, 0.0], jnp.float32)
        ),
        optax.sgd(lr),
        processes=["midpoint", "two_phase"],
        steps=450,
        kick=0.0,
        measurements=(),
    )
    real, own = (columns(result, name, "effective_sharpness")[0] for name in ("midpoint", "two_phase"))
    assert real.max() > 2.3
    np.testing.assert_allclose(own.max(), real.max(), atol=0.02)
    np.testing.assert_allclose(own.argmax(), real.argmax() + 1, atol=5)


def test_it_follows_nesterov_where_the_central_flow_does_not():
    """At steps of Nesterov's that S_eff = 2.11 has on average: bursts, which the central flow cannot have."""
    result = simulate(
        Problem.from_function(network, start()),
        NESTEROV,
        processes=["central", "two_phase"],
        steps=200,
        kick=1e-4,
        measurements=(),
    )
    central, own = (columns(result, flow, "distance_to_discrete")[0] for flow in ("central", "two_phase"))
    (sharpness,) = columns(result, "two_phase", "effective_sharpness")
    assert own[-50:].mean() < 0.4 * central[-50:].mean()
    assert 2.05 < sharpness[-100:].mean() < 2.17


def test_options_are_checked():
    with pytest.raises(ValueError, match="noise"):
        TwoPhase(noise=-1.0)
    with pytest.raises(ValueError, match="kept_above"):
        TwoPhase(seeded_above=2.5)
