"""The settings of a config's top level, in one table.

A setting is a field of :class:`Settings` or of one of its nodes, :class:`CheckpointSettings` and :class:`InitSettings`:
the field's name is its key, and beside it stand its meaning, what is allowed, and the check of that. Checks, messages,
``cflow run --help``, completion and the documentation read them from :data:`SETTINGS`, and a test compares
``conf/config.yaml`` with it. Standard library only, because help and completion wait for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from cflow_cli.config.values import (
    LARGEST,
    MOST_STEPS,
    Check,
    format_value,
    is_number,
    not_negative,
    one_of,
    positive,
    require,
    unless,
    whole,
    whole_from,
)
from cflow_cli.errors import UserError, did_you_mean

DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "gpu", "cuda", "rocm", "tpu")
# What may differ between a run and its continuation: how far and how, not what.
CHANGEABLE = (
    "steps",
    "device",
    "devices",
    "memory_gib",
    "distributed",
    "checkpoint",
    "data.microbatch",
    "name",
    "tags",
    "notes",
    "logger",
    "objective",
)

_TIME = r"(\d+(?:\.\d+)?) ?(s|min|h)"
_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Parameters
    ----------
    meaning
        One line for help, documentation and the comment in ``conf/config.yaml``.
    allowed
        What it may be, in words that go on from "must be".
    check
        Gives the value as a run uses it; raises a ValueError for one that is not allowed.
    choices
        Words it may be, for completion and "did you mean".
    hint
        End of the message about a value that is not allowed.
    """

    meaning: str
    allowed: str
    check: Check
    choices: tuple[str, ...] = ()
    hint: str = ""

    def read(self, key: str, value: Any) -> Any:
        """Check a value.

        Raises
        ------
        UserError
            If it is not allowed.
        """
        try:
            return self.check(value)
        except ValueError:
            hint = did_you_mean(str(value), self.choices) + self.hint
            raise UserError(f"{key} must be {self.allowed}, got {format_value(value)}{hint}") from None


def _setting(
    meaning: str,
    allowed: str,
    check: Check,
    *,
    key: str | None = None,
    choices: tuple[str, ...] = (),
    hint: str = "",
) -> dict[str, Any]:
    return {"row": Setting(meaning, allowed, check, choices, hint), "key": key}


# --- checks of single settings ----------------------------------------------------------------------


def _device(value: Any) -> str:
    match = re.fullmatch(r"(\w+)(?::(\d{1,4}))?", str(value))
    require(match is not None and match[1] in DEVICES and not (match[2] and match[1] == "auto"))
    return str(value)


def _steps_or_time(value: Any) -> int | str:
    if isinstance(value, str):
        require(re.fullmatch(_TIME, value) is not None)
        return value
    return whole_from(1)(value)


def _words(value: Any) -> tuple[str, ...]:
    require(isinstance(value, list) and all(isinstance(word, str | int | float) for word in value))
    return tuple(map(str, value))


def _name(value: Any) -> str:
    require(isinstance(value, str) and bool(value))
    return str(value)


def _folder(value: Any) -> Path:
    return Path(str(value)).expanduser()


