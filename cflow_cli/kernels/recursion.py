"""NNGP and tangent kernels of infinitely wide networks, layer by layer, at every depth in one pass.

With F₀ the mean of x·x′ over inputs, and dual F, Ḟ of the activation (:mod:`cflow_cli.kernels.duals`), layer l has

    S_l = σ_w² mix(F_{l−1}) + σ_b²                     covariance of its outputs
    T_l = own_l + σ_w² mix(T_{l−1} ∘ Ḟ(S_{l−1}))       tangent kernel of its outputs

where own_l is what its own weights add: S_l in the ntk parametrisation, fan_in mix(F_{l−1}) + 1 in the standard one. Of
dense layers mix is the identity (Jacot, Gabriel, Hongler, arXiv:1806.07572). Of 3×3 convolutions the kernels are
between pixels p of one image and q of the other, and mix is the mean over the windows around both, shifted together,
with zeros outside (Arora, Du, Hu, Li, Salakhutdinov, Wang, arXiv:1904.11955, section 4). An output layer on the mean
over pixels (``gap``) takes the mean over all p and q, and one on all pixels (``flatten``) that over p = q; the
latter needs p = q only at every layer, so P numbers for a pair of images in place of P².
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.kernels.duals import Dual, dual
from cflow_cli.models.limit import LayerLimit, Limit

# Numbers of one array that are worked on together: they stay in the cache of a core.
_BATCH = 1 << 16
# The same on a device with thousands of cores.
_BATCH_ACCELERATOR = 1 << 24


class Geometry(NamedTuple):
    """Which pairs of places a kernel is between, the last axis being pairs of inputs.

    Parameters
    ----------
    name
        ``dense``: none; ``diagonal``: p = q, axes (h, w); ``full``: all p and q, axes (h, h′, w, w′).
    shifted
        Groups of axes that a window shifts together.
    window
        Side of the window.
    """

    name: str
    shifted: tuple[tuple[int, ...], ...]
    window: int

    def mix(self, f: Array) -> Array:
        """The mean over windows."""
        for axes in self.shifted:
            reach, length = self.window // 2, f.shape[axes[0]]
            padded = jnp.pad(f, [(reach, reach) if axis in axes else (0, 0) for axis in range(f.ndim)])
            parts = [
                padded[tuple(slice(s, s + length) if axis in axes else slice(None) for axis in range(f.ndim))]
                for s in range(self.window)
            ]
            f = sum(parts[1:], parts[0]) / self.window
        return f

    def read(self, f: Array, readout: str) -> Array:
        """What an output layer makes of it, one number a pair."""
        if self.name == "dense":
            return f
        if self.name == "full" and readout == "flatten":
            f = jnp.einsum("iijjb->ijb", f)
        return jnp.mean(f, axis=tuple(range(f.ndim - 1)))


def geometry(limit: Limit, readouts: Sequence[str], *, images_alone: bool = False) -> Geometry:
    """Choose the cheapest geometry that has what some readouts need; with ``images_alone`` that of variances."""
    if limit.convolution is None:
        return Geometry("dense", (), 1)
    if images_alone or "gap" not in readouts:
        return Geometry("diagonal", ((0,), (1,)), limit.convolution)
    return Geometry("full", ((0, 1), (2, 3)), limit.convolution)


def _variances(limit: Limit, phi: Dual, f: Array) -> list[Array]:
    """S_l of each input with itself at p = q, for every hidden layer; from F₀, with inputs along the last axis."""
    mix = geometry(limit, (), images_alone=True).mix
    found = []
    for layer in limit.hidden:
        found.append(layer.weight * mix(f) + layer.bias)
        f = phi(found[-1], found[-1], found[-1])[0]
    return found


def _of_pairs(
    limit: Limit,
    phi: Dual,
    shape: Geometry,
    readouts: Sequence[str],
    f: Array,
    variances: Sequence[tuple[Array, Array]],
) -> Float[Array, "2 readouts depths pairs"]:
    """NNGP and tangent kernels of pairs of inputs, from F₀ and the variances of both at each hidden layer."""

    def outputs(f: Array, t: Array | None, head: LayerLimit, readout: str) -> tuple[Array, Array]:
        mean = shape.read(f, readout)
        tangent = head.weight_tangent * mean + head.bias_tangent
        if t is not None:
            tangent += head.weight * shape.read(t, readout)
        return head.weight * mean + head.bias, tangent

    found = {readout: [outputs(f, None, limit.head(readout, 0), readout)] for readout in readouts}
    t = None  # T ∘ Ḟ of the layer before
    for depth, (layer, (a, b)) in enumerate(zip(limit.hidden, variances), 1):
        mean = shape.mix(f)
        tangent = layer.weight_tangent * mean + layer.bias_tangent
        if t is not None:
            tangent += layer.weight * shape.mix(t)
        f, slope = phi(a, b, layer.weight * mean + layer.bias)
        t = tangent * slope
        for readout in readouts:
            found[readout].append(outputs(f, t, limit.head(readout, depth), readout))
    stacked = jnp.stack([jnp.stack([jnp.stack(pair) for pair in found[r]], axis=1) for r in readouts], axis=1)
    return limit.scale**2 * stacked


class InfiniteKernel(eqx.Module):
    """Kernels between given inputs, computed for any of their pairs.

    Parameters
    ----------
    limit
        The network.
    x
        Inputs: images (N, h, w, c) for one with convolutions, else anything, which is flattened.
    readouts
        Which of ``limit.readouts`` to compute.

    Attributes
    ----------
    batch
        Pairs that are worked on together.

    Raises
    ------
    UserError
        If there is no exact kernel for the activation.
    """

    x: Array
    variances: list[Array]
    limit: Limit = eqx.field(static=True)
    readouts: tuple[str, ...] = eqx.field(static=True)
    batch: int = eqx.field(static=True)

    def __init__(self, limit: Limit, x: Float[Array, "N ..."], readouts: Sequence[str]) -> None:
        phi = dual(limit.activation)
        self.x = x if limit.convolution is not None else x.reshape(len(x), -1)
        self.limit = limit
        self.readouts = tuple(readouts)
        squares = jnp.moveaxis(jnp.mean(self.x**2, axis=-1), 0, -1)
        self.variances = jax.jit(partial(_variances, limit, phi))(squares)
        (device,) = self.x.devices()
        numbers = _BATCH if device.platform == "cpu" else _BATCH_ACCELERATOR
        self.batch = max(1, numbers // self.pair_size)

    @property
    def pair_size(self) -> int:
        """Numbers in one array of a pair: 1, P or P²."""
        shape = geometry(self.limit, self.readouts)
        pixels = 1 if shape.name == "dense" else self.x.shape[1] * self.x.shape[2]
        return pixels**2 if shape.name == "full" else pixels

    def __call__(
        self, i: Int[Array, " pairs"], j: Int[Array, " pairs"]
    ) -> Float[Array, "2 readouts depths pairs"]:
        """NNGP and tangent kernels of pairs of inputs, given by their numbers.

        The depths are 1, the output layer alone, to that of the network. One program for each number of pairs,
        which must be a multiple of :attr:`batch`.
        """
        return _compute(self, i, j)


@eqx.filter_jit
def _compute(kernel: InfiniteKernel, i: Array, j: Array) -> Array:
    limit, phi = kernel.limit, dual(kernel.limit.activation)
    shape = geometry(limit, kernel.readouts)

    def of_batch(numbers: tuple[Array, Array]) -> Array:
        u, v = (kernel.x[part] for part in numbers)
        # Pairs last, so that shifts move whole rows and everything else runs along them.
        if shape.name == "full":
            f = jnp.einsum("bhwc,bHWc->hHwWb", u, v) / u.shape[-1]
        else:
            f = jnp.moveaxis(jnp.mean(u * v, axis=-1), 0, -1)
        pairs = [(variance[..., numbers[0]], variance[..., numbers[1]]) for variance in kernel.variances]
        if shape.name == "full":
            pairs = [(a[:, None, :, None], b[None, :, None, :]) for a, b in pairs]
        return _of_pairs(limit, phi, shape, kernel.readouts, f, pairs)

    batches = i.reshape(-1, kernel.batch), j.reshape(-1, kernel.batch)
    found = jnp.moveaxis(jax.lax.map(of_batch, batches), 0, -2)
    return found.reshape(*found.shape[:-2], -1)
