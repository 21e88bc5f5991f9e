"""A page that shows figures that have been made, with their captions and what was checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_cli.errors import UserError

from .experiment import Experiment

_WIDTH = 1100


def write(page: Path, chosen: Sequence[Experiment], size: str, output: Path) -> None:
    """Write a Markdown page, and beside it a folder ``gallery`` with the pictures it shows.

    Parameters
    ----------
    page
        The file; its folder takes the pictures.
    chosen
        The figures, in the order of the page.
    size
        Of the figures that are shown.
    output
        Folder of all figures.

    Raises
    ------
    UserError
        If the page cannot be written.
    """
    folder = page.parent / "gallery"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = _page(chosen, size, output, folder)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the gallery {page}: {error.strerror}") from error


def _page(chosen: Sequence[Experiment], size: str, output: Path, folder: Path) -> str:
    abouts = []
    for figure in chosen:
        made = output / size / figure.name
        abouts.append(json.loads((made / "claims.json").read_text(encoding="utf-8")))
        _shrink(made / f"{figure.name}.png", folder / f"{figure.name}.png")
        if figure.animated:
            shutil.copyfile(made / f"{figure.name}.gif", folder / f"{figure.name}.gif")
    held = sum(claim["passed"] for about in abouts for claim in about["claims"])
    total = sum(len(about["claims"]) for about in abouts)
    lines = [
        "# Figures",
        "",
        f"Figures of the paper, made again by `cflow figures --all size={size}`. What each is there to show is",
        f"checked by a program: {held} of {total} claims hold. `cflow figures NAME` makes one;",
        "`experiments/NAME/README.md` says what it takes.",
        "",
    ]
    for figure, about in zip(chosen, abouts):
        lines += [f"## {figure.name}", "", about["title"].rstrip(".") + ".", ""]
        ending = "gif" if figure.animated else "png"
        lines += [f"![{about['caption']}](gallery/{figure.name}.{ending})", "", f"*{about['caption']}*", ""]
        lines += ["| checked | measured | bounds | |", "|---|---:|---|---|", *map(_row, about["claims"]), ""]
    return "\n".join(lines)


def _row(claim: dict[str, Any]) -> str:
    measured = "—" if claim["measured"] is None else f"{claim['measured']:.3g}"
    text = claim["text"].replace("|", "\\|")
    return f"| {text} | {measured} | {claim['bounds']} | {'holds' if claim['passed'] else '**fails**'} |"


def _shrink(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as picture:
        picture.thumbnail((_WIDTH, 10 * _WIDTH))
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)