def _coordinator(value: Any) -> str:
    require(value == "auto" or re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", str(value)) is not None)
    return str(value)


def _fraction(value: Any) -> float:
    require(is_number(value) and 0 <= value <= 1)
    return float(value)


# --- the table --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written."""

    every: int | str | None = field(
        metadata=_setting(
            "steps (100) or time (30s, 5min, 2h) between two; null for never",
            "a number of steps, a time as in 30s, 5min or 2h, or null for never",
            unless(None, _steps_or_time),
        )
    )
    keep: int = field(
        metadata=_setting("of the newest; 0 for all", "a number of checkpoints, 0 for all", whole_from(0))
    )

    @property
    def steps(self) -> int | None:
        """Steps between two, where they go by steps."""
        return self.every if isinstance(self.every, int) else None

    @property
    def seconds(self) -> float | None:
        """Seconds between two, where they go by the clock."""
        match = re.fullmatch(_TIME, self.every) if isinstance(self.every, str) else None
        return None if match is None else float(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True)
class InitSettings:
    """Where a run starts: at a state that another one has reached, if any."""

    source: Path | None = field(
        metadata=_setting(
            "a run folder, or one of cflow path, to start from instead of the model's own initialisation",
            "the folder of a run or of a path, or null",
            unless(None, _folder),
            key="from",
        )
    )
    process: str = field(
        metadata=_setting(
            "whose weights and optimizer state: discrete, central, stable, …; of a path, which curve",
            "the name of a process",
            str,
        )
    )
    step: int | None = field(
        metadata=_setting(
            "of which checkpoint; null for the newest", "a whole number, or null", unless(None, whole)
        )
    )
    t: float | None = field(
        metadata=_setting(
            "of a path, where on its curve init.process: 0 and 1 are its ends",
            "a number from 0 to 1, or null",
            unless(None, _fraction),
        )
    )

    def __post_init__(self) -> None:
        """Check what concerns several."""
        for key, value in (("step", self.step), ("t", self.t)):
            if self.source is None and value is not None:
                raise UserError(
                    f"init.{key} needs the run to start from: init.from=outputs/… init.{key}={value}"
                )


@dataclass(frozen=True)
class DistributedSettings:
    """Where the programs meet that compute one run together, if it is not one alone."""

    coordinator: str | None = field(
        metadata=_setting(
            "where programs meet that share the run: HOST:PORT of the first, auto under SLURM; null for one alone",
            "auto, the address HOST:PORT of the first program, or null",
            unless(None, _coordinator),
        )
    )
    num_processes: int | None = field(
        metadata=_setting(
            "how many programs; null for what SLURM or MPI says",
            "a whole number of at least 1, or null",
            unless(None, whole_from(1)),
        )
    )
    process_id: int | None = field(
        metadata=_setting(
            "which of them this is, from 0; null for what SLURM or MPI says",
            "a whole number from 0, or null",
            unless(None, whole_from(0)),
        )
    )

    def __post_init__(self) -> None:
        """Check what concerns several."""
        for key, value in (("num_processes", self.num_processes), ("process_id", self.process_id)):
            if value is not None and self.coordinator in (None, "auto"):
                raise UserError(
                    f"distributed.{key} needs the address at which all meet: "
                    f"distributed.coordinator=HOST:PORT distributed.{key}={value}"
                )
        if None not in (self.process_id, self.num_processes) and self.process_id >= self.num_processes:  # type: ignore[operator]
            raise UserError(
                f"distributed.process_id must be a whole number from 0 to {self.num_processes - 1}, "  # type: ignore[operator]
                f"got {self.process_id}"
            )


@dataclass(frozen=True)
class Settings:
    """The top level of a config, checked."""

    lr: float = field(
        metadata=_setting(
            "learning rate, or the peak of its schedule; each optimizer brings its own default",
            f"a positive number of at most {LARGEST:g}",
            positive,
            hint="; for a schedule add schedule=cosine, say",
        )
    )
    lr_factor: float = field(
        metadata=_setting(
            "lr is multiplied by it: lr_factor=0.5,1,2 are rates around each optimizer's own",
            f"a positive number of at most {LARGEST:g}",
            positive,
        )
    )
    steps: int = field(
        metadata=_setting(
            "optimizer steps", f"a whole number from 1 to {MOST_STEPS}", whole_from(1, MOST_STEPS)
        )
    )
    seed: int = field(
        metadata=_setting(
            "of the initial weights and everything else random",
            f"a whole number from 0 to {2**32 - 1}",
            whole_from(0, 2**32 - 1),
        )
    )
    dtype: str = field(
        metadata=_setting(
            "precision: float32 or float64", "float32 or float64", one_of(*DTYPES), choices=DTYPES
        )
    )
    device: str = field(
        metadata=_setting(
            "where to compute: auto, cpu, gpu, tpu, or one of several: cuda:1",
            f"{', '.join(DEVICES)}, or one of several as in cuda:1",
            _device,
            choices=DEVICES,
        )
    )
    warm_start: int | None = field(
        metadata=_setting(
            "optimizer steps before the flows branch off; null for what the optimizer needs",
            "a whole number from 0 to steps, or null",
            unless(None, whole_from(0)),
        )
    )
    kick: float = field(
        metadata=_setting(
            "norm of a random kick to the discrete weights at each step; 0 is the plain optax loop",
            f"a number from 0 to {LARGEST:g}",
            not_negative,
        )
    )
    kick_seed: int | None = field(
        metadata=_setting(
            "of the kicks alone; null for seed: kick_seed=range(6) has the same run with other kicks",
            f"a whole number from 0 to {2**32 - 1}, or null",
            unless(None, whole_from(0, 2**32 - 1)),
        )
    )
    devices: int | None = field(
        metadata=_setting(
            "devices that share the data; all for as many as JAX sees",
            "a whole number of at least 1, or all",
            unless("all", whole_from(1)),
        )
    )
    memory_gib: float | None = field(
        metadata=_setting(
            "GiB of the device's memory that derivatives are to fit into; null for what the device has",
            f"a positive number of at most {LARGEST:g}, or null",
            unless(None, positive),
        )
    )
    name: str | None = field(
        metadata=_setting(
            "first part of the run folder's name; null for the optimizer's",
            "text, or null",
            unless(None, str),
        )
    )
    tags: tuple[str, ...] = field(
        metadata=_setting(
            "words on what the run belongs to, for reports, lists and loggers",
            "a list of words, as in tags=[baseline,draft]",
            _words,
        )
    )
    notes: str | None = field(
        metadata=_setting("a sentence on what the run is for", "text, or null", unless(None, str))
    )
    objective: str | None = field(
        metadata=_setting(
            "column of the report that the run returns to a sweeper such as Optuna's",
            "a column of the report, or null",
            unless(None, _name),
        )
    )
    checkpoint: CheckpointSettings = field(metadata={"node": CheckpointSettings})
    init: InitSettings = field(metadata={"node": InitSettings})
    distributed: DistributedSettings = field(metadata={"node": DistributedSettings})

    def __post_init__(self) -> None:
        """Check what concerns several."""
        if self.warm_start is not None and self.warm_start > self.steps:
            raise UserError(
                f"warm_start must be a whole number from 0 to {self.steps}, got {self.warm_start}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Check the top level of a config, as plain values.

        Raises
        ------
        UserError
            If a value is not allowed.
        """
        return _read_node(cls, values)


def _key(place: Field) -> str:
    return place.metadata.get("key") or place.name


def _read_node(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    read = {}
    for place in fields(kind):
        key, value = prefix + _key(place), values.get(_key(place))
        if (node := place.metadata.get("node")) is None:
            read[place.name] = place.metadata["row"].read(key, value)
        else:
            read[place.name] = _read_node(node, _keys_checked(node, key, value), f"{key}.")
    return kind(**read)


def _keys_checked(kind: Any, node: str, value: Any) -> Mapping[str, Any]:
    known = [_key(place) for place in fields(kind)]
    if not isinstance(value, Mapping):
        raise UserError(f"{node} must be set by its keys: {', '.join(f'{node}.{key}=…' for key in known)}")
    for key in map(str, value):
        if key not in known:
            raise UserError(
                f"unknown key '{node}.{key}'{did_you_mean(key, known)}; {node} has {', '.join(known)}"
            )
    return value


def _rows(kind: Any, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    for place in fields(kind):
        if (node := place.metadata.get("node")) is None:
            yield prefix + _key(place), place.metadata["row"]
        else:
            yield from _rows(node, f"{prefix}{_key(place)}.")


SETTINGS: dict[str, Setting] = dict(_rows(Settings))
"""Key, such as ``lr`` or ``checkpoint.every``, -> what it means and may be, in the order of ``conf/config.yaml``."""
