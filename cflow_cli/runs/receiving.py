"""What a folder that came from somebody else may do when it is continued: be read, and nothing else without a word.

A run folder and a sweep folder are data. What their files name is built only if it is of this package or of optax, or
if the one who starts them vouches for it: for modules with a folder of configs of their own, for everything with
``--trust``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override

from cflow_cli.config import composing, targets, tree
from cflow_cli.errors import UserError
from cflow_cli.runs import sweeps

_TRUST = "if you know where the folder comes from and trust it: --trust"
# Of Hydra's own settings those that say where files go; others name loggers, callbacks and folders of configs.
_HARMLESS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.sweeper.max_batch_size",
    "hydra/launcher",
    "launcher",
)
# Of a launcher's settings those that are shell lines, options of sbatch, or a machine that sends back what is run here.
_COMMANDS = re.compile(r"launcher\.(setup|additional_parameters|ray\.init)\b")

# Of a logger's settings those that say where it writes or sends to, and what they are where that is the user's own
# place: the run folder, and the store of MLflow in the folder that the command is given in.
_SQLITE = "sqlite:///"
_STORE = "mlflow.db"
_PLACES = {"folder": None, "uri": _SQLITE + _STORE, "entity": None}


def check_run(folder: Path, config: Mapping[str, Any], config_dir: Path | None) -> None:
    """Check a run that is to be continued.

    Parameters
    ----------
    folder
        Its folder.
    config
        What its ``config.yaml`` says.
    config_dir
        A folder of configs of the user's own, whose modules are trusted.

    Raises
    ------
    UserError
        If it would build what nobody vouches for, or write elsewhere than into its folder.
    """
    targets.check_received(config, folder / "config.yaml", targets.modules_in(config_dir))
    _check_loggers(folder, config)
    inside = folder.resolve()
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise UserError(f"{path} is a link that leads out of the run's folder; {_TRUST}")


def _check_loggers(folder: Path, config: Mapping[str, Any]) -> None:
    """That no tracker writes or sends to where the folder says, in its config or in what trackers remembered."""
    loggers = config.get("logger")
    for name, settings in loggers.items() if isinstance(loggers, Mapping) else ():
        settings = settings if isinstance(settings, Mapping) else {}
        for key in settings.keys() & _PLACES.keys():
            if settings[key] != _PLACES[key]:
                raise UserError(
                    f"{folder / 'config.yaml'} has a logger that goes to "
                    f"logger.{name}.{key}={str(settings[key])[:80]}; {_TRUST}"
                )
        remembered = _remembered(folder / "loggers" / f"{name}.json").get("uri")
        own = _SQLITE + str(Path(_STORE).resolve())
        if remembered not in (None, own):
            raise UserError(
                f"{folder / 'loggers' / name}.json has a logger that goes to {str(remembered)[:80]}; {_TRUST}"
            )


def _remembered(path: Path) -> Mapping[str, Any]:
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))["memory"]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return memory if isinstance(memory, Mapping) else {}


def check_sweep(sweep: sweeps.Sweep, config_dir: Path | None) -> None:
    """Check a sweep that is to be continued.

    Parameters
    ----------
    sweep
        As its ``sweep.json`` tells it.
    config_dir
        A folder of configs of the user's own, whose modules are trusted.

    Raises
    ------
    UserError
        If it takes configs from a folder that was not given, or has overrides that build or run what nobody vouches
        for, or runs elsewhere than in its folder.
    """
    path = sweep.folder / sweeps.NAME
    given = sweep.content.get("config_dir")
    if given is not None and (config_dir is None or config_dir.resolve() != Path(str(given)).resolve()):
        raise UserError(
            f"{path} takes configs from the folder {given}; if it is your own: --config-dir {given}; {_TRUST}"
        )
    inside = sweep.folder.resolve()
    try:
        jobs = sweep.jobs
        words = [*(sweep.content.get("overrides") or ()), *(text for job in jobs for text in job.overrides)]
    except (KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {type(error).__name__}: {error}") from error
    for job in jobs:
        if not (inside / job.folder).resolve().is_relative_to(inside):
            raise UserError(f"{path} has a run in {job.folder}, which is not in the folder of the sweep")
    own = targets.modules_in(config_dir)
    for text in dict.fromkeys(map(str, words)):
        _check_override(text, path, own)


def _check_override(text: str, path: Path, own: set[str]) -> None:
    override = composing.parse(text)
    if override is None:
        raise UserError(f"{path}: cannot read the override {text[:80]!r}")
    key = re.sub(r"^hydra\.(?=launcher\.)", "", override.key_or_group)
    if key.startswith("launcher."):
        word = isinstance(override.value(), int | float | None) or re.fullmatch(
            r"[\w:.-]*", str(override.value())
        )
        refused = not word or _COMMANDS.match(key) is not None or key not in _launcher_keys()
    else:
        refused = (key.startswith("hydra") and key not in _HARMLESS) or (
            key.startswith("logger") and re.search(rf"\b({'|'.join(_PLACES)})\b", text) is not None
        )
    if refused:
        raise UserError(f"{path}: {text[:80]} is for the one who starts a sweep to say; {_TRUST}")
    if "${oc." in text:
        raise UserError(f"{path}: {text[:80]} makes up values of a config; {_TRUST}")
    foreign = [
        target
        for target in _targets_of(override)
        if not (targets.is_known(target) or target.rpartition(".")[0] in own)
    ]
    if foreign:
        raise UserError(targets.untrusted(path, foreign))


def _launcher_keys() -> set[str]:
    choices = tree.groups()["launcher"].values()
    return {key for path in choices for key in tree.read_choice(path, "launcher").keys}


def _targets_of(override: Override) -> Iterator[str]:
    value: Any = override.value()
    for item in value.list if isinstance(value, ChoiceSweep) else [value]:
        if override.key_or_group.rpartition(".")[2] == "_target_":
            yield str(item)
        yield from (str(target) for _, target in targets.named_in(item))
