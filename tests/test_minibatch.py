"""Mini-batches beside the full batch, against plain optax loops and dense derivatives."""

from functools import cache
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli import Problem, simulate
from cflow_cli.curvature.batches import along_gradients
from cflow_cli.datasets.digits import digits
from cflow_cli.engine.minibatch import batch_of
from cflow_cli.engine.options import Minibatch
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import cross_entropy, mse
from cflow_cli.measurements.batch_sharpness import BatchSharpness
from cflow_cli.models.mlp import MLP

STEPS = 12
ADAM = optax.adam(1e-2)


@cache
def problem(loss=cross_entropy, n=21, widths=(6,)):
    data = digits(n=n, classes=3)
    return Problem.from_model(MLP(data, jax.random.PRNGKey(0), widths=widths), data, loss(), jnp.float64)


def simulation(kind, optimizer=ADAM, own=None, **settings):
    usual = {"steps": STEPS, "chunk": STEPS // 2, "kick": 0.0, "measurements": ()}
    return Simulation(own or problem(), optimizer, **usual | {"processes": (kind,)} | settings)


def test_batches_are_pieces_of_an_epoch_or_drawn_anew():
    key = jax.random.PRNGKey(3)
    drawn = {
        order: np.stack([batch_of(key, jnp.asarray(t), 23, 5, order) for t in range(9)])
        for order in ("epoch", "chance")
    }
    for batches in drawn.values():
        assert all(len(set(batch)) == 5 and set(batch) <= set(range(23)) for batch in batches)
        assert len({tuple(batch) for batch in batches}) == 9
    first, second = drawn["epoch"][:4].ravel(), drawn["epoch"][4:8].ravel()
    assert len(set(first)) == len(set(second)) == 20 and list(first) != list(second)
    assert len(set(drawn["chance"][:4].ravel())) < 20


@pytest.mark.parametrize("order", ["epoch", "chance"])
def test_it_is_stepped_as_optax_would(order):
    """With the full batch's loss and gradient in its rows, at the iterates that the batches lead to."""
    kind = Minibatch(batch_size=5, order=order, seed=4)
    run = simulation(kind)
    list(run)
    own, key = problem(), jax.random.PRNGKey(4)
    x, y = own.objective.x, own.objective.y

    def loss(w, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(own.objective.apply(w, x), y).mean()

    derivatives = jax.jit(jax.value_and_grad(loss))
    w, state, rows = own.w0, ADAM.init(own.w0), []
    for t in range(STEPS):
        b = batch_of(key, jnp.asarray(t), 21, 5, order)
        (batch_loss, g), (full, gradient) = derivatives(w, x[b], y[b]), derivatives(w, x, y)
        rows.append([batch_loss, full, gradient @ gradient])
        delta, state = ADAM.update(g, state, w)
        w = optax.apply_updates(w, delta)
    np.testing.assert_allclose(run.weights()["minibatch"], w, rtol=1e-9, atol=1e-12)
    seen = run.metrics[["batch_loss", "loss", "grad_norm_sq"]].to_numpy()
    np.testing.assert_allclose(seen, rows, rtol=1e-9)


def test_with_the_whole_batch_it_is_the_optimizer_and_its_spectrum():
    kinds = ("discrete", Minibatch(batch_size=21))
    run = simulation(None, optax.sgd(0.1), problem(mse), processes=kinds)
    list(run)
    rows = dict(list(run.metrics.groupby("process")))
    assert rows["minibatch"].distance_to_discrete.max() < 1e-11
    looked = rows["minibatch"].effective_sharpness.notna().to_numpy()
    assert looked.nonzero()[0].tolist() == [0, 10]
    np.testing.assert_allclose(
        rows["minibatch"].effective_sharpness[looked],
        rows["discrete"].effective_sharpness[looked],
        rtol=1e-3,
    )


def test_it_goes_on_to_the_bit():
    kind = Minibatch(batch_size=5)
    whole, half, rest = (simulation(kind) for _ in range(3))
    list(whole)
    for chunk in half:
        if chunk.step >= STEPS // 2:
            break
    rest.restore(half.snapshot())
    list(rest)
    np.testing.assert_array_equal(rest.weights()["minibatch"], whole.weights()["minibatch"])


def test_batch_sharpness_is_the_mean_curvature_along_a_batchs_own_gradient():
    """Over all batches of two of three examples it is known; of all three it is that of the full batch."""
    own = problem(cross_entropy, 3, (2,))
    w = own.w0

    @jax.jit
    def curvature(numbers):
        batch = own.on_batch(numbers)
        g, h = jax.grad(batch.loss)(w), jax.hessian(batch.loss)(w)
        return g @ h @ g / (g @ g)

    each = [curvature(jnp.asarray(numbers)) for numbers in combinations(range(3), 2)]
    found = along_gradients(own, w, jax.random.PRNGKey(0), jnp.asarray(0), 2, 60)
    assert np.isclose(np.asarray(found)[:, None], each).any(axis=1).all()
    assert abs(found.mean() - np.mean(each)) < 3 * np.std(each) / 60**0.5
    settings = BatchSharpness(batch_size=3, batches=2)
    row = simulate(
        own, optax.sgd(0.1), steps=1, processes=("discrete",), measurements=(settings,)
    ).metrics.iloc[0]
    np.testing.assert_allclose(row.batch_sharpness, curvature(jnp.arange(3)), rtol=1e-10)
    assert row.batch_sharpness_error < 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": (Minibatch(batch_size=22),)}, "processes.minibatch.batch_size=22 is more than the 21"),
        (
            {"measurements": (BatchSharpness(batch_size=22),)},
            "batch_sharpness.batch_size=22 is more than the 21",
        ),
    ],
)
def test_a_batch_larger_than_the_data_is_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        Simulation(problem(), ADAM, steps=2, **settings)


@pytest.mark.parametrize("settings", [{"processes": ("minibatch",)}, {"measurements": ("batch_sharpness",)}])
def test_a_function_has_no_batches(settings):
    with pytest.raises(UserError, match="function of the weights; take it out of the"):
        Simulation(Problem.from_function(lambda w: jnp.sum(w**2), jnp.ones(3)), ADAM, steps=2, **settings)


@pytest.mark.parametrize(
    "wrong", [lambda: Minibatch(order="random"), lambda: Minibatch(0), lambda: BatchSharpness(batches=1)]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="must be"):
        wrong()
