"""Films in which the curves of a figure grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

FRAMES = 50
_FRAME_MS = 100
_DPI = 110


def animate(figure: Figure, path: Path, frames: int = FRAMES) -> None:
    """Write a film in which the curves of a finished figure grow from left to right.

    Parameters
    ----------
    figure
        Its lines against optimizer steps grow; those with two points, such as thresholds, stay.
    path
        The GIF.
    frames
        Number of pictures, shown for a tenth of a second each, the last for two seconds.
    """
    lines = [
        (line, np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for ax in figure.axes
        for line in ax.lines
        if len(np.asarray(line.get_xdata())) > 2
    ]
    first = min(x.min() for _, x, _ in lines)
    last = max(x.max() for _, x, _ in lines)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # The layout of the finished figure stays: with the curves it would move.
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_autoscale_on(False)
    pictures = []
    for now in np.linspace(first, last, frames + 1)[1:]:
        for line, x, y in lines:
            line.set_data(x[x <= now], y[x <= now])
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    durations = [_FRAME_MS] * (frames - 1) + [20 * _FRAME_MS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
