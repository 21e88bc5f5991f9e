"""Optimizers that optax lacks, and the table of optimizers."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli.cli import main
from cflow_cli.commands import optimizers as listing
from cflow_cli.config import tree
from cflow_cli.errors import UserError
from cflow_cli.optimizers import (
    UpdateMap,
    adam_uncorrected,
    muon_smoothed,
    scalar_adam,
    soap,
    with_weight_decay,
)
from cflow_cli.optimizers.listing import threshold
from cflow_cli.report import tables

LR, B1, B2, EPS = 0.1, 0.8, 0.95, 1e-3
GRADIENTS = np.random.default_rng(0).standard_normal((6, 3))


def described(words, config_dir=None):
    overrides = listing.choose(words, config_dir)
    return list(listing.describe(overrides, overrides, config_dir))


def last_update(optimizer, w=None):
    w = jnp.ones(3) if w is None else w
    state = optimizer.init(w)
    for g in GRADIENTS:
        updates, state = optimizer.update(jnp.asarray(g), state, w)
    return np.asarray(updates)


def emas(squares):
    m, nu = np.zeros(3), np.zeros_like(squares[0])
    for g, s in zip(GRADIENTS, squares):
        m, nu = B1 * m + (1 - B1) * g, B2 * nu + (1 - B2) * s
    return m, nu


def test_scalar_adam_is_adam_with_the_squared_norm():
    m, nu = emas([np.array(g @ g) for g in GRADIENTS])
    plain = scalar_adam(LR, B1, B2, EPS, bias_correction=False)
    np.testing.assert_allclose(last_update(plain), -LR * m / (np.sqrt(nu) + EPS), rtol=1e-12)
    corrected = -LR * m / (1 - B1**6) / (np.sqrt(nu / (1 - B2**6)) + EPS)
    np.testing.assert_allclose(last_update(scalar_adam(LR, B1, B2, EPS)), corrected, rtol=1e-12)


def test_uncorrected_adam_is_adam_without_its_corrections():
    m, nu = emas(GRADIENTS**2)
    optimizer = adam_uncorrected(LR, B1, B2, EPS)
    np.testing.assert_allclose(last_update(optimizer), -LR * m / (np.sqrt(nu) + EPS), rtol=1e-12)


def test_soap_is_the_algorithm_of_its_paper():
    """Algorithms 3 and 4 of arXiv:2409.11321, in a plain loop; the first gradient makes the bases and no step."""
    gs, every, b3 = np.random.default_rng(1).standard_normal((7, 4, 3)), 2, 0.7
    optimizer = soap(LR, B1, B2, b3, EPS, precondition_every=every)
    w = jnp.zeros((4, 3))

    @jax.jit
    def steps():
        return jax.lax.scan(lambda s, g: optimizer.update(g, s, w)[::-1], optimizer.init(w), jnp.asarray(gs))[
            1
        ]

    m, nu, sides, bases = 0.0, 0.0, [0.0, 0.0], []
    for t, (g, step) in enumerate(zip(gs, steps(), strict=True)):
        if t:
            m, turned = B1 * m + (1 - B1) * g, bases[0].T @ g @ bases[1]
            nu = B2 * nu + (1 - B2) * turned**2
            n = bases[0].T @ m @ bases[1] / (1 - B1**t) / np.sqrt(nu / (1 - B2**t) + EPS)
            np.testing.assert_allclose(step, -LR * bases[0] @ n @ bases[1].T, rtol=1e-8, atol=1e-12)
        else:
            assert not np.any(step)
        sides = [b3 * s + (1 - b3) * (a @ a.T) for s, a in zip(sides, (g, g.T), strict=True)]
        if t % every == 0:
            bases = [
                np.linalg.qr(s @ q)[0] if t else np.linalg.eigh(s)[1][:, ::-1]
                for s, q in zip(sides, bases or sides, strict=True)
            ]


def test_smoothed_muon_maps_singular_values():
    """σ/√(σ² + ε²) in the bases of the gradient, on either side; a vector is a matrix of one column."""
    g, optimizer = np.random.default_rng(2).standard_normal((4, 3)), muon_smoothed(LR, eps=0.5)
    for matrix in (g, g.T, g[:, 0]):
        u, s, v = np.linalg.svd(matrix.reshape(len(matrix), -1), full_matrices=False)
        step, _ = optimizer.update(jnp.asarray(matrix), optimizer.init(jnp.asarray(matrix)))
        expected = -LR * (u * (s / np.sqrt(s**2 + 0.25))) @ v
        np.testing.assert_allclose(step, expected.reshape(matrix.shape), rtol=1e-10, atol=1e-14)


def test_weight_decay_on_adam_is_adamw_and_leaves_the_edge_where_it_is():
    w = jnp.asarray([1.0, -2.0, 3.0])
    rate = optax.linear_schedule(LR, 0.0, 20)
    decayed = with_weight_decay(optax.adam(rate, B1, B2), rate, 0.3)
    expected = last_update(optax.adamw(rate, B1, B2, weight_decay=0.3), w)
    np.testing.assert_allclose(last_update(decayed, w), expected, rtol=1e-12)
    plain = UpdateMap.of(optax.sgd(LR, momentum=0.9), w)
    heavy = UpdateMap.of(with_weight_decay(optax.sgd(LR, momentum=0.9), LR, 0.3), w)
    assert heavy.refusal is None
    for update in (plain, heavy):
        np.testing.assert_allclose(2 * LR / update.linear_response(update.init(w))[0], 3.8, rtol=1e-12)


@pytest.mark.parametrize("build", [scalar_adam, adam_uncorrected])
@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 0.95])
def test_thresholds_of_the_adams(build, b):
    update = UpdateMap.of(build(1.0, b1=b, eps=0.0), jnp.zeros(3))
    assert update.refusal is None and update.uniform == (build is scalar_adam)
    np.testing.assert_allclose(threshold(update), 2 * (1 + b) / (1 - b), rtol=1e-10)


@pytest.mark.parametrize("build", [scalar_adam, adam_uncorrected])
def test_averages_over_the_oscillation_agree_with_brute_force(build):
    """Drive the optimizer with ḡ + (−1)ᵗ g̃ and compare the means of its update and state with the map's."""
    rng = np.random.default_rng(1)
    mean, amplitude = jnp.asarray(rng.uniform(0.05, 0.2, 3)), jnp.asarray(rng.uniform(0.5, 1.5, 3))
    update = UpdateMap.of(build(0.1, b1=0.9, b2=0.999), jnp.zeros(3))

    def body(state, t):
        new, delta = update(state, mean + jnp.where(t % 2 == 0, 1.0, -1.0) * amplitude, jnp.zeros(3))
        return new, (delta, jax.tree.leaves(state))

    state, (deltas, states) = jax.lax.scan(body, update.init(jnp.zeros(3)), jnp.arange(20_000))
    d, response = update.linear_response(state)
    np.testing.assert_allclose((deltas[-2] - deltas[-1]) / 2, -d * amplitude, rtol=0.1)
    averages = [(s[-2] + s[-1]) / 2 for s in states]
    start = [s[-2] if p == "counter" else a for s, a, p in zip(states, averages, update.parity, strict=True)]
    start = jax.tree.unflatten(jax.tree.structure(state), start)
    _, delta = update.averaged(start, mean, amplitude**2, jnp.zeros(3), response)
    np.testing.assert_allclose(delta, (deltas[-2] + deltas[-1]) / 2, rtol=2e-3)


