"""The linearised network against closed forms, dense derivatives and plain optax loops."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from cflow_cli import Problem, simulate
from cflow_cli.datasets.digits import digits
from cflow_cli.engine.options import Linear
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import cross_entropy, mse
from cflow_cli.models.mlp import MLP
from cflow_cli.optimizers import UpdateMap

STEPS = 24
LR = 0.2
# One object each for all tests, which share their programs.
GD, ADAM = optax.sgd(LR), optax.adam(1e-2)
LION = optax.lion(1e-3)


@cache
def data():
    return digits(n=21, classes=3)


@cache
def problem(loss=mse, widths=(8,)):
    model = MLP(data(), jax.random.PRNGKey(0), widths=widths)
    return Problem.from_model(model, data(), loss(), jnp.float64)


def outputs(problem):
    """w ↦ f(w) of all training examples, as one vector."""
    return lambda w: problem.outputs(w, problem.num_examples)


def simulation(problem, optimizer, kind, **settings):
    usual = {"steps": STEPS, "chunk": STEPS // 2, "kick": 0.0, "measurements": ()}
    return Simulation(problem, optimizer, processes=(kind,), **usual | settings)


def ended(simulation):
    for _ in simulation:
        pass
    return simulation.metrics.set_index("step"), simulation.weights()


def test_gradient_descent_has_the_closed_form_of_the_tangent_kernel():
    """f_t − y = (I − ηΘ/n)ᵗ (f_0 − y) with Θ = JJᵀ, of which λ_max/n is the sharpness."""
    own, n = problem(), problem().num_examples
    metrics, weights = ended(simulation(own, GD, Linear(every=1)))
    f, w0 = outputs(own), own.w0
    jacobian = jax.jit(jax.jacrev(f))(w0)
    values, basis = np.linalg.eigh(jacobian @ jacobian.T / n)
    r0 = np.asarray(f(w0) - jax.nn.one_hot(data().y, 3).ravel())
    rest = basis @ ((1 - LR * values) ** np.arange(STEPS + 1)[:, None] * (basis.T @ r0)).T
    np.testing.assert_allclose(metrics.loss, (rest**2).sum(0)[:STEPS] / (2 * n), rtol=1e-11)
    moved = jacobian @ (weights["linear"] - w0)
    np.testing.assert_allclose(r0 + moved, rest[:, STEPS], atol=1e-12)
    np.testing.assert_allclose(metrics.effective_sharpness, LR * values[-1], rtol=1e-3)
    assert metrics.function_distance.iloc[0] == 0
    # One step more, to have the last row at the weights that were reached.
    longer, _ = ended(simulation(own, GD, Linear(every=7), steps=STEPS + 1))
    apart = np.linalg.norm(f(weights["discrete"]) - (f(w0) + moved)) / np.linalg.norm(r0)
    assert apart > 0.01
    np.testing.assert_allclose(longer.function_distance[STEPS], apart, rtol=1e-10)
    seen = longer[["effective_sharpness", "function_distance"]].notna()
    assert seen.index[seen.effective_sharpness].tolist() == [0, 7, 14, 21]
    assert seen.index[seen.function_distance].tolist() == [0, 7, 14, 21, 24]


def test_of_a_linear_model_it_is_the_optimizer_itself():
    """Also of an optimizer without a D, which has no flow."""
    metrics, weights = ended(simulation(problem(cross_entropy, ()), LION, Linear()))
    assert UpdateMap.of(LION, weights["linear"]).refusal and metrics.effective_sharpness.isna().all()
    np.testing.assert_allclose(weights["linear"], weights["discrete"], rtol=1e-9, atol=1e-12)
    assert metrics.distance_to_discrete.max() < 1e-11
    assert metrics.function_distance.dropna().max() < 1e-11


def test_it_is_stepped_as_optax_would():
    """From the first step, where a flow of Adam has not begun."""
    own = problem(cross_entropy)
    metrics, weights = ended(simulation(own, ADAM, Linear()))
    f, w0 = outputs(own), own.w0

    def loss(w):
        value, change = jax.jvp(f, (w0,), (w - w0,))
        logits = (value + change).reshape(-1, 3)
        return optax.softmax_cross_entropy_with_integer_labels(logits, data().y).mean()

    w, state, losses = w0, ADAM.init(w0), []
    step = jax.jit(jax.value_and_grad(loss))
    for _ in range(STEPS):
        value, gradient = step(w)
        losses.append(value)
        delta, state = ADAM.update(gradient, state, w)
        w = optax.apply_updates(w, delta)
    np.testing.assert_allclose(weights["linear"], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(metrics.loss, losses, rtol=1e-10)
    assert metrics.status.isin(["ok", "eigenpairs_not_converged"]).all()


def test_its_hessian_is_the_gauss_newton_matrix():
    own = problem(cross_entropy)
    anchor = own.w0 + 0.3 * jnp.cos(jnp.arange(own.num_parameters))
    w, f, n = own.w0, outputs(own), own.num_examples
    jacobian = jax.jit(jax.jacrev(f))(anchor).reshape(n, 3, -1)
    logits = (f(anchor) + jacobian.reshape(3 * n, -1) @ (w - anchor)).reshape(n, 3)
    p = jax.nn.softmax(logits)
    of_outputs = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(p)
    gauss_newton = jnp.einsum("nap,nab,nbq->pq", jacobian, of_outputs, jacobian) / n
    v = jnp.sin(jnp.arange(len(w)))
    product = eqx.filter_jit(lambda p: p.linearised(anchor).hvp(w, v))(own)
    np.testing.assert_allclose(product, gauss_newton @ v, rtol=1e-9, atol=1e-12)


def test_it_goes_on_to_the_bit_and_may_begin_where_flows_do():
    settings = {"warm_start": 5, "kick": 1e-3}
    kind = Linear(anchor="branch", every=4)
    whole = simulation(problem(cross_entropy), ADAM, kind, **settings)
    for chunk in whole:
        if chunk.step < STEPS:
            half = whole.snapshot()
    again = simulation(problem(cross_entropy), ADAM, kind, **settings)
    again.restore(half)
    metrics, weights = ended(again)
    for name, value in whole.weights().items():
        np.testing.assert_array_equal(weights[name], value)
    rows = whole.metrics.set_index("step")
    pd.testing.assert_frame_equal(metrics, rows.loc[metrics.index], check_exact=True)
    assert again.counts == whole.counts
    assert rows.index[0] == 5 and rows.distance_to_discrete[5] == 0 == rows.function_distance[5]
    assert rows.effective_sharpness.dropna().index.tolist() == [5, 9, 13, 17, 21]


def test_slices_of_the_data_give_the_same():
    own, cut = problem(), digits(n=21, classes=3, microbatch=6)
    sliced = Problem.from_model(MLP(cut, jax.random.PRNGKey(0), widths=(8,)), cut, mse(), jnp.float64)
    gradient = eqx.filter_jit(lambda p: p.linearised(p.w0).gradient(p.w0 + 0.1))
    np.testing.assert_allclose(gradient(sliced), gradient(own), rtol=1e-9, atol=1e-12)


def test_what_has_no_network_or_no_such_anchor_is_told():
    with pytest.raises(UserError, match="take linear out of the processes"):
        simulate(Problem.from_function(jnp.sum, jnp.ones(2)), GD, processes=("linear",), steps=2)
    with pytest.raises(ValueError, match="anchor must be start or branch"):
        Linear(anchor="end")
