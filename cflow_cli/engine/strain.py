"""Whether the steps of a flow that is to hold S_eff at 2 are short enough for the curvature."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.records import Status

# From an S_eff up to this, a step of the central flow is to end at 2, or to come down by a tenth; farther above, where
# flows branch off or the rate jumps, it comes down as it can.
_NEAR = 2.5
_DESCENT = 0.1
# A step that ends this much above where it was to end has missed. Where steps are short enough for the curvature, they
# miss by 0.03 at most.
_MISSED_BY = 0.05
# A miss counts twice and a hit takes one away: steps are too long at two misses in a row, or at every other step.
_TOO_OFTEN = 4


class Watch(NamedTuple):
    """Where the last step was to end at most (infinite: anywhere), and how often such a step has missed it of late."""

    ceiling: Float[Array, ""]
    misses: Int[Array, ""]

    def after(
        self, top: Float[Array, ""], acting: Bool[Array, ""], status: Int[Array, ""]
    ) -> tuple[Watch, Int[Array, ""]]:
        """The watch at the next step, and the status with what it has seen.

        Parameters
        ----------
        top
            S_eff that the last step has led to.
        acting
            Whether the flow acts on that direction, so that its next step is to hold it.
        status
            What else there is to say of the step.
        """
        missed = top > self.ceiling + _MISSED_BY
        misses = jnp.clip(self.misses + jnp.where(missed, 2, -1), 0, _TOO_OFTEN).astype(jnp.int32)
        ceiling = jnp.where(acting & (top <= _NEAR), jnp.maximum(2, top - _DESCENT), jnp.inf)
        off = missed & (misses >= _TOO_OFTEN)
        status = jnp.where(off, jnp.maximum(status, Status.OFF_THE_EDGE), status)
        return Watch(ceiling.astype(self.ceiling.dtype), misses), status

    @property
    def too_often(self) -> Bool[Array, ""]:
        """Whether steps should be divided."""
        return self.misses >= _TOO_OFTEN


def at_ease(dtype: DTypeLike) -> Watch:
    """The watch before the first step, in the precision of the weights."""
    return Watch(jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
