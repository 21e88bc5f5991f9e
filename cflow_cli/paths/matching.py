"""The permutation of hidden units that brings one network nearest to another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from cflow_cli.models.units import Units

_ROUNDS = 100


def permuted(
    units: Sequence[Units], w: Float[np.ndarray, " params"], orders: Sequence[Int[np.ndarray, " units"]]
) -> Float[np.ndarray, " params"]:
    """The same function with the units of each layer in another order.

    Parameters
    ----------
    units
        Places of the units' weights in w.
    w
        Weights.
    orders
        For each layer, which unit comes to each place.
    """
    w = np.array(w)
    for layer, order in zip(units, orders):
        for places in layer:
            w[places] = w[places[order]]
    return w


def match(
    units: Sequence[Units], a: Float[np.ndarray, " params"], b: Float[np.ndarray, " params"]
) -> tuple[Float[np.ndarray, " params"], list[Int[np.ndarray, " units"]]]:
    """Order the units of b so that its weights have the largest scalar product with those of a.

    Layer after layer is ordered best with the others fixed, an assignment problem, until nothing changes: the weight
    matching of Git Re-Basin (Ainsworth et al., arXiv:2209.04836, algorithm 1), which is a local optimum.

    Parameters
    ----------
    units
        Places of the units' weights in both.
    a, b
        Weights, shape (n,).

    Returns
    -------
    weights
        b with its units in the new order: the same function.
    orders
        For each layer, which unit of b comes to each place.
    """
    orders = [np.arange(len(layer.incoming)) for layer in units]
    b = np.array(b)
    for _ in range(_ROUNDS):
        settled = True
        for number, layer in enumerate(units):
            products = _products(layer.incoming, a, b) + _products(layer.outgoing, a, b)
            _, order = linear_sum_assignment(products, maximize=True)
            gain = products[np.arange(len(order)), order].sum() - np.trace(products)
            if gain > 1e-12 * np.abs(products).sum():
                b = permuted([layer], b, [order])
                orders[number] = orders[number][order]
                settled = False
        if settled:
            break
    return b, orders


def _products(places: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of the weights of each unit of a with those of each of b, in double precision."""
    ours, theirs = (w[places].reshape(len(places), -1).astype(float) for w in (a, b))
    return ours @ theirs.T
