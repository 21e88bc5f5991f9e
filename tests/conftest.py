"""Tests run in float64, with warnings as errors."""

import jax

jax.config.update("jax_enable_x64", True)
