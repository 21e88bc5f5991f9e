"""Deep matrix factorisation: its laws along the optimizer and its flows, its sharpness, and its convex counterpart."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse as sp

from cflow_cli import Problem, simulate
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.completion import completion
from cflow_cli.datasets.digits import digits
from cflow_cli.datasets.sensing import sensing
from cflow_cli.errors import UserError
from cflow_cli.losses import mse
from cflow_cli.measurements.imbalance import Imbalance
from cflow_cli.measurements.singular_values import SingularValues
from cflow_cli.models.balanced import balanced_sharpness
from cflow_cli.models.deep_linear import DeepLinear
from cflow_cli.models.matrix_factorisation import MatrixFactorisation
from cflow_cli.models.nuclear_norm import minimum_nuclear_norm


def problem_of(data, **options):
    return Problem.from_model(
        MatrixFactorisation(data, jax.random.key(0), **options), data, mse(), jnp.float64
    )


def imbalances(factors):
    return [after.T @ after - before @ before.T for before, after in itertools.pairwise(factors)]


def entries(matrices):
    """As the measurement stacks them: on and above the diagonal, so that squares add up to the Frobenius norm."""
    parts = [np.where(np.eye(len(d)), 1, np.sqrt(2)) * np.asarray(d) for d in matrices]
    return np.concatenate([d[np.triu_indices(len(d))] for d in parts])


# --- model ------------------------------------------------------------------------------------------


def test_outputs_are_entries_and_measurements_of_the_product():
    rng = np.random.default_rng(0)
    for width, init in ((None, "orthogonal"), (2, "gaussian")):
        data = completion(rows=5, columns=3, rank=1, n=4)
        model = MatrixFactorisation(data, jax.random.key(0), depth=3, width=width, init=init, init_scale=0.2)
        first, second, third = model.factors
        product = np.asarray(third @ second @ first)
        assert first.shape == (width or 3, 3) and third.shape == (5, width or 3)
        np.testing.assert_allclose(model(data.x)[:, 0], product[data.x[:, 0], data.x[:, 1]], atol=1e-7)
        a = rng.normal(size=(6, 5, 3))
        np.testing.assert_allclose(model(a)[:, 0], np.einsum("kij,ij->k", a, product), atol=1e-6)
        np.testing.assert_allclose(model.collapsed().factors[0], product, atol=1e-7)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "identity"])
def test_the_scale_is_that_of_the_product_at_any_depth(init):
    data = completion(rows=40, columns=40)
    for depth in (1, 2, 4):
        model = MatrixFactorisation(data, jax.random.key(0), depth=depth, init=init, init_scale=1e-3)
        factors = [np.asarray(f) for f in model.factors]
        norm = np.linalg.norm(np.linalg.multi_dot([*factors[::-1], np.eye(40)])) / (1e-3 * np.sqrt(40))
        balanced = init != "gaussian"
        assert norm == pytest.approx(1, rel=1e-5 if balanced else 0.2)
        for d in imbalances(factors):
            assert (np.linalg.norm(d) < 1e-5 * np.linalg.norm(factors[0]) ** 2) == balanced


def test_the_fully_observed_problem_is_a_deep_linear_network_on_the_identity():
    """There the loss is a mean over rows, of a sum over columns."""
    data = completion(rows=4, columns=4, rank=2, n=16)
    problem = problem_of(data, depth=3, init_scale=0.3)
    transposed = Dataset(np.eye(4), data.truth.T.copy(), "regression", (4,), 4, "transposed")
    model = DeepLinear(transposed, jax.random.key(0), depth=3, width=4)
    factors = problem.model(problem.w0).factors
    object.__setattr__(model, "matrices", tuple(f.T for f in factors))
    other = Problem.from_model(model, transposed, mse(), jnp.float64)
    assert other.loss(other.w0) == pytest.approx(4 * float(problem.loss(problem.w0)), rel=1e-12)


def test_sharpness_at_the_balanced_fit():
    """In closed form where every entry is observed, else against the dense Hessian."""
    whole = completion(rows=4, columns=3, rank=2, n=12)
    left, values, right = np.linalg.svd(whole.truth, full_matrices=False)
    for depth in (1, 2, 3):
        closed = depth * values[0] ** (2 - 2 / depth) / 12
        assert balanced_sharpness(whole, depth) == pytest.approx(closed, rel=1e-5)
    root = np.cbrt(values)
    w = jnp.concatenate([jnp.ravel(f) for f in (root[:, None] * right, np.diag(root), left * root)])
    some, measured = completion(rows=4, columns=3, rank=2, n=7), sensing(rows=4, columns=3, rank=2, n=7)
    y = np.einsum("kij,ij->k", measured.x, whole.truth)[:, None]
    for data in (some, replace(measured, truth=whole.truth, y=y)):
        problem = problem_of(data, depth=3)
        loss, hessian = jax.jit(lambda w, p=problem: (p.loss(w), jax.hessian(p.loss)(w)))(w)
        assert loss < 1e-12
        assert balanced_sharpness(data, 3) == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-4)


# --- measurements -----------------------------------------------------------------------------------


def test_singular_values_and_how_they_move():
    data = sensing(rows=5, columns=4, rank=2, n=9)
    problem = problem_of(data, depth=3, init_scale=0.5)

    @jax.jit
    def evaluated(w):
        """What the measurement brings, and the products a little later and earlier on gradient flow."""
        measured = SingularValues(top=3)(SimpleNamespace(problem=problem, weights=w), (), ())
        moved = [problem.model(w - t * problem.gradient(w)).product for t in (1e-5, -1e-5)]
        return measured.values, moved

    row, moved = evaluated(problem.w0)
    model = problem.model(problem.w0)
    w, factors = np.asarray(model.product), [np.asarray(f) for f in model.factors]
    u, values, vt = np.linalg.svd(w, full_matrices=False)
    np.testing.assert_allclose(row["singular_value"], values[:3], rtol=1e-10)
    shares = values / values.sum()
    assert row["nuclear_norm"] == pytest.approx(values.sum(), rel=1e-10)
    assert row["effective_rank"] == pytest.approx(np.exp(-shares @ np.log(shares)), rel=1e-6)
    assert row["reconstruction_error"] == pytest.approx(((w - data.truth) ** 2).mean(), rel=1e-10)
    assert row["imbalance"] == pytest.approx(sum(np.linalg.norm(d) for d in imbalances(factors)), rel=1e-10)
    residual = np.einsum("kij,ij->k", data.x, w) - data.y[:, 0]
    g = np.einsum("k,kij->ij", residual, data.x) / len(data)
    turned = u.T @ g @ vt.T
    off = turned - np.diag(np.diag(turned))
    assert row["alignment"] == pytest.approx(np.linalg.norm(off) / np.linalg.norm(turned), rel=1e-8)

    # Rates of singular values by differences along the flow.
    there, back = (np.linalg.svd(w, compute_uv=False) for w in moved)
    rates = (there - back) / 2e-5
    law = -3 * values ** (4 / 3) * np.diag(turned)
    assert row["rate_error"] == pytest.approx(np.linalg.norm(law - rates) / np.linalg.norm(rates), rel=1e-5)
    assert row["rate_error"] > 0.01
    for init in ("orthogonal", "identity"):  # the law holds; factors are made in float32
        balanced = MatrixFactorisation(data, jax.random.key(1), depth=3, init=init, init_scale=0.5)
        w = np.concatenate([np.ravel(f) for f in balanced.factors]).astype(float)
        assert evaluated(w)[0]["rate_error"] < 1e-5


def test_gradient_flow_keeps_the_imbalance_and_the_oscillation_breaks_it():
    """One run above the largest stable learning rate: the laws of gradient descent, stable and central flow."""
    data = completion(rows=5, columns=5, rank=1, n=17)
    problem = problem_of(data, depth=2, init_scale=0.3)
    lr = 1.1 * 2 / balanced_sharpness(data, 2)
    result = simulate(
        problem,
        optax.sgd(lr),
        processes=["discrete", "stable", "central"],
        steps=40,
        kick=0.0,
        eigs=EigsOptions(tolerance=1e-6, max_iterations=20),
        measurements=(Imbalance(every=1),),
    )
    table = result.eigenvalues

    def path(process, kind="imbalance_entry"):
        own = table[(table.process == process) & (table.kind == kind)]
        return own.pivot_table(index="step", columns="index", values="value").to_numpy()

    discrete, stable, central = map(path, ("discrete", "stable", "central"))
    factors = problem.model(problem.w0).factors
    np.testing.assert_allclose(discrete[0], entries(imbalances(factors)), atol=1e-12)
    # A step of gradient descent.
    gradients = problem.model(problem.gradient(problem.w0)).factors
    step = lr**2 * entries(imbalances(gradients))
    np.testing.assert_allclose(discrete[1] - discrete[0], step, rtol=1e-9, atol=1e-13)
    # By step 15 the flows are at the edge and fit; in their first steps, which are long, errors of the integrators are seen.
    discrete, stable, central = (path[15:] - path[15] for path in (discrete, stable, central))
    assert np.linalg.norm(stable, axis=1).max() < 0.005 * np.linalg.norm(discrete[-1])
    assert np.linalg.norm(central[-1] - discrete[-1]) < 0.05 * np.linalg.norm(discrete[-1])
    # The central flow by four times what it says of the average less its own, up to errors of its steps.
    rate = 4 * (path("central", "predicted_imbalance_entry") - path("central"))[15:]
    moved = np.cumsum((rate[1:] + rate[:-1]) / 2, axis=0)
    assert np.linalg.norm(moved[-1] - central[-1]) < 0.05 * np.linalg.norm(central[-1])


def test_measurements_of_a_product_refuse_other_models():
    data = digits(n=12, classes=3)
    other = Problem.from_model(DeepLinear(data, jax.random.key(0), depth=1), data, mse())
    own = Problem.from_function(lambda w: w @ w, jnp.ones(2))
    for measurement in (SingularValues(), Imbalance()):
        with pytest.raises(UserError, match="choose model=matrix_factorisation"):
            measurement.prepare(SimpleNamespace(problem=other))
        with pytest.raises(UserError, match="only a problem from a model and data"):
            measurement.prepare(SimpleNamespace(problem=own))
    with pytest.raises(ValueError, match="top must be at least 1"):
        SingularValues(top=0)


# --- the least nuclear norm -------------------------------------------------------------------------


def observed(matrix, places):
    x = np.asarray(places, np.int32)
    y = np.asarray(matrix, float)[tuple(x.T)][:, None]
    return Dataset(x, y, "entries", (2,), 1, "own", matrix_shape=np.shape(matrix))


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0)])
def test_one_missing_entry_of_a_square_of_four(a, b, c):
    """‖X‖_*² = a² + b² + c² + d² + 2|ad − bc|, least at d = min(a, bc/a) for positive numbers."""
    d = min(a, b * c / a)
    found = minimum_nuclear_norm(observed([[a, b], [c, 0]], [(0, 0), (0, 1), (1, 0)]), 1e-10)
    norm = np.sqrt(a**2 + b**2 + c**2 + d**2 + 2 * abs(a * d - b * c))
    assert found.primal == pytest.approx(norm, rel=1e-9) and found.dual == pytest.approx(norm, rel=1e-9)
    np.testing.assert_allclose(found.matrix, [[a, b], [c, d]], atol=1e-4)


def conic_solution(data):
    """The same by an interior-point method: min ½(tr A + tr B) with [[A, X], [Xᵀ, B]] ⪰ 0."""
    rows, columns = data.matrix_shape
    size = rows + columns
    place = lambda i, j: j * (j + 1) // 2 + i  # noqa: E731  (upper triangle by columns, scaled by √2 off the diagonal)
    length = size * (size + 1) // 2
    cost = np.zeros(length)
    cost[[place(i, i) for i in range(size)]] = 0.5
    chosen = sp.lil_matrix((len(data), length))
    given = data.x.dtype.kind in "iu"
    for k, x in enumerate(data.x):
        for i, j in [tuple(x)] if given else np.ndindex(rows, columns):
            chosen[k, place(i, rows + j)] = (1.0 if given else x[i, j]) / np.sqrt(2)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solution = clarabel.DefaultSolver(
        sp.csc_matrix((length, length)),
        cost,
        sp.vstack([chosen, -sp.identity(length)]).tocsc(),
        np.concatenate([data.y[:, 0], np.zeros(length)]),
        [clarabel.ZeroConeT(len(data)), clarabel.PSDTriangleConeT(size)],
        settings,
    ).solve()
    x = np.array(solution.x)
    return solution.obj_val, np.array(
        [[x[place(i, rows + j)] / np.sqrt(2) for j in range(columns)] for i in range(rows)]
    )


@pytest.mark.parametrize(
    "data",
    [completion(rows=8, columns=7, rank=2, n=30), sensing(rows=5, columns=6, rank=2, n=14)],
    ids=lambda data: data.name,
)
def test_a_cone_solver_finds_the_same(data):
    least, matrix = conic_solution(data)
    found = minimum_nuclear_norm(data, 1e-7)
    assert found.gap < 1e-7
    assert found.dual <= least * (1 + 1e-7) and found.primal >= least * (1 - 1e-7)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-3)
    # It is another matrix than the true one, which has no smaller norm.
    assert np.linalg.norm(data.truth, "nuc") > 1.001 * found.primal


def test_enough_entries_give_the_matrix_itself():
    data = completion(rows=30, columns=30, rank=2, n=500)
    found = minimum_nuclear_norm(data, 1e-8)
    np.testing.assert_allclose(found.matrix, data.truth, atol=1e-5)
    residual = found.matrix[tuple(data.x.T)] - data.y[:, 0]
    assert np.abs(residual).max() < 1e-12


def test_what_has_no_least_nuclear_norm_is_said():
    with pytest.raises(UserError, match="has no matrix"):
        minimum_nuclear_norm(digits(n=12, classes=3))
    with pytest.raises(UserError, match="depend on each other; take fewer"):
        minimum_nuclear_norm(sensing(rows=2, columns=2, rank=1, n=5))
    with pytest.raises(UserError, match="does not know its matrix"):
        balanced_sharpness(observed([[1, 2], [3, 4]], [(0, 0)]), 2)
