"""Tests run in float64, with warnings as errors."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def float64():
    """A run inside a test sets JAX up for itself; each module starts afresh."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", None)


@pytest.fixture(autouse=True)
def float64_again(float64):
    jax.config.update("jax_enable_x64", True)
