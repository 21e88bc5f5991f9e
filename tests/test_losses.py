"""Losses and accuracies against plain NumPy."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cflow_cli.errors import UserError
from cflow_cli.losses import as_loss, cross_entropy, mse

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(5, 4, 3))
TOKENS = RNG.integers(0, 3, size=(5, 4)).astype(np.int32)
MASK = RNG.random((5, 4)) > 0.4


def log_softmax(f):
    return f - np.log(np.exp(f).sum(-1, keepdims=True))


def test_tokens_are_averaged_over_unmasked_positions():
    wanted_mse, wanted_nll, hits = [], [], []
    for i, t in zip(*np.nonzero(MASK)):
        f, y = OUTPUTS[i, t], TOKENS[i, t]
        wanted_mse.append(0.5 * ((f - np.eye(3)[y]) ** 2).sum())
        wanted_nll.append(-log_softmax(f)[y])
        hits.append(f.argmax() == y)
    f, y, mask = jnp.asarray(OUTPUTS), jnp.asarray(TOKENS), jnp.asarray(MASK)
    np.testing.assert_allclose(mse()(f, y, mask), np.mean(wanted_mse), rtol=1e-13)
    np.testing.assert_allclose(cross_entropy()(f, y, mask), np.mean(wanted_nll), rtol=1e-13)
    np.testing.assert_allclose(mse().accuracy(f, y, mask), np.mean(hits), rtol=1e-13)


def test_classes_binary_and_regression():
    f, y = jnp.asarray(OUTPUTS[:, 0]), jnp.asarray(TOKENS[:, 0])
    np.testing.assert_allclose(
        mse()(f, y), 0.5 * ((f - np.eye(3)[TOKENS[:, 0]]) ** 2).sum(1).mean(), rtol=1e-13
    )
    signs = jnp.asarray([1.0, -1.0, -1.0, 1.0, 1.0])
    one = f[:, :1]
    np.testing.assert_allclose(mse()(one, signs), 0.5 * ((one[:, 0] - signs) ** 2).mean(), rtol=1e-13)
    np.testing.assert_allclose(
        cross_entropy()(one, signs), np.log1p(np.exp(-signs * one[:, 0])).mean(), rtol=1e-13
    )
    assert mse().accuracy(one, signs) == 0.6
    targets = jnp.asarray(RNG.normal(size=(5, 3)))
    np.testing.assert_allclose(mse()(f, targets), 0.5 * ((f - targets) ** 2).sum(1).mean(), rtol=1e-13)
    assert jnp.isnan(mse().accuracy(f, targets))


@pytest.mark.parametrize("loss", [mse(), cross_entropy()])
def test_total_over_count_is_the_loss(loss):
    """What accumulation over slices relies on."""
    f, y, mask = jnp.asarray(OUTPUTS), jnp.asarray(TOKENS), jnp.asarray(MASK)
    total = sum(loss.total(f[i : i + 2], y[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4))
    np.testing.assert_allclose(total / loss.count(y, mask), loss(f, y, mask), rtol=1e-13)
    assert loss.count(y) == 20


@pytest.mark.parametrize("mask", [None, MASK])
def test_a_plain_function_of_one_example_is_a_loss(mask):
    """The built-in ones written for one example give what they give, for every kind of target."""

    def squares(outputs, target):
        return 0.5 * jnp.sum((outputs - jax.nn.one_hot(target, 3)) ** 2)

    def power(outputs, target, p=3):
        return jnp.sum(jnp.abs(outputs - target) ** p) / 2

    f, y = jnp.asarray(OUTPUTS), jnp.asarray(TOKENS)
    mine = as_loss(squares)
    np.testing.assert_allclose(mine(f, y, mask), mse()(f, y, mask), rtol=1e-13)
    np.testing.assert_allclose(mine.accuracy(f, y, mask), mse().accuracy(f, y, mask))
    numbers = jnp.asarray(RNG.normal(size=(5, 3)))
    np.testing.assert_allclose(
        as_loss(partial(power, p=2))(f[:, 0], numbers), mse()(f[:, 0], numbers), rtol=1e-13
    )
    signs = jnp.asarray([1.0, -1.0, -1.0, 1.0, 1.0])
    logistic = as_loss(lambda outputs, sign: jnp.log1p(jnp.exp(-sign * outputs[0])))
    np.testing.assert_allclose(logistic(f[:, 0, :1], signs), cross_entropy()(f[:, 0, :1], signs), rtol=1e-13)
    # Equal ones are one to the compiler.
    assert as_loss(partial(power, p=2)) == as_loss(partial(power, p=2)) != as_loss(partial(power, p=4))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            lambda outputs, target: outputs**2,
            "must give one number for each example, got an array (2,); sum it",
        ),
        (
            lambda outputs, target: outputs @ jnp.ones(3),
            "does not take the outputs (2,) and the target () of one",
        ),
        (lambda outputs: jnp.sum(outputs), "does not take"),
    ],
)
def test_a_function_that_is_no_loss_is_refused(loss, says):
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        as_loss(loss)(jnp.ones((5, 2)), jnp.ones(5))
    assert "\n" not in str(raised.value)


def test_large_outputs_do_not_overflow():
    f = jnp.asarray([[1e4], [-1e4]])
    y = jnp.asarray([-1.0, 1.0])
    np.testing.assert_allclose(cross_entropy()(f, y), 1e4)
    grown = jax.grad(lambda f: cross_entropy()(f, jnp.asarray([0, 1])))(jnp.asarray([[1e4, 0.0], [1e4, 0.0]]))
    assert jnp.isfinite(grown).all()
