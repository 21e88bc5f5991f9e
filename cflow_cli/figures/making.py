"""Making figures: the runs they need, their drawings, and what their claims come to."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cflow_cli.config import composing
from cflow_cli.errors import UserError
from cflow_cli.figures import connections
from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import letter
from cflow_cli.figures.experiment import Experiment
from cflow_cli.figures.measuring import FigureRun
from cflow_cli.report import pictures, style
from cflow_cli.report.ending import describe
from cflow_cli.runs.launching import run_into
from cflow_cli.storage import Run, read_kernel, read_run

# What a run is not told apart by: where and how it runs, and where its data lies.
_ELSEWHERE = (
    "device",
    "devices",
    "memory_gib",
    "checkpoint",
    "name",
    "tags",
    "notes",
    "logger",
    "data.microbatch",
    "data.root",
)

# What ``cflow kernel`` adds to its overrides.
_KERNEL = ("kernel=default",)


def make(figure: Experiment, size: str, output: Path, overrides: Sequence[str] = ()) -> list[Claim]:
    """Make one figure: its runs, ``NAME.png``, ``NAME.svg``, ``NAME.gif`` where it is a film, ``claims.json``.

    Parameters
    ----------
    figure
        Which.
    size
        ``mini`` or ``paper``.
    output
        Folder of all figures; runs go to ``runs/`` in it, kernels to ``kernels/``, drawings to ``SIZE/NAME/``.
    overrides
        For every run and kernel, after those of the figure.

    Returns
    -------
    list of Claim
        What was claimed and measured.
    """
    began = time.monotonic()
    plan = figure.plan(size).items()
    runs = {label: FigureRun(obtain([*needed, *overrides], output / "runs")) for label, needed in plan}
    folders = {label: run.run.folder for label, run in runs.items()}
    paths = {
        label: connections.obtain(needed, folders, output / "paths")
        for label, needed in figure.path_plan(size).items()
    }
    kernels = {
        label: read_kernel(obtain([*needed, *overrides], output / "kernels", kernel=True).folder)
        for label, needed in figure.kernel_plan(size).items()
    }
    folder = output / size / figure.name
    folder.mkdir(parents=True, exist_ok=True)
    found = {**runs, **paths, **kernels}
    claims = figure.claims(found)
    with style.figure_style():
        drawn = figure.draw(found)
        letter(drawn)
        for ending in ("png", "svg"):
            drawn.savefig(folder / f"{figure.name}.{ending}")
        if figure.animated:
            pictures.animate(drawn).save(folder / f"{figure.name}.gif")
    seconds = time.monotonic() - began
    folders |= {label: path.paths.folder for label, path in paths.items()}
    folders |= {label: kernel.folder for label, kernel in kernels.items()}
    _write_claims(folder / "claims.json", figure, size, folders, claims)
    for claim in claims:
        print(f"  {claim}")
    print(f"  {folder / figure.name}.png  ({seconds:.0f} s)", flush=True)
    return claims


def obtain(overrides: Sequence[str], root: Path, *, kernel: bool = False) -> Run:
    """Return a run with these overrides: the one on disk, or a new one; one that was interrupted is continued.

    Parameters
    ----------
    overrides
        Those of ``cflow run``, or of ``cflow kernel``; the first names the experiment.
    root
        Folder of all runs, or kernels, of the figures.
    kernel
        Whether a kernel is wanted, not a run.

    Raises
    ------
    UserError
        If the run cannot be prepared, or failed.
    KeyboardInterrupt
        If it was interrupted.
    """
    with composing.hydra_session() as hydra:
        composed = composing.composed(hydra, [*_KERNEL, *overrides] if kernel else list(overrides))
        folder = run_folder(root, overrides, composing.without_hydra(composed))
        what = "kernel" if kernel else "run"
        result = run_into(composed, folder, lambda folder: print(f"  {what} {folder}", flush=True), describe)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "failed":
        raise UserError(f"the {what} {folder} failed: {result.reason}")
    return read_run(folder)


def run_folder(root: Path, overrides: Sequence[str], cfg: Any) -> Path:
    """Folder of a run: readable, and the same for the same run whichever figure asks for it."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for key in _ELSEWHERE:
        group, _, name = key.partition(".")
        (plain[group] if name else plain).pop(name or group, None)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    # The same run, whatever words asked for it.
    there = sorted(root.glob(f"*-{digest}"))
    if there:
        return there[0]
    words = [text for text in overrides if text.partition("=")[0] not in _ELSEWHERE]
    first, rest = words[0].partition("=")[2], [text.replace("optimizer=", "opt=", 1) for text in words[1:]]
    return root / f"{composing.label(first, '', rest)[:60]}-{digest}"


def commands(figures: Sequence[Experiment], size: str, overrides: Sequence[str], root: Path) -> Iterator[str]:
    """The command of each run, path and kernel that figures need, each once."""
    seen: set[Path] = set()
    with composing.hydra_session() as hydra:

        def place(root: Path, words: Sequence[str], *added: str) -> Path:
            composed = composing.composed(hydra, [*added, *words])
            return run_folder(root, words, composing.without_hydra(composed))

        for figure in figures:
            folders: dict[str, Path] = {}
            for label, needed in figure.plan(size).items():
                words = [*needed, *overrides]
                folder = place(root, words)
                folders[label] = folder
                if folder not in seen:
                    seen.add(folder)
                    yield shlex.join(["cflow", "run", *words, f"hydra.run.dir={folder}"])
            for plan in figure.path_plan(size).values():
                ends, options, folder = connections.words_of(plan, folders, root.parent / "paths")
                if folder not in seen:
                    seen.add(folder)
                    yield shlex.join(["cflow", "path", *ends, *options, f"out={folder}"])
            for needed in figure.kernel_plan(size).values():
                words = [*needed, *overrides]
                folder = place(root.parent / "kernels", words, *_KERNEL)
                if folder not in seen:
                    seen.add(folder)
                    yield shlex.join(["cflow", "kernel", *words, f"hydra.run.dir={folder}"])


def _write_claims(
    path: Path, figure: Experiment, size: str, folders: Mapping[str, Path], claims: Sequence[Claim]
) -> None:
    about = {
        "figure": figure.name,
        "size": size,
        "title": figure.title,
        "caption": figure.caption,
        "runs": {label: str(folder) for label, folder in folders.items()},
        "claims": [_plain(claim) for claim in claims],
    }
    path.write_text(json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _plain(claim: Claim) -> dict[str, Any]:
    """A claim as JSON has it: bounds that are not there, and what could not be measured, are null."""
    numbers = {key: float(value) for key, value in asdict(claim).items() if key != "text"}
    known = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    words = {"bounds": claim.bounds, "passed": claim.passed, "sentence": str(claim)}
    return {"text": claim.text, **known, **words}
