"""``cflow figures``: run what is missing, draw, check."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_cli.commandline import EXIT_FAILED, Parser
from cflow_cli.errors import UserError
from cflow_cli.storage import Run

from . import experiment as experiments
from .claims import Claim
from .experiment import SIZES, Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES = 50
_FRAME_MS = 100
_FILM_DPI = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow figures``.

    Parameters
    ----------
    argv
        Arguments after ``figures``; by default those of the process.

    Returns
    -------
    int
        Exit status: 0, or 1 where a claim does not hold.

    Raises
    ------
    UserError
        For an unknown figure or size, or a run that cannot be made.
    """
    parser = Parser(
        prog="cflow figures",
        description="Make figures of the paper again: run what is missing, reuse what is there, draw, and check the "
        "claims. Without names it lists the figures.",
        epilog="examples: cflow figures edge-cycle; cflow figures experiments/rank size=paper device=gpu; "
        "cflow figures --all",
    )
    parser.add_argument(
        "words",
        metavar="NAME|key=value",
        nargs="*",
        help="figures, by name or folder; size=mini (minutes on two cores, the default) or size=paper (hours on a "
        "GPU); further overrides go to every run: device=gpu, data.root=PATH",
    )
    parser.add_argument("--all", action="store_true", help="every figure")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("outputs/figures"),
        help="default: outputs/figures",
    )
    parser.add_argument("--commands", action="store_true", help="only print the commands of the runs")
    parser.add_argument(
        "--gallery", metavar="FILE", type=Path, help="also write a page that shows the figures"
    )
    args = parser.parse_intermixed_args(argv)
    names = [word for word in args.words if "=" not in word]
    overrides = [word for word in args.words if "=" in word]
    if not names and not args.all:
        if overrides or args.commands or args.gallery:
            raise UserError("which figure? name some, or take --all; cflow figures alone lists them")
        _list()
        return 0
    if names and args.all:
        raise UserError("give names of figures or --all, not both")
    size = _size(overrides)
    overrides = [word for word in overrides if not word.startswith("size=")]
    chosen = experiments.find(names)
    if args.commands:
        _print_commands(chosen, size, overrides, args.output / "runs")
        return 0
    made = [make(figure, size, args.output, overrides) for figure in chosen]
    if args.gallery is not None:
        from .gallery import write

        write(args.gallery, chosen, size, args.output)
    if len(made) > 1:
        _print_summary(chosen, made, size)
    return EXIT_FAILED if any(not claim.passed for claims in made for claim in claims) else 0


def make(figure: Experiment, size: str, output: Path, overrides: Sequence[str] = ()) -> list[Claim]:
    """Make one figure: its runs, ``NAME.png``, ``NAME.svg``, ``NAME.gif`` where it is a film, ``claims.json``.

    Parameters
    ----------
    figure
        Which.
    size
        ``mini`` or ``paper``.
    output
        Folder of all figures; runs go to ``runs/`` in it, drawings to ``SIZE/NAME/``.
    overrides
        For every run, after those of the figure.

    Returns
    -------
    list of Claim
        What was claimed and measured.
    """
    from cflow_cli.report import style

    print(f"{figure.name} ({size}): {figure.title}", flush=True)
    began = time.monotonic()
    runs = {
        label: experiments.obtain([*needed, *overrides], output / "runs", announce=_announce)
        for label, needed in figure.plan(size).items()
    }
    folder = output / size / figure.name
    folder.mkdir(parents=True, exist_ok=True)
    claims = figure.claims(runs)
    with style.figure_style():
        drawn = figure.draw(runs)
        for ending in ("png", "svg"):
            drawn.savefig(folder / f"{figure.name}.{ending}")
        if figure.animated:
            animate(drawn, folder / f"{figure.name}.gif")
    seconds = time.monotonic() - began
    _write_claims(folder / "claims.json", figure, size, runs, claims)
    for claim in claims:
        print(f"  {claim}")
    print(f"  {folder / figure.name}.png  ({seconds:.0f} s)", flush=True)
    return claims


def animate(figure: Figure, path: Path, frames: int = FRAMES) -> None:
    """Write a film in which the curves of a finished figure grow from left to right.

    Parameters
    ----------
    figure
        Its lines against optimizer steps grow; those with two points, such as thresholds, stay.
    path
        Of the GIF.
    frames
        Number of pictures, shown for a tenth of a second each, the last for two seconds.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    lines = [
        (line, np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for ax in figure.axes
        for line in ax.lines
        if len(np.asarray(line.get_xdata())) > 2
    ]
    first = min(x.min() for _, x, _ in lines)
    last = max(x.max() for _, x, _ in lines)
    figure.set_dpi(_FILM_DPI)
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


def _size(overrides: Sequence[str]) -> str:
    size = next((word.removeprefix("size=") for word in overrides if word.startswith("size=")), SIZES[0])
    if size not in SIZES:
        raise UserError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    return size


def _announce(folder: Path) -> None:
    print(f"  run {folder}", flush=True)


def _write_claims(
    path: Path, figure: Experiment, size: str, runs: Mapping[str, Run], claims: Sequence[Claim]
) -> None:
    about = {
        "figure": figure.name,
        "size": size,
        "title": figure.title,
        "caption": figure.caption,
        "runs": {label: str(run.folder) for label, run in runs.items()},
        "claims": [_plain(claim) for claim in claims],
    }
    path.write_text(json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _plain(claim: Claim) -> dict[str, Any]:
    """A claim as JSON has it: bounds that are not there, and what could not be measured, are null."""
    numbers = {key: float(value) for key, value in asdict(claim).items() if key != "text"}
    known = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    words = {"bounds": claim.bounds, "passed": claim.passed, "sentence": str(claim)}
    return {"text": claim.text, **known, **words}


def _list() -> None:
    found = experiments.find([])
    width = max(len(figure.name) for figure in found)
    for figure in found:
        print(f"{figure.name:<{width}}  {figure.title}")
    print(
        "\ncflow figures NAME makes one, cflow figures --all every one; experiments/NAME/README.md says more."
    )


def _print_commands(chosen: Sequence[Experiment], size: str, overrides: Sequence[str], root: Path) -> None:
    import shlex

    from cflow_cli import config as configs

    printed: set[Path] = set()
    with configs.hydra_session() as hydra:
        for figure in chosen:
            for needed in figure.plan(size).values():
                words = [*needed, *overrides]
                cfg = configs.without_hydra(configs.composed(hydra, words))
                folder = experiments.run_folder(root, words, cfg)
                if folder not in printed:
                    printed.add(folder)
                    print(shlex.join(["cflow", "run", *words, f"hydra.run.dir={folder}"]))


def _print_summary(chosen: Sequence[Experiment], made: Sequence[Sequence[Claim]], size: str) -> None:
    width = max(len(figure.name) for figure in chosen)
    print()
    for figure, claims in zip(chosen, made):
        failed = [claim for claim in claims if not claim.passed]
        print(f"{figure.name:<{width}}  {len(claims) - len(failed)} of {len(claims)} claims hold")
        for claim in failed:
            print(f"{'':<{width}}  {claim}")
    failures = sum(not claim.passed for claims in made for claim in claims)
    total = sum(len(claims) for claims in made)
    print(f"\n{len(chosen)} figures at size={size}: {total - failures} of {total} claims hold")
