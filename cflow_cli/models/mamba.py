"""Mamba: a selective state-space model for next-token prediction (Gu and Dao, arXiv 2312.00752)."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.base import Model, numbers, positive
from cflow_cli.models.normalisation import RMSNorm
from cflow_cli.models.tokens import Embedding, vocabulary_of

SCANS = ("sequential", "associative")
DEVIATION = 0.02
SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1


def _normal(inputs: int, outputs: int, key: PRNGKeyArray, scale: float) -> Float[Array, "inputs outputs"]:
    return scale * DEVIATION * jax.random.normal(key, (inputs, outputs), jnp.float32)


def recurrence(
    decay: Float[Array, "t n ..."], drive: Float[Array, "t n ..."], scan: str
) -> Float[Array, "t n ..."]:
    """h_t = decay_t · h_{t−1} + drive_t from h = 0, elementwise; both scans agree to rounding."""
    if scan == "associative":

        def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
            return first[0] * second[0], second[0] * first[1] + second[1]

        return jax.lax.associative_scan(combine, (decay, drive))[1]

    def step(h: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        h = now[0] * h + now[1]
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(drive[0]), (decay, drive))[1]


class Block(eqx.Module):
    """x + out(silu(z) · SSM(silu(conv(x')))) with (x', z) = in(norm(x)).

    SSM: Δ = softplus(W_Δ x + b_Δ), h_t = e^{ΔA} h_{t−1} + Δ B x_t, y = C h + D x with B, C, Δ functions of x
    and A = −e^{log_rates}.
    """

    norm: RMSNorm
    inside: Float[Array, "width double"]
    kernel: Float[Array, "taps inner"]
    kernel_bias: Float[Array, " inner"]
    selection: Float[Array, "inner rank_and_two_states"]
    step: Float[Array, "rank inner"]
    step_bias: Float[Array, " inner"]
    log_rates: Float[Array, "inner states"]
    skip: Float[Array, " inner"]
    outside: Float[Array, "inner width"]
    scan: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        inner: int,
        states: int,
        taps: int,
        rank: int,
        key: PRNGKeyArray,
        scale: float,
        scan: str,
    ) -> None:
        keys = jax.random.split(key, 7)
        self.norm = RMSNorm(width)
        self.inside = _normal(width, 2 * inner, keys[0], scale)
        bound = scale / math.sqrt(taps)
        self.kernel = jax.random.uniform(keys[1], (taps, inner), jnp.float32, -bound, bound)
        self.kernel_bias = jax.random.uniform(keys[2], (inner,), jnp.float32, -bound, bound)
        self.selection = _normal(inner, rank + 2 * states, keys[3], scale)
        self.step = _normal(rank, inner, keys[4], scale)
        # softplus(step_bias) is log-uniform between the two step sizes.
        log_step = jax.random.uniform(
            keys[5], (inner,), jnp.float32, math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
        )
        self.step_bias = jnp.log(jnp.expm1(jnp.exp(log_step)))
        self.log_rates = jnp.tile(jnp.log(jnp.arange(1, states + 1, dtype=jnp.float32)), (inner, 1))
        self.skip = jnp.ones(inner, jnp.float32)
        self.outside = _normal(inner, width, keys[6], scale)
        self.scan = scan

    def __call__(self, x: Float[Array, "t n width"]) -> Float[Array, "t n width"]:
        """Apply to a batch of sequences, time first."""
        u, gate = jnp.split(self.norm(x) @ self.inside, 2, axis=-1)
        taps, times = len(self.kernel), len(u)
        padded = jnp.pad(u, ((taps - 1, 0), (0, 0), (0, 0)))
        # A causal depthwise convolution as a sum of shifted products, for the same reason as in `Conv`.
        u = sum((padded[i : i + times] * self.kernel[i] for i in range(taps)), self.kernel_bias)
        u = jax.nn.silu(u)
        rank, states = len(self.step), self.log_rates.shape[-1]
        low, b, c = jnp.split(u @ self.selection, (rank, rank + states), axis=-1)
        dt = jax.nn.softplus(low @ self.step + self.step_bias)
        decay = jnp.exp(dt[..., None] * -jnp.exp(self.log_rates))
        drive = (dt * u)[..., None] * b[..., None, :]
        h = recurrence(decay, drive, self.scan)
        y = jnp.einsum("tnis,tns->tni", h, c) + self.skip * u
        return x + (y * jax.nn.silu(gate)) @ self.outside


class Mamba(Model):
    """Embedding, residual selective state-space blocks, RMS norm, outputs at every position.

    Parameters
    ----------
    data
        Tokens ``(T,)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    width
        Size of each token's vector.
    depth
        Number of blocks.
    states
        States per inner channel.
    expand
        Inner channels per unit of width.
    taps
        Length of the causal convolution.
    rank
        Rank of the map to step sizes; null for width/16, rounded up.
    scan
        ``sequential`` (least work) or ``associative`` (parallel in time, for long sequences on a GPU).
    head_scale
        Factor on the initial output layer, as in the paper's code.
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights but the step sizes and rates.

    Raises
    ------
    UserError
        If the data are not tokens, or an option is not allowed.
    """

    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: RMSNorm
    head: Float[Array, "width vocabulary"]
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        width: int = 64,
        depth: int = 2,
        states: int = 16,
        expand: int = 2,
        taps: int = 4,
        rank: int | None = None,
        scan: str = "sequential",
        head_scale: float = 0.1,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        rank = int(np.ceil(width / 16)) if rank is None else rank
        positive(width=width, depth=depth, states=states, expand=expand, taps=taps, rank=rank)
        numbers(head_scale=head_scale, output_scale=output_scale, init_scale=init_scale)
        if scan not in SCANS:
            raise UserError(f"model.scan must be one of {', '.join(SCANS)}; got {scan!r}")
        vocabulary = vocabulary_of(data, "mamba")
        keys = iter(jax.random.split(key, depth + 2))
        self.embedding = Embedding(vocabulary, width, next(keys), init_scale * DEVIATION)
        self.blocks = tuple(
            Block(width, expand * width, states, taps, rank, next(keys), init_scale, scan)
            for _ in range(depth)
        )
        self.norm = RMSNorm(width)
        self.head = _normal(width, vocabulary, next(keys), head_scale * init_scale)
        self.output_scale = output_scale

    def __call__(self, x: Int[Array, "n t"]) -> Float[Array, "n t vocabulary"]:
        """Outputs at every position of a batch of sequences."""
        h = jnp.swapaxes(self.embedding(x), 0, 1)
        for block in self.blocks:
            h = block(h)
        return self.output_scale * (jnp.swapaxes(self.norm(h), 0, 1) @ self.head)
