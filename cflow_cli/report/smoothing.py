"""Smoothing over the oscillation: the mean that numbers are taken from, and the trend that is looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd

WINDOW = 50
"""Steps the smoothing averages over."""


def smoothed(values: pd.Series, window: int = WINDOW) -> pd.Series:
    """Centred moving average, only where the full window exists.

    s_t = (½ y_{t−w/2} + y_{t−w/2+1} + … + y_{t+w/2−1} + ½ y_{t+w/2}) / w for an even window w: centred
    on t, exact for straight lines, and free of any oscillation of period 2.

    Parameters
    ----------
    values
        One value per step; where a step is missing in a window, there is no average.
    window
        Even number of steps averaged over.

    Raises
    ------
    ValueError
        When the window is odd or not positive.

    Examples
    --------
    >>> smoothed(pd.Series([1.0, 3.0, 1.0, 3.0, 1.0]), window=2).tolist()  # blind to a period of 2
    [2.0, 2.0, 2.0]
    """
    weights = np.full(max(window, 0) + 1, 1 / max(window, 1))
    weights[[0, -1]] /= 2
    return _filtered(values, weights)


def trend(values: pd.Series, window: int = WINDOW) -> pd.Series:
    """Centred smoothing that keeps parabolas and is blind to a period of 2, for curves that are looked at.

    A Savitzky–Golay filter: the value at its centre of the least-squares fit of a + bs + cs² + d(−1)^s to a window. A
    mean floats above a loss that falls convexly, by w²/24 of its second derivative; this does not.

    Parameters
    ----------
    values
        One value per step; where a step is missing in a window, there is no value.
    window
        Even number of steps.

    Examples
    --------
    >>> trend(pd.Series([0.0, 1.0, 4.0, 9.0, 16.0, 25.0, 36.0]), window=4).round(9).tolist()
    [4.0, 9.0, 16.0]
    """
    steps = np.arange(window + 1) - window / 2
    basis = np.stack([np.ones_like(steps), steps, steps**2, (-1.0) ** np.arange(window + 1)], axis=1)
    return _filtered(values, np.linalg.pinv(basis)[0])


def look(column: str, values: pd.Series) -> pd.Series:
    """A quantity as it is smoothed to be looked at: :func:`trend`, but the mean of squares.

    Bursts narrower than the window would draw the least-squares parabola of squares below zero.

    Parameters
    ----------
    column
        Its column in the metrics.
    values
        One value per step.
    """
    return smoothed(values) if column.endswith("_sq") else trend(values)


def _filtered(values: pd.Series, weights: np.ndarray) -> pd.Series:
    """Weighted sums over every window that is whole, at its centre."""
    window = len(weights) - 1
    if window < 2 or window % 2:
        raise ValueError(f"the smoothing window must be even and positive, got {window}")
    if values.empty or values.index[-1] - values.index[0] < window:
        return pd.Series(dtype=float, index=pd.Index([], dtype=int))
    full = values.reindex(range(values.index[0], values.index[-1] + 1))
    # Summed window by window, not by running sums, whose rounding would swamp losses that fall by decades.
    windows = np.lib.stride_tricks.sliding_window_view(full.to_numpy(), window + 1)
    half = window // 2
    return pd.Series(windows @ weights, index=full.index[half:-half]).dropna()
