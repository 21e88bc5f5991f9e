"""The optimizer as a map: thresholds, closed forms, and brute force on an oscillating gradient."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli.optimizers import UpdateMap, scalar_rmsprop
from cflow_cli.optimizers.hyperparameters import standing_for
from cflow_cli.optimizers.listing import threshold

N = 5
BETAS = (0.0, 0.5, 0.9, 0.95)
# Thresholds on η·λ_max(P⁻¹H): Cohen et al., arXiv:2207.14484, table 1, and the derivation in docs/concepts.md.
THRESHOLDS = {
    "momentum": (lambda b: optax.sgd(1.0, momentum=b), lambda b: 2 + 2 * b),
    "nesterov": (lambda b: optax.sgd(1.0, momentum=b, nesterov=True), lambda b: 2 * (1 + b) / (1 + 2 * b)),
    "adam": (lambda b: optax.adam(1.0, b1=b, eps=0.0), lambda b: 2 * (1 + b) / (1 - b)),
    "adamw": (lambda b: optax.adamw(1.0, b1=b, eps=0.0), lambda b: 2 * (1 + b) / (1 - b)),
    "amsgrad": (lambda b: optax.amsgrad(1.0, b1=b, eps=0.0), lambda b: 2 * (1 + b) / (1 - b)),
    "nadam": (lambda b: optax.nadam(1.0, b1=b, eps=0.0), lambda b: 2 * (1 + b) / ((1 - b) * (1 + 2 * b))),
}


@eqx.filter_jit
def after(update, gradients):
    """State after stepping through the gradients, and the linear response there."""

    def body(state, g):
        return update(state, g, jnp.zeros_like(g))[0], None

    state, _ = jax.lax.scan(body, update.init(jnp.zeros(N)), gradients)
    return state, *update.linear_response(state)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_agree_with_the_closed_forms(name):
    build, threshold = THRESHOLDS[name]
    for b in BETAS:
        update = UpdateMap.of(build(b), jnp.zeros(N))
        assert update.refusal is None
        # A constant unit gradient makes P = I once the bias corrections have died out.
        _, d, _ = after(update, jnp.ones((20_000, N)))
        np.testing.assert_allclose(2 / d, threshold(b), rtol=1e-10)


def test_thresholds_where_a_constant_gradient_does_not_settle():
    """AdaBelief's ν would vanish under it, and AdaGrad's sum of squares grow for ever."""
    for b in BETAS:
        update = UpdateMap.of(optax.adabelief(1.0, b1=b, eps=0.0, eps_root=0.0), jnp.zeros(N))
        np.testing.assert_allclose(threshold(update), 2 * (1 + b) / (1 - b), rtol=1e-10)
    update = UpdateMap.of(optax.adagrad(1.0, eps=0.0), jnp.zeros(N))
    np.testing.assert_allclose(threshold(update), 2, rtol=1e-10)


def test_adagrad_sums_the_mean_square_of_an_oscillating_gradient():
    update = UpdateMap.of(optax.adagrad(0.1, initial_accumulator_value=0.0), jnp.zeros(N))
    mean, amplitude = jnp.linspace(0.05, 0.2, N), jnp.linspace(0.5, 1.5, N)
    signs = jnp.where(jnp.arange(1000) % 2 == 0, 1.0, -1.0)
    state, _, response = after(update, mean + signs[:, None] * amplitude)
    new, _ = update.averaged(state, mean, amplitude**2, jnp.zeros(N), response)
    np.testing.assert_allclose(jax.tree.leaves(new)[0], 1001 * (mean**2 + amplitude**2), rtol=1e-10)


def test_preconditioners_agree_with_the_closed_forms():
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((7, N)))
    lr, b1, b2, eps = 0.01, 0.9, 0.97, 1e-3
    nu = np.zeros(N)
    for g in np.asarray(gradients):
        nu = b2 * nu + (1 - b2) * g**2
    corrected = nu / (1 - b2**7)
    cases = [
        (optax.sgd(lr), np.full(1, lr)),
        (optax.rmsprop(lr, decay=b2, eps=eps, eps_in_sqrt=False), lr / (np.sqrt(nu) + eps)),
        (
            optax.rmsprop(lr, decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
            lr / (np.sqrt(corrected) + eps),
        ),
        (
            optax.adam(lr, b1=b1, b2=b2, eps=eps),
            (1 - b1) / (1 + b1) / (1 - b1**7) * lr / (np.sqrt(corrected) + eps),
        ),
    ]
    for transformation, expected in cases:
        update = UpdateMap.of(transformation, jnp.zeros(N))
        _, d, _ = after(update, gradients)
        np.testing.assert_allclose(d, expected, rtol=1e-10)

    update = UpdateMap.of(scalar_rmsprop(lr, b2=b2, eps=eps), jnp.zeros(N))
    _, d, _ = after(update, gradients)
    nu = 0.0
    for g in np.asarray(gradients):
        nu = b2 * nu + (1 - b2) * np.sum(g**2)
    np.testing.assert_allclose(d, [lr / (np.sqrt(nu) + eps)], rtol=1e-10)


@pytest.mark.parametrize(
    ("transformation", "mean_tolerance"),
    [
        (optax.sgd(0.1, momentum=0.9), 1e-12),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), 1e-12),
        (optax.rmsprop(0.1, decay=0.999, eps=1e-8, eps_in_sqrt=False), 2e-3),
        (optax.adam(0.1, b1=0.9, b2=0.999), 2e-3),
        (optax.adabelief(0.1, b1=0.9, b2=0.999), 2e-3),
        (optax.nadam(0.1, b1=0.9, b2=0.999), 2e-3),
        (optax.amsgrad(0.1, b1=0.9, b2=0.999), 2e-3),
    ],
    ids=["momentum", "nesterov", "rmsprop", "adam", "adabelief", "nadam", "amsgrad"],
)
def test_response_and_averages_agree_with_brute_force(transformation, mean_tolerance):
    """Drive the real optimizer with ḡ + (−1)ᵗ g̃ and compare means and amplitudes of update and state."""
    rng = np.random.default_rng(1)
    mean, amplitude = jnp.asarray(rng.uniform(0.05, 0.2, N)), jnp.asarray(rng.uniform(0.5, 1.5, N))
    update = UpdateMap.of(transformation, jnp.zeros(N))

    def body(state, t):
        new, delta = update(state, mean + jnp.where(t % 2 == 0, 1.0, -1.0) * amplitude, jnp.zeros(N))
        return new, (delta, jax.tree.leaves(state))

    @jax.jit
    def driven():
        state, found = jax.lax.scan(body, update.init(jnp.zeros(N)), jnp.arange(40_000))
        return state, found, update.linear_response(state)

    state, (deltas, states), (d, response) = driven()
    even, odd = np.asarray(deltas[-2]), np.asarray(deltas[-1])
    # The oscillating part is −D g̃ up to the terms ḡ·g̃ that the symmetric point drops, second order in ḡ/g̃.
    np.testing.assert_allclose((even - odd) / 2, -d * amplitude, rtol=0.1)
    momenta = [s for s, p in zip(states, update.parity, strict=True) if p == "odd"]
    for r, m in zip(response, momenta, strict=True):
        np.testing.assert_allclose((m[-2] - m[-1]) / 2, r * amplitude, rtol=1e-9)

    averages = [(s[-2] + s[-1]) / 2 for s in states]
    start = [s[-2] if p == "counter" else a for s, a, p in zip(states, averages, update.parity, strict=True)]
    start = jax.tree.unflatten(jax.tree.structure(state), start)
    new, delta = eqx.filter_jit(update.averaged)(start, mean, amplitude**2, jnp.zeros(N), response)
    np.testing.assert_allclose(
        delta, (even + odd) / 2, rtol=max(mean_tolerance, 1e-9), atol=1e-4 * np.abs(even).max()
    )
    for x, y, p in zip(jax.tree.leaves(new), averages, update.parity, strict=True):
        if p != "counter":
            np.testing.assert_allclose(x, y, rtol=mean_tolerance)


@pytest.mark.parametrize(
    ("transformation", "reason"),
    [
        (optax.lion(0.1), "not smooth"),
        (optax.sign_sgd(0.1), "not smooth"),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), "mixes coordinates"),
        (optax.lamb(0.1), "mixes coordinates"),
        (optax.contrib.muon(0.1), "matrix"),
        (optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.sgd(0.1)), "random"),
    ],
    ids=["lion", "sign", "clip", "lamb", "muon", "noise"],
)
def test_optimizers_without_a_flow_say_why(transformation, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal = UpdateMap.of(transformation, jnp.zeros(N)).refusal
    assert refusal is not None
    assert reason in refusal


def test_parts_of_a_step_compose_to_the_whole_decay():
    update = UpdateMap.of(optax.adam(0.1, b1=0.9, b2=0.99), jnp.zeros(N))
    g, w = jnp.ones(N), jnp.zeros(N)
    state, *_ = after(update, jnp.asarray(np.random.default_rng(2).standard_normal((4, N))))
    whole, _ = update(state, g, w)
    quarter = jax.jit(lambda part: update.part_of_step(part, update(part, g, w)[0], g, w, 0.25))
    part = state
    for _ in range(4):
        part = quarter(part)
    for x, y, p in zip(jax.tree.leaves(part), jax.tree.leaves(whole), update.parity, strict=True):
        if p != "counter":
            np.testing.assert_allclose(x, y, rtol=1e-10)


def test_the_update_of_some_weights_is_that_of_them_alone_where_none_share_a_second_moment():
    w = jnp.linspace(0.5, 1.0, 9)
    own = optax.chain(optax.scale_by_adam(), optax.stateless(lambda g, _: -0.01 * w * g))
    expected = {optax.adam(0.1): True, scalar_rmsprop(0.1): False, own: False}
    for optimizer, separate in expected.items():
        update = UpdateMap.of(optimizer, w)
        assert update.separate == separate
        if separate:
            whole = update.linear_response(update(update.init(w), w, w)[0])[0]
            part = update.of_size(4)
            np.testing.assert_array_equal(
                part.linear_response(part(part.init(w[:4]), w[:4], w[:4])[0])[0], whole[:4]
            )


@pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.rmsprop, optax.adabelief, optax.adagrad])
def test_another_learning_rate_is_the_same_program(make):
    """Hyperparameters are arguments of the program, which steps as optax's own does."""
    w, g = jnp.linspace(-1, 1, 5), jnp.linspace(0.5, 2, 5)

    def step(update, state, g, w):
        return update(state, g, w)

    programs = set()
    for lr in (0.1, 0.02):
        own = make(optax.linear_schedule(lr, lr / 3, 10))
        update = UpdateMap.of(own, w)
        state = expected = own.init(w)
        programs.add(jax.jit(step).lower(update, state, g, w).as_text())
        for _ in range(3):
            delta_expected, expected = own.update(g, expected, w)
            state, delta = jax.jit(step)(update, state, g, w)
            np.testing.assert_allclose(delta, delta_expected, rtol=1e-14)
    assert len(programs) == 1


