"""Finding the figures in ``experiments/`` and running what they need."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cflow_cli import config as configs
from cflow_cli.errors import UserError
from cflow_cli.storage import Run, read_run

from .claims import Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = ("mini", "paper")
# What a run is not told apart by: where and how it runs, and where its data lies.
_ELSEWHERE = ("device", "devices", "checkpoint", "name", "data.microbatch", "data.root")


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
    name
        Of the folder.
    folder
        Where it is.
    module
        Its ``figure.py``: ``runs(size)``, ``draw(runs)``, ``claims(runs)``, ``CAPTION``; ``ANIMATED`` where the
        figure is also to be a film.
    """

    name: str
    folder: Path
    module: ModuleType

    @property
    def title(self) -> str:
        """First line of the docstring of ``figure.py``."""
        return (self.module.__doc__ or self.name).strip().splitlines()[0]

    @property
    def caption(self) -> str:
        """What is drawn, in one paragraph."""
        return " ".join(self.module.CAPTION.split())

    @property
    def animated(self) -> bool:
        """Whether the figure is also a film."""
        return getattr(self.module, "ANIMATED", False)

    def plan(self, size: str) -> dict[str, tuple[str, ...]]:
        """The runs that are needed: a label and the overrides of ``cflow run``."""
        return {label: tuple(overrides) for label, overrides in self.module.runs(size).items()}

    def draw(self, runs: Mapping[str, Run]) -> Figure:
        """Draw the figure; to be called within :func:`cflow_cli.report.style.figure_style`."""
        return self.module.draw(runs)

    def claims(self, runs: Mapping[str, Run]) -> list[Claim]:
        """Check what the figure is there to show."""
        return list(self.module.claims(runs))


def find(names: Sequence[str]) -> list[Experiment]:
    """Load figures by their names or folders; all that come with the package where none is named.

    Raises
    ------
    UserError
        For a name that is neither a figure of the package nor a folder with a ``figure.py``.
    """
    known = {path.parent.name: path.parent for path in sorted(experiments_dir().glob("*/figure.py"))}
    if not known and not names:
        raise UserError(f"there are no figures in {experiments_dir()}; is the installation complete?")
    found = []
    for name in names or known:
        folder = known.get(name.rstrip("/").removeprefix("experiments/"), Path(name))
        if not (folder / "figure.py").is_file():
            if folder.is_dir():
                raise UserError(
                    f"{folder} holds no figure.py, so it is no figure; cflow figures lists those there are"
                )
            hint = configs.did_you_mean(name, known)
            raise UserError(f"there is no figure {name!r}{hint}; cflow figures lists those there are")
        found.append(_load(folder.resolve()))
    return found


def _load(folder: Path) -> Experiment:
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
    return Experiment(folder.name, folder, module)


def run_folder(root: Path, overrides: Sequence[str], cfg: Any) -> Path:
    """Folder of a run: readable, and the same for the same run whichever figure asks for it."""
    from omegaconf import OmegaConf

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
    return root / f"{configs.label(first, '', rest)[:60]}-{digest}"


def obtain(
    overrides: Sequence[str],
    root: Path,
    *,
    announce: Callable[[Path], None] = lambda _: None,
) -> Run:
    """Return a run with these overrides: the one on disk, or a new one; one that was interrupted is gone on with.

    Parameters
    ----------
    overrides
        As of ``cflow run``; the first names the experiment.
    root
        Folder of all runs of the figures.
    announce
        Called with the folder before a run starts.

    Raises
    ------
    UserError
        If the run cannot be prepared, or failed.
    KeyboardInterrupt
        If it was interrupted.
    """
    from cflow_cli.run import run_into

    with configs.hydra_session() as hydra:
        composed = configs.composed(hydra, list(overrides))
        cfg = configs.without_hydra(composed)
        folder = run_folder(root, overrides, cfg)
        result = run_into(composed, folder, announce)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "failed":
        raise UserError(f"the run {folder} failed: {result.reason}")
    return read_run(folder)
