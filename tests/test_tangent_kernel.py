"""The tangent kernel and the derivatives of outputs, against dense Jacobians and closed forms."""

from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli import Problem, simulate
from cflow_cli.curvature.block import random_rows
from cflow_cli.curvature.kernel import dense_kernel, kernel_spectrum
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.curvature.outputs import output_derivatives
from cflow_cli.datasets.dataset import Dataset
from cflow_cli.datasets.digits import digits
from cflow_cli.datasets.sorting import sorting
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import cross_entropy, mse
from cflow_cli.measurements.output_hessian import OutputHessian
from cflow_cli.measurements.tangent_kernel import TangentKernel
from cflow_cli.models.base import Linear
from cflow_cli.models.deep_linear import DeepLinear
from cflow_cli.models.mlp import MLP
from cflow_cli.models.tokens import Embedding

LR = 0.05


def points(n=5, features=3, outputs=1, seed=0):
    """Random inputs and targets."""
    rng = np.random.default_rng(seed)
    return Dataset(
        x=rng.normal(size=(n, features)),
        y=rng.normal(size=(n, outputs)),
        task="regression",
        input_shape=(features,),
        num_outputs=outputs,
        name="points",
    )


def dense(problem, w):
    jacobian = np.asarray(jax.jit(jax.jacrev(problem.all_outputs))(w))
    return jacobian @ jacobian.T / problem.num_terms


def kernel_of(problem, w):
    return np.asarray(dense_kernel(problem.all_outputs, w, problem.counted_outputs, float(problem.num_terms)))


def test_columns_against_a_dense_jacobian():
    data = digits(n=6, classes=3)
    problem = Problem.from_model(MLP(data, jax.random.key(0), [4]), data, mse(), jnp.float64)
    measurements = (TangentKernel(every=2), OutputHessian(examples=1, iterations=99))
    result = simulate(
        problem, optax.sgd(LR), processes=["discrete"], steps=3, kick=0.0, measurements=measurements
    )
    metrics, table = result.metrics.set_index("step"), result.eigenvalues
    w, gradient = problem.w0, eqx.filter_jit(problem.gradient)
    start = dense(problem, w)
    hessians = np.asarray(jax.jit(jax.hessian(lambda w: problem.outputs(w, 1)))(w))
    assert metrics.output_hessian[0] == pytest.approx(
        np.linalg.norm(hessians, 2, axis=(1, 2)).mean(), rel=1e-10
    )
    assert metrics.output_hessian[1:].isna().all()
    for _ in range(2):
        w = w - LR * gradient(w)
    kernel, row = dense(problem, w), metrics.loc[2]
    values = np.linalg.eigvalsh(kernel)[::-1]
    assert row.kernel_max == pytest.approx(values[0], rel=1e-10)
    assert row.kernel_min == pytest.approx(values[-1], rel=1e-7)
    assert row.kernel_condition == row.kernel_max / row.kernel_min
    change = np.linalg.norm(kernel - start) / np.linalg.norm(start)
    assert row.kernel_change == pytest.approx(change, rel=1e-10) and change > 1e-3
    assert metrics.kernel_change[0] == 0 and metrics.kernel_max.notna().tolist() == [True, False, True]
    np.testing.assert_allclose(table.query("kind == 'kernel' and step == 2").value, values[:10], rtol=1e-10)
    # ½‖∇L‖²/L is rᵀKr/(n‖r‖²), and between the extremes.
    r = np.asarray(problem.all_outputs(w)) - np.eye(3)[data.y].ravel()
    assert row.pl_ratio == pytest.approx(r @ kernel @ r / (r @ r), rel=1e-10)
    assert row.kernel_min < row.pl_ratio < row.kernel_max


def test_of_a_kernel_with_too_many_rows_the_top_is_measured():
    """In slices of the data, under a loss that is no square."""
    data = replace(digits(n=6, classes=3), microbatch=4)
    problem = Problem.from_model(MLP(data, jax.random.key(0), [4]), data, cross_entropy(), jnp.float64)
    measurement, w = TangentKernel(rows_max=17), problem.w0
    eigs = EigsOptions(tolerance=1e-8)
    linear = SimpleNamespace(gradient=w, loss=w[0])
    point = SimpleNamespace(problem=problem, weights=w, linear=linear, eigs=eigs)
    fixed = measurement.prepare(SimpleNamespace(problem=problem, gradient=np.asarray(w)))
    memory = measurement.start(problem, random_rows(jax.random.key(1), 6, len(w), w.dtype))
    found = jax.jit(lambda memory: measurement(point, fixed, memory))(memory)
    values = found.values
    assert values["kernel_max"] == pytest.approx(np.linalg.eigvalsh(dense(problem, w))[-1], rel=1e-10)
    assert values["kernel"].tolist() == [values["kernel_max"]] and found.gradients > 0
    assert found.memory.shape == memory.shape == (2, len(w))
    assert all(np.isnan(values[f"kernel_{name}"]) for name in ("min", "condition", "change"))
    assert np.isnan(values["pl_ratio"])