def test_an_update_with_its_own_derivative_keeps_its_constants():
    """A custom rule of differentiation would be lost by running the trace again."""
    smooth = jax.custom_jvp(lambda g: 0.1 * g)
    smooth.defjvp(lambda primals, tangents: (0.1 * primals[0], 0.1 * tangents[0]))
    own = optax.stateless(lambda g, _: -smooth(g))
    w = jnp.linspace(-1, 1, 5)
    update = UpdateMap.of(own, w)
    assert update.constants.shape == (0,)
    d, _ = update.linear_response(update.init(w))
    np.testing.assert_allclose(d, 0.1, rtol=1e-12)


def test_optimizers_that_differ_in_numbers_alone_are_one_to_a_program():
    """Not so where their updates, what they close over or what they have to be run with differ."""
    w = jnp.zeros(N)
    masked = [optax.masked(optax.scale(-0.1), mask) for mask in (True, False)]

    def scaled_by(a):
        return optax.GradientTransformation(lambda _: optax.EmptyState(), lambda g, s, _: (-0.1 * a * g, s))

    scaled = [scaled_by(jnp.arange(N) + k) for k in (0, 1)]
    first = standing_for(optax.adam(0.01), w)
    assert standing_for(optax.adam(0.02, b1=0.8, eps=1e-6), w) is first
    others = (
        optax.adam(0.01, nesterov=True),
        optax.adamw(0.01),
        optax.sgd(0.1),
        optax.adagrad(0.1),
        *masked,
        *scaled,
    )
    others += (optax.adagrad(0.1, initial_accumulator_value=0.2),)
    found = {id(standing_for(other, w)) for other in others}
    assert len(found) == len(others) and id(first) not in found
    assert standing_for(optax.adam(0.01), jnp.zeros(N + 1)) is not first
    # Each is itself, whichever stands for it.
    g = jnp.arange(1.0, N + 1)
    for lr in (0.01, 0.02):
        own, update = optax.adam(lr), UpdateMap.of(optax.adam(lr), w)
        np.testing.assert_array_equal(update(update.init(w), g, w)[1], own.update(g, own.init(w), w)[0])
