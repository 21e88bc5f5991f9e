"""The paths between two runs, from their checkpoints into a folder; what ``cflow path`` does. Imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from omegaconf import OmegaConf

from cflow_cli.config.building import build
from cflow_cli.config.checking import check
from cflow_cli.config.path_settings import PathSettings
from cflow_cli.errors import UserError
from cflow_cli.paths import connecting, curves
from cflow_cli.problem import Problem
from cflow_cli.runs import assembling
from cflow_cli.runs.devices import configure_jax
from cflow_cli.runs.ends import End, check_landscape, request
from cflow_cli.runs.launching import make_folder
from cflow_cli.storage import manifests, paths

# Curves are drawn in the plane with so many points.
_DRAWN = 101
_FITTED = ("bezier", "chain")


@dataclass(frozen=True)
class Traced:
    """Paths between two ends, and a plane through them.

    Parameters
    ----------
    ends
        Of the runs.
    settings
        What was asked for.
    found
        The paths, in that order.
    plane
        The loss on the plane through the ends and the bend of a fitted curve, or where there is none the weights that
        the first run would begin with.
    third
        What its third point is, in words.
    """

    ends: tuple[End, End]
    settings: PathSettings
    found: Sequence[connecting.Path]
    plane: connecting.Plane
    third: str

    @property
    def drawn(self) -> dict[str, np.ndarray]:
        """Kind -> coordinates of the curve in the plane, shape (points, 2)."""
        t = np.linspace(0, 1, _DRAWN)
        return {
            path.kind: curves.coefficients(path.kind, len(path.points), t) @ self.plane.project(path.points)
            for path in self.found
        }

    def save(self, folder: Path) -> None:
        """Write ``path.parquet``, ``path.npz`` and ``path.json`` into an existing folder; see ``storage.paths``."""
        plane = {"plane.x": self.plane.x, "plane.y": self.plane.y, "plane.loss": self.plane.loss}
        drawn = {f"plane.{kind}": points for kind, points in self.drawn.items()}
        about = {
            **request(self.ends, self.settings),
            "paths": {path.kind: path.summary for path in self.found},
            "third_point": self.third,
            "environment": manifests.environment(),
        }
        points = {path.kind: path.points for path in self.found}
        paths.write(folder, about, [path.rows for path in self.found], points, plane | drawn)


def landscape(end: End, device: str) -> tuple[Problem, Any]:
    """The problem of a run, built from its config, and the device to compute on, None for JAX's choice.

    Raises
    ------
    UserError
        If the config or the data are not as they must be.
    """
    cfg = OmegaConf.create(end.run.config)
    cfg.device, cfg.devices = device, 1
    checked = check(cfg)
    data = build(cfg.data, "data")
    chosen = configure_jax(checked.settings)
    with jax.default_device(chosen):
        return assembling.trained(cfg, checked, data).problem, chosen


def trace(
    ends: tuple[End, End], settings: PathSettings, announce: Callable[[str], None] = lambda _: None
) -> Traced:
    """Find the paths.

    Parameters
    ----------
    ends
        From :func:`cflow_cli.runs.ends.read_end`.
    settings
        Which paths.
    announce
        Called with each kind before it is begun.

    Raises
    ------
    UserError
        If the ends are of different landscapes, or a path cannot be made.
    """
    check_landscape(ends[0].run, ends[1].run)
    problem, device = landscape(ends[0], settings.device)
    a, b = (end.weights for end in ends)
    if np.array_equal(a, b):
        raise UserError(f"{ends[0].name} and {ends[1].name} are the same point")
    options: Mapping[str, Any] = {
        "match": settings.match,
        "points": settings.points,
        "steps": settings.steps,
        "lr": settings.lr,
        "seed": settings.seed,
        "refit": settings.refit,
        "halves": settings.halves,
    }
    with jax.default_device(device):
        found = []
        for kind in settings.kind:
            announce(kind)
            found.append(connecting.connect(problem, a, b, kind, **options))
        bends = [path for path in found if path.kind in _FITTED]
        third = bends[0].points[1] if bends else np.asarray(problem.w0)
        words = f"the bend of the {bends[0].kind}" if bends else "the initial weights"
        plane = connecting.plane(problem, found[0].points[0], found[0].points[-1], third)
    return Traced(ends, settings, found, plane, words)


def straight_line(one: End, two: End) -> connecting.Path:
    """The straight line between two ends alone.

    Raises
    ------
    UserError
        As :func:`trace`.
    """
    check_landscape(one.run, two.run)
    problem, device = landscape(one, "auto")
    with jax.default_device(device):
        return connecting.connect(problem, one.weights, two.weights, "line")


def trace_into(folder: Path, ends: tuple[End, End], settings: PathSettings) -> None:
    """Find paths and write them into a folder, unless they are there; what a figure does with each it needs.

    Raises
    ------
    UserError
        If a path cannot be made, or the folder cannot be written.
    """
    traced = trace(ends, settings)
    make_folder(folder, again=True)
    traced.save(folder)