def test_the_table_has_every_optimizer_and_takes_overrides(capsys):
    assert main(["optimizers", "adam", "momentum", "decayed", "optimizer.b1=0.95", "--format", "csv"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "probing adam, momentum, decayed\n"
    table = {row["optimizer"]: row for row in csv.DictReader(io.StringIO(shown.out))}
    assert list(table) == ["adam", "momentum", "decayed"]
    assert float(table["adam"]["threshold"]) == pytest.approx(78, rel=1e-6)
    assert float(table["momentum"]["threshold"]) == pytest.approx(3.8, rel=1e-6)
    assert (
        table["momentum"]["state"] == "trace (odd)" and table["adam"]["state"] == "count, mu (odd), nu (even)"
    )


def test_an_optimizer_without_a_flow_is_listed_with_the_reason(tmp_path):
    folder = tmp_path / "optimizer"
    folder.mkdir()
    text = "# Lion.\n_target_: optax.lion\nlearning_rate: ${schedule}\n"
    (folder / "lion.yaml").write_text(text)
    (row,) = described(["lion"], tmp_path)
    assert row.threshold is None and "not smooth" in row.refusal and row.summary == "Lion."
    assert "no: its update" in tables.render(listing.to_table([row], complete=False), "md")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adm"], "did you mean adam?"),
        (["adam", "optimizer.b3=0.9"], "they have optimizer.b1"),
        (["optimizer=adam", "optimizer.b1=1"], "below 1"),
    ],
)
def test_bad_requests_say_what_is_wrong(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        described(words)


def test_every_choice_is_an_optimizer_of_the_table():
    assert {"scalar_adam", "adam_uncorrected", "decayed"} <= set(tree.groups()["optimizer"])


def test_yogi_is_listed_with_the_flows_it_has():
    (row,) = described(["yogi"])
    assert (
        row.refusal is not None
        and row.refusal.startswith("stable, rod and two_phase only")
        and row.threshold is not None
    )


def test_an_optimizer_with_norms_is_listed_with_the_flows_it_has():
    (row,) = described(["clipped"])
    assert row.refusal is not None and row.refusal.startswith("stable and central")
    assert row.threshold is None
