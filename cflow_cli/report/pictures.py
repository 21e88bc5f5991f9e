"""Drawings that a notebook shows: figures, and films in which their curves grow."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cflow_cli.errors import UserError
from cflow_cli.report import style
from cflow_cli.storage.files import write_atomically

FRAMES = 50
_FRAME_MS = 100
_DPI = 110


class Picture(Figure):
    """A figure that a notebook shows although pyplot, which would keep it in memory, does not know of it."""

    def _repr_png_(self) -> bytes:
        whole, small = io.BytesIO(), io.BytesIO()
        with style.figure_style():
            self.savefig(whole, format="png", dpi=_DPI)
        # A notebook keeps what it shows: with a palette it is a third as large.
        with Image.open(whole) as picture:
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()


@dataclass(frozen=True)
class Film:
    """A film that shows itself in a notebook, in its editor and on a page alike, without a script.

    Parameters
    ----------
    gif
        The GIF, as its file has it.
    """

    gif: bytes = field(repr=False)

    def save(self, path: Path | str) -> None:
        """Write it into a file.

        Raises
        ------
        UserError
            When the file cannot be written.
        """

        def write(temporary: Path) -> None:
            temporary.write_bytes(self.gif)

        write_atomically(Path(path), write)

    def _repr_html_(self) -> str:
        return f'<img alt="film" src="data:image/gif;base64,{base64.b64encode(self.gif).decode()}">'


def animate(figure: Figure, frames: int = FRAMES) -> Film:
    """Make a film in which the curves of a finished figure grow from left to right.

    Parameters
    ----------
    figure
        Its lines against optimizer steps grow; those with two points, such as thresholds, stay.
    frames
        Number of pictures, shown for a tenth of a second each, the last for two seconds.

    Raises
    ------
    UserError
        When no line has more than two points.
    """
    lines = [
        (line, np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for ax in figure.axes
        for line in ax.lines
        if len(np.asarray(line.get_xdata())) > 2
    ]
    if not lines:
        raise UserError("nothing grows in this film: it needs a curve of at least three steps")
    first = min(x.min() for _, x, _ in lines)
    last = max(x.max() for _, x, _ in lines)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    pictures = []
    with style.figure_style():
        canvas.draw()
        # The layout of the finished figure stays: with the curves it would move.
        figure.set_layout_engine("none")
        for ax in figure.axes:
            ax.set_autoscale_on(False)
        for now in np.linspace(first, last, frames + 1)[1:]:
            for line, x, y in lines:
                line.set_data(x[x <= now], y[x <= now])
            canvas.draw()
            picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
            pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    durations = [_FRAME_MS] * (frames - 1) + [20 * _FRAME_MS]
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return Film(content.getvalue())
