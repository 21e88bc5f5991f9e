"""Finding the figures in ``experiments/``."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.figures.claims import Check, Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cflow_cli.figures.connections import Plan

SIZES = ("mini", "paper")


def experiments_dir() -> Path:
    """Folder of the figures that come with the package: in a wheel inside it, in a checkout at its root."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


@dataclass(frozen=True)
class Experiment:
    """A folder with a ``figure.py``.

    Parameters
    ----------
    folder
        Where it is; its name is that of the figure.
    """

    folder: Path

    @cached_property
    def module(self) -> ModuleType:
        """Its ``figure.py``, loaded.

        It has ``runs(size)``, ``draw(**runs)``, ``claims(**runs)`` and ``CAPTION``; ``paths(size)`` where it needs
        paths between runs, ``kernels(size)`` where it needs kernels, both of which ``draw`` and ``claims`` are given by
        their labels; ``ANIMATED`` where the figure is also to be a film.

        Raises
        ------
        UserError
            If it cannot be loaded or lacks one of these.
        """
        return _load(self.folder)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def part(self) -> str:
        """The part of ``experiments/`` it stands in, such as ``central-flows/gd``; empty where it is in none."""
        root = experiments_dir()
        return self.folder.parent.relative_to(root).as_posix() if self.folder.is_relative_to(root) else ""

    @cached_property
    def title(self) -> str:
        """First line of the docstring of ``figure.py``, which is only read: what it imports takes seconds to load."""
        path = self.folder / "figure.py"
        try:
            told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} cannot be loaded: {error}") from error
        return (told or self.name).splitlines()[0]

    @property
    def caption(self) -> str:
        """What is drawn, in one paragraph."""
        return " ".join(self.module.CAPTION.split())

    @property
    def animated(self) -> bool:
        """Whether the figure is also a film."""
        return getattr(self.module, "ANIMATED", False)

    @property
    def checks(self) -> list[Check]:
        """What it checks, in the order of ``figure.py``."""
        return [value for value in vars(self.module).values() if isinstance(value, Check)]

    def plan(self, size: str) -> dict[str, tuple[str, ...]]:
        """The runs that are needed: a label and the overrides of ``cflow run``."""
        return {label: tuple(overrides) for label, overrides in self.module.runs(size).items()}

    def path_plan(self, size: str) -> dict[str, Plan]:
        """The paths between runs that are needed: a label and what :data:`cflow_cli.figures.connections.Plan` has."""
        return dict(self.module.paths(size)) if hasattr(self.module, "paths") else {}

    def kernel_plan(self, size: str) -> dict[str, tuple[str, ...]]:
        """The kernels that are needed: a label and the overrides of ``cflow kernel``."""
        kernels = self.module.kernels(size) if hasattr(self.module, "kernels") else {}
        return {label: tuple(overrides) for label, overrides in kernels.items()}

    def draw(self, runs: Mapping[str, Any]) -> Figure:
        """Draw the figure from what it needs; to be called within :func:`cflow_cli.report.style.figure_style`."""
        figure: Figure = self.module.draw(**runs)
        return figure

    def claims(self, runs: Mapping[str, Any]) -> list[Claim]:
        """Check what the figure is there to show."""
        return list(self.module.claims(**runs))


def folders() -> dict[str, Path]:
    """Name of each figure that comes with the package -> its folder, in the order of the parts.

    Raises
    ------
    UserError
        If two figures have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(experiments_dir().rglob("figure.py")):
        folder = path.parent
        if folder.name in found:
            raise UserError(
                f"{found[folder.name]} and {folder} have the same name; figures are told apart by theirs"
            )
        found[folder.name] = folder
    return found


def find(words: Sequence[str]) -> list[Experiment]:
    """Find figures by their names, parts or folders, each once; all that come with the package where none is named.

    Parameters
    ----------
    words
        Each the name of a figure, a folder of ``experiments/`` that holds figures at any depth, or a folder with a
        ``figure.py`` anywhere.

    Raises
    ------
    UserError
        For a word that is none of them.
    """
    root, known = experiments_dir(), folders()
    if not known and not words:
        raise UserError(f"there are no figures in {root}; is the installation complete?")
    parts: dict[str, list[Path]] = {}
    for folder in known.values():
        for above in folder.relative_to(root).parents[:-1]:
            parts.setdefault(above.as_posix(), []).append(folder)
    chosen: dict[Path, None] = {}
    for word in words:
        name = word.rstrip("/").removeprefix("experiments/")
        if name in parts:
            chosen.update(dict.fromkeys(parts[name]))
        else:
            chosen[known.get(name) or _own_folder(word, [*known, *parts])] = None
    return [Experiment(folder) for folder in chosen or known.values()]


def by_part(figures: Sequence[Experiment]) -> Iterator[tuple[str, list[Experiment]]]:
    """Each part and the figures of it, those that follow one another."""
    for part, own in groupby(figures, key=lambda figure: figure.part):
        yield part, list(own)


def listing(figures: Sequence[Experiment]) -> Iterator[str]:
    """The lines of a list of figures by part, and how to make them."""
    width = max(len(figure.name) for figure in figures)
    for part, own in by_part(figures):
        yield part
        yield from (f"  {figure.name:<{width}}  {figure.title}" for figure in own)
        yield ""
    yield "cflow figures NAME makes one, cflow figures PART those of a part, cflow figures --all every one;"
    yield "experiments/PART/NAME/README.md says more."


def _own_folder(word: str, known: Sequence[str]) -> Path:
    for folder in (Path(word), experiments_dir() / word):
        if (folder / "figure.py").is_file():
            return folder.resolve()
    if Path(word).is_dir():
        raise UserError(f"{word} holds no figure.py, so it is no figure; cflow figures lists those there are")
    raise UserError(
        f"there is no figure {word!r}{did_you_mean(word, known)}; cflow figures lists those there are"
    )


def _load(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"cflow_experiments.{folder.name.replace('-', '_')}", folder / "figure.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{folder / 'figure.py'} cannot be loaded: {error}") from error
    missing = [name for name in ("runs", "draw", "claims", "CAPTION") if not hasattr(module, name)]
    if missing:
        raise UserError(f"{folder / 'figure.py'} has no {' and no '.join(missing)}, which every figure needs")
    return module