def test_a_linear_model_has_a_constant_kernel_and_no_hessian():
    data = points(outputs=2)
    model = DeepLinear(data, jax.random.key(0), depth=1)
    problem = Problem.from_model(model, data, mse(), jnp.float64)
    x, y, w = data.x, data.y, problem.w0
    kernel = kernel_of(problem, w)
    np.testing.assert_allclose(kernel, np.kron(x @ x.T, np.eye(2)) / len(x), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(kernel_of(problem, w + 1), kernel, rtol=1e-14, atol=1e-15)
    assert np.isnan(kernel_spectrum(kernel, 3).smallest)  # five examples of three features
    gradients, hessians = output_derivatives(problem.all_outputs, w, steps=5)
    assert (hessians == 0).all()
    np.testing.assert_allclose(gradients, np.repeat(np.linalg.norm(x, axis=1), 2), rtol=1e-12)
    # r' = (I − ηK/n) r
    before, after = (
        np.asarray(problem.all_outputs(v)) - y.ravel() for v in (w, w - LR * problem.gradient(w))
    )
    np.testing.assert_allclose(after, before - LR * kernel @ before, rtol=1e-12)


def test_two_layers_in_the_ntk_parametrisation_in_closed_form():
    """f = vᵀ tanh(Wx/√d)/√m: its kernel, ‖∇²f‖, and S = κ_max where nothing is left to fit."""
    data, m = points(), 7
    model = MLP(data, jax.random.key(1), [m], "tanh", bias=False, parametrisation="ntk")
    x, d = data.x, data.x.shape[1]
    first, last = (np.asarray(layer.weight, float) for layer in model.layers)
    v, z = last[:, 0], x @ first / np.sqrt(d)
    data = replace(data, y=np.tanh(z) @ last / np.sqrt(m))
    problem = Problem.from_model(model, data, mse(), jnp.float64)
    s, slope = np.tanh(z), 1 - np.tanh(z) ** 2
    wanted = (s @ s.T + (slope * v**2) @ slope.T * (x @ x.T) / d) / (m * len(x))
    kernel = kernel_of(problem, problem.w0)
    np.testing.assert_allclose(kernel, wanted, rtol=1e-6)
    sharpness = np.linalg.eigvalsh(jax.jit(jax.hessian(problem.loss))(problem.w0))[-1]
    assert sharpness == pytest.approx(float(kernel_spectrum(kernel, 1).top[0]), rel=1e-6)
    # The Hessian of an output has a block [[0, a], [a, b]] for each unit, so rank 2m: fewer than the steps.
    size = np.linalg.norm(x, axis=1)[:, None]
    a, b = slope * size / np.sqrt(m * d), -2 * s * slope * v * size**2 / (d * np.sqrt(m))
    norms = (np.abs(b) / 2 + np.sqrt(b**2 / 4 + a**2)).max(axis=1)
    gradients, hessians = output_derivatives(problem.all_outputs, problem.w0, steps=99)
    np.testing.assert_allclose(hessians, norms, rtol=1e-6)
    np.testing.assert_allclose(gradients, np.sqrt(len(x) * np.diag(wanted)), rtol=1e-6)


def test_the_kernel_of_a_product_of_two_matrices():
    """f_ij = ⟨u_i, v_j⟩: K_(ij)(kl) = δ_ik ⟨v_j, v_l⟩ + δ_jl ⟨u_i, u_k⟩."""
    data = replace(points(4, 4, 3), x=np.eye(4))
    model = DeepLinear(data, jax.random.key(2), depth=2, width=2)
    problem = Problem.from_model(model, data, mse(), jnp.float64)
    u, v = np.asarray(model.matrices[0], float), np.asarray(model.matrices[1], float).T
    wanted = np.kron(np.eye(4), v @ v.T) + np.kron(u @ u.T, np.eye(3))
    np.testing.assert_allclose(kernel_of(problem, problem.w0), wanted / 4, rtol=1e-12, atol=1e-15)


class Letters(eqx.Module):
    """The next letter from the last one alone."""

    embedding: Embedding
    head: Linear

    def __call__(self, x):
        return self.head(jnp.tanh(self.embedding(x)))


def test_masked_positions_are_no_rows():
    data, key = sorting(n=4, vocabulary=3, length=3), jax.random.key(0)
    problem = Problem.from_model(
        Letters(Embedding(3, 4, key, 1.0), Linear(4, 3, key)), data, mse(), jnp.float64
    )
    wanted = np.repeat(data.mask.ravel(), 3)
    assert 0 < wanted.sum() < wanted.size and problem.num_terms == data.mask.sum()
    np.testing.assert_array_equal(problem.counted_outputs, np.flatnonzero(wanted))
    found = kernel_of(problem, problem.w0)
    np.testing.assert_allclose(found, dense(problem, problem.w0)[wanted][:, wanted], rtol=1e-9, atol=1e-14)
    # r of the rows that count gives the PL identity.
    r = np.asarray(problem.all_outputs(problem.w0))[wanted] - np.eye(3)[data.y[data.mask]].ravel()
    g, loss = problem.gradient(problem.w0), problem.loss(problem.w0)
    assert r @ found @ r / (r @ r) == pytest.approx(float(g @ g / (2 * loss)), rel=1e-10)


def test_what_rounding_has_lost_is_no_number():
    for smallest, kept in ((1e-10, True), (1e-17, False)):
        spectrum = kernel_spectrum(jnp.diag(jnp.asarray([smallest, 2.0, 1.0])), 2)
        np.testing.assert_allclose(spectrum.top, [2, 1])
        assert spectrum.smallest == smallest if kept else np.isnan(spectrum.smallest)


def test_what_has_no_outputs_and_settings_that_cannot_be_are_refused():
    problem = Problem.from_function(lambda w: w @ w, jnp.ones(2))
    for measurement in (TangentKernel(), OutputHessian()):
        with pytest.raises(UserError, match=f"leave {measurement.name} out"):
            Simulation(problem, optax.sgd(LR), steps=1, measurements=(measurement,))
    with pytest.raises(ValueError, match="rows_max must be at least 1"):
        TangentKernel(rows_max=0)
    with pytest.raises(ValueError, match="examples and iterations must be at least 1"):
        OutputHessian(iterations=0)
