"""The settings of ``cflow path``, in one table as those of a run: :mod:`cflow_cli.config.settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cflow_cli.config.settings import SETTINGS, Setting
from cflow_cli.config.values import require, whole_from
from cflow_cli.errors import UserError, did_you_mean

KINDS = ("line", "bezier", "chain", "dropout")
_MOST_POINTS = 100_000
_MOST_STEPS = 1_000_000
_MOST_HALVES = 10_000


def _kinds(value: Any) -> tuple[str, ...]:
    kinds = tuple(value) if isinstance(value, list) else tuple(str(value).split(","))
    require(bool(kinds) and all(kind in KINDS for kind in kinds))
    return tuple(dict.fromkeys(kinds))


def _switch(value: Any) -> bool:
    require(isinstance(value, bool))
    return bool(value)


def _folder(value: Any) -> Path:
    return Path(str(value)).expanduser()


_SWITCH = ("true", "false")

PATH_SETTINGS: dict[str, Setting] = {
    "kind": Setting(
        "line, bezier, chain or dropout, or several of them: kind=line,bezier",
        f"one or several of {', '.join(KINDS)}",
        _kinds,
        KINDS,
    ),
    "match": Setting(
        "put the hidden units of the second end in the order in which it is nearest to the first",
        "true or false",
        _switch,
        _SWITCH,
    ),
    "points": Setting(
        "points of each curve at which the loss is measured, its ends among them",
        f"a whole number from 3 to {_MOST_POINTS}",
        whole_from(3, _MOST_POINTS),
    ),
    "steps": Setting(
        "steps of Adam by which a bezier or a chain is fitted, of four gradients each",
        f"a whole number from 1 to {_MOST_STEPS}",
        whole_from(1, _MOST_STEPS),
    ),
    "lr": Setting(
        "its rate at first, which falls to 0 as a cosine", SETTINGS["lr"].allowed, SETTINGS["lr"].check
    ),
    "halves": Setting(
        "of kind=dropout, how many random halves of the units to choose the best from",
        f"a whole number from 1 to {_MOST_HALVES}",
        whole_from(1, _MOST_HALVES),
    ),
    "refit": Setting(
        "of kind=dropout, give half networks the output layer of least loss",
        "true or false",
        _switch,
        _SWITCH,
    ),
    "seed": Setting("of what is random in a path", SETTINGS["seed"].allowed, SETTINGS["seed"].check),
    "device": SETTINGS["device"],
    "out": Setting("folder of the result; by default one by day and time in outputs/", "a folder", _folder),
}
"""Key -> what it means and may be, in the order of the help."""


@dataclass(frozen=True)
class PathSettings:
    """What ``cflow path`` is asked for; the fields are the keys of :data:`PATH_SETTINGS`."""

    kind: tuple[str, ...] = ("line",)
    match: bool = False
    points: int = 61
    steps: int = 300
    lr: float = 0.01
    halves: int = 20
    refit: bool = True
    seed: int = 0
    device: str = "auto"
    out: Path | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PathSettings:
        """Check what was given; all else has its default.

        Raises
        ------
        UserError
            If there is no such key, or a value is not allowed.
        """
        for key in values:
            if key not in PATH_SETTINGS:
                known = ", ".join(PATH_SETTINGS)
                raise UserError(
                    f"unknown key {key!r}{did_you_mean(key, PATH_SETTINGS)}; cflow path has {known}"
                )
        return cls(**{key: PATH_SETTINGS[key].read(key, value) for key, value in values.items()})
