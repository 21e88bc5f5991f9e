"""What came out of figures: a summary of claims, and a page that shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cflow_cli.errors import UserError
from cflow_cli.figures.claims import Claim
from cflow_cli.figures.experiment import Experiment, by_part
from cflow_cli.report.tables import markdown

_WIDTH = 1100


def summary(figures: Sequence[Experiment], made: Sequence[Sequence[Claim]], size: str) -> Iterator[str]:
    """The lines that say how many claims of each figure hold, and which do not."""
    width = max(len(figure.name) for figure in figures)
    yield ""
    for figure, claims in zip(figures, made):
        failed = [claim for claim in claims if not claim.passed]
        yield f"{figure.name:<{width}}  {len(claims) - len(failed)} of {len(claims)} claims hold"
        yield from (f"{'':<{width}}  {claim}" for claim in failed)
    failures = sum(not claim.passed for claims in made for claim in claims)
    total = sum(len(claims) for claims in made)
    yield f"\n{len(figures)} figures at size={size}: {total - failures} of {total} claims hold"


def write(page: Path, chosen: Sequence[Experiment], size: str, output: Path) -> None:
    """Write a Markdown page, and beside it a folder ``gallery`` with the pictures it shows.

    Parameters
    ----------
    page
        The file; its folder takes the pictures.
    chosen
        The figures, in the order of the page.
    size
        Size of the figures that are shown.
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
        f"Figures of the papers, made again by `cflow figures --all size={size}`. What each is there to show is",
        f"checked by a program: {held} of {total} claims hold. `cflow figures NAME` makes one;",
        "`experiments/PART/NAME/README.md` says what it takes.",
        "",
    ]
    by_name = dict(zip((figure.name for figure in chosen), abouts))
    for part, figures in by_part(chosen):
        lines += [f"## {part or 'Elsewhere'}", ""]
        for figure in figures:
            about, name = by_name[figure.name], figure.name
            ending = "gif" if figure.animated else "png"
            lines += [f"### {name}", "", about["title"].rstrip(".") + ".", ""]
            lines += [f"![{about['caption']}](gallery/{name}.{ending})", "", f"*{about['caption']}*", ""]
            lines += [_claims_table(about["claims"])]
    return "\n".join(lines)


def _claims_table(claims: Sequence[dict[str, Any]]) -> str:
    rows = [
        [claim["text"], claim["measured"], claim["bounds"], "holds" if claim["passed"] else "**fails**"]
        for claim in claims
    ]
    return markdown(["checked", "measured", "bounds", ""], rows, ["text", "number", "text", "text"])


def _shrink(source: Path, target: Path) -> None:
    with Image.open(source) as picture:
        picture.thumbnail((_WIDTH, 10 * _WIDTH))
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)
