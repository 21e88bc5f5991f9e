"""Composing a config with Hydra, and saying in one sentence what is wrong with a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from cflow_cli.config import yaml_files
from cflow_cli.config.checking import check
from cflow_cli.config.interpolation import check_interpolations
from cflow_cli.config.tree import (
    PRIMARY,
    choices_of_experiment,
    conf_dir,
    default_choices,
    groups,
    override_keys,
)
from cflow_cli.config.values import format_value
from cflow_cli.errors import UserError, did_you_mean

# Hydra's name of a launcher or sweeper -> the extra of ours that brings it.
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "cflow_local": "slurm",
    "cflow_slurm": "slurm",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "optuna": "optuna",
}
_MAX_LABEL = 80
# Keys whose values are paths: they are read as text, whatever characters a folder's name has.
_PATHS = ("hydra.run.dir", "hydra.sweep.dir", "init.from", "data.path", "data.root")
# Hydra's parser takes seconds for longer ones, and its stack is not made for deeper ones.
_MAX_OVERRIDE, _MAX_BRACKETS = 10_000, 30


# --- composing ------------------------------------------------------------------------------------


@contextmanager
def hydra_session(config_dir: Path | None = None) -> Iterator[Hydra]:
    """Hydra set up on conf/ and, after it, the user's folder.

    Parameters
    ----------
    config_dir
        The folder given with ``--config-dir``, if any.
    """
    groups(config_dir)
    for path in () if config_dir is None else sorted(config_dir.rglob("*.yaml")):
        yaml_files.load(path)  # what Hydra would take minutes to read is told at once
    register_resolvers()
    state = Singleton.get_state()
    GlobalHydra.instance().clear()
    version.setbase("1.3")
    search_path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        # Before "schema", where Hydra's own --config-dir puts it. In the search path, not in an override: the
        # jobs of a sweep take it with them, also to another machine.
        schema = search_path.get_path().pop()
        search_path.append("command-line", f"file://{config_dir.resolve()}")
        search_path.append(schema.provider, schema.path)
    try:
        yield Hydra.create_main_hydra2(task_name="cflow", config_search_path=search_path)
    finally:
        Singleton.set_state(state)


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """Compose the config of one run and check it.

    Parameters
    ----------
    overrides
        As on the command line: ``["optimizer=adam", "lr=0.01"]``.
    config_dir
        A folder of further configs.

    Raises
    ------
    UserError
        One sentence on what is wrong and what is allowed.

    Examples
    --------
    >>> cfg = compose(["optimizer=adam", "lr=0.01"])
    >>> cfg.optimizer.learning_rate, cfg.model.widths
    (0.01, [32, 32])
    """
    with hydra_session(config_dir) as hydra:
        return without_hydra(composed(hydra, overrides, config_dir))


def composed(
    hydra: Hydra, overrides: Sequence[str], config_dir: Path | None = None, *, multirun: bool = False
) -> DictConfig:
    """Compose within a :func:`hydra_session`, Hydra's own node included, and check.

    With ``multirun`` sweeps such as ``lr=0.1,0.2`` are accepted; their values are left to be checked.
    """
    overrides = paths_as_text(overrides, multirun=multirun)
    problem = _first_problem(overrides, config_dir, multirun=multirun)
    if problem:
        raise UserError(problem)
    try:
        cfg = hydra.compose_config(
            config_name=PRIMARY,
            overrides=for_hydra(overrides),
            run_mode=RunMode.MULTIRUN if multirun else RunMode.RUN,
            with_log_configuration=False,
            from_shell=False,
        )
    except UserError:
        raise
    except Exception as error:  # whatever Hydra and OmegaConf meet in files that they did not foresee
        raise UserError(_from_hydra(error)) from error
    check_interpolations(OmegaConf.to_container(cfg, resolve=False))
    if not multirun:
        check(without_hydra(cfg))
        scale_rate(cfg)
    return cfg


def scale_rate(cfg: DictConfig) -> None:
    """Multiply ``lr`` by ``lr_factor``, once: what is run and recorded has the resulting rate as its ``lr``."""
    if cfg.lr_factor != 1:
        # To 15 digits, so that 3 times 0.1 is 0.3 in names and tables.
        cfg.lr = float(f"{cfg.lr * cfg.lr_factor:.15g}")


def _from_hydra(error: Exception) -> str:
    """One sentence from an error of Hydra's; its own have several lines and list all search paths."""
    text = " ".join(" ".join(str(e) for e in (error, error.__cause__) if e is not None).split())
    pattern = r"Could not find '([\w/]+)/([^/']+)' Available options in '[^']*': (.*?) Config search"
    missing = re.search(pattern, text)
    if missing and missing[1] in ("hydra/launcher", "hydra/sweeper") and missing[2] in EXTRAS:
        return (
            f"the {missing[1].removeprefix('hydra/')} {missing[2].removeprefix('cflow_')} is not installed; "
            f"pip install 'cflow-cli[{EXTRAS[missing[2]]}]' brings it"
        )
    pattern = r"hydra\.(launcher\.\S+?)=(\S+) Value .* could not be converted to (\w+)"
    mistyped = re.search(pattern, text)
    if mistyped:
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{mistyped[1]} must be {kind.get(mistyped[3], mistyped[3].lower())}, got {mistyped[2]}"
    if missing:
        sentence = _unknown_choice(missing[1], missing[2], missing[3].split())
        return sentence + ("; others come with Hydra's plugins" if missing[1].startswith("hydra/") else "")
    return text


def without_hydra(cfg: DictConfig) -> DictConfig:
    """A copy of a config without Hydra's own node."""
    plain = cfg.copy()
    with open_dict(plain):
        del plain["hydra"]
    return plain


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides with ``launcher.key`` as ``hydra.launcher.key``, where Hydra has it."""
    # Mappings that are handed on as they are take any key, for which Hydra wants a sign.
    open_ended = r"^(?=launcher\.(additional_parameters|ray\.init|ray\.remote)\.)"
    return [
        re.sub(r"^([+~]*)launcher\.", r"\1hydra.launcher.", re.sub(open_ended, "++", text))
        for text in overrides
    ]


def paths_as_text(overrides: Sequence[str], *, multirun: bool = False) -> list[str]:
    """Overrides with the values of paths in quotes, for Hydra's grammar knows no folder named ``ü (1)``.

    What is in quotes already, ``null`` and, with ``multirun``, a sweep over paths stay as they are.

    Parameters
    ----------
    overrides
        As on the command line.
    multirun
        Whether commas may separate the values of a sweep.

    Examples
    --------
    >>> paths_as_text(["lr=0.1", "hydra.run.dir=runs/é=1", "init.from=null"])
    ['lr=0.1', "hydra.run.dir='runs/é=1'", 'init.from=null']
    """
    return [_path_as_text(text, multirun) for text in overrides]


def _path_as_text(text: str, multirun: bool) -> str:
    key, _, value = text.partition("=")
    if key.lstrip("+") not in _PATHS or value in ("", "null") or len(text) > _MAX_OVERRIDE:
        return text
    parsed = parse(text)
    sweeps = multirun and not key.startswith("hydra.")
    if parsed is not None and (value[0] in "'\"" or (sweeps and parsed.is_sweep_override())):
        return text
    parts = value.split(",") if sweeps else [value]
    return f"{key}={','.join(map(quote, parts))}"


def quote(text: str) -> str:
    r"""A text as a value in Hydra's grammar.

    Examples
    --------
    >>> print(quote("it's"), quote("back\\slash"))
    'it\'s' 'back\slash'
    """
    # Backslashes escape only where a quote follows, so those at the end are doubled and the others are not.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def parse(text: str) -> Override | None:
    """An override as Hydra reads it; None for one that it cannot read."""
    depth = most = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        most = max(most, depth)
    if len(text) > _MAX_OVERRIDE or most > _MAX_BRACKETS:
        return None
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError):  # a ValueError for numbers of thousands of digits
        return None


def _first_problem(overrides: Sequence[str], config_dir: Path | None, *, multirun: bool) -> str | None:
    """The first override that Hydra would stumble on, in a sentence of ours."""
    available = groups(config_dir)
    chosen: dict[str, Any] = {}
    values, launcher_keys = [], []
    for text in overrides:
        override = parse(text)
        if override is None:
            long = "; put long or deep values into a file of --config-dir" if len(text) > _MAX_LABEL else ""
            return (
                f"cannot read the override {format_value(text)}; write key=value, as in lr=0.05 or "
                f"'model.widths=[64,64]' (quoted, so that the shell leaves the brackets alone){long}"
            )
        key = override.key_or_group
        if key in ("hydra.run.dir", "hydra.sweep.dir") and text.partition("=")[2].strip("'\" ") == "":
            return f"{key} must be a folder, got nothing; leave it out for one below outputs/"
        if override.is_sweep_override() and not multirun:
            return f"{text} is a sweep; add -m to run each value: cflow run -m {text}"
        if override.is_sweep_override() and re.match("launcher[.=]", text):
            return f"{text}: a sweep has one launcher; launch another sweep for the other"
        if key.startswith("launcher."):
            launcher_keys.append(key)
        elif key in available and not override.is_delete():
            problem, chosen[key] = _read_choice(override, text, available[key])
            if problem:
                return problem
        elif not override.is_hydra_override() and not override.is_delete():
            values.append(override)
    experiment = available.get("experiment", {}).get(str(chosen.get("experiment")))
    chosen = (choices_of_experiment(experiment) if experiment else {}) | chosen
    keys = override_keys(chosen, config_dir)
    problems = [_launcher_problem(key, chosen.get("launcher"), keys) for key in launcher_keys]
    problems += [_value_problem(override, keys, chosen, available) for override in values]
    return next(filter(None, problems), None)


def _read_choice(override: Override, text: str, choices: Mapping[str, Any]) -> tuple[str | None, Any]:
    """What is wrong with an override of a group, if anything, and the choice that it makes (a sweep's first)."""
    key, value = override.key_or_group, override.value()
    asked: list[Any]
    if value is None:
        optional = key != "processes" and isinstance(default_choices().get(key), list)
        instead = f"{key}=[] takes none" if optional else f"leave out {key}=… for the default"
        return f"{key}=null chooses nothing; {instead}, or choose from {', '.join(choices)}", None
    if isinstance(value, Glob):
        asked = value.filter(list(choices))
        if not asked:
            return f"{text} matches no {key}; there are {', '.join(choices)}", None
    elif override.is_sweep_override() and override.is_discrete_sweep():
        asked = list(override.sweep_string_iterator())
    else:
        asked = [value]
    for item in asked:
        for name in item if isinstance(item, list) else str(item).strip("[]").split(","):
            if name not in choices and name not in ("None", "null"):
                return _unknown_choice(key, str(name), choices), None
    return None, asked[0] if isinstance(asked[0], list) else str(asked[0])


def _value_problem(
    override: Override, keys: Mapping[str, Any], chosen: Mapping[str, Any], available: Mapping[str, Any]
) -> str | None:
    key = override.key_or_group
    if "/" in key:
        hint = did_you_mean(key, available)
        return f"unknown config group {key!r}{hint}; groups are {', '.join(available)}"
    known = key in keys or any(other.startswith(key + ".") for other in keys)
    known = known or (key.endswith("._target_") and key.split(".")[0] in available)
    # A node that is a mapping by itself (a schedule's boundaries) takes keys that its file does not list.
    added = override.is_add() or override.is_force_add()
    if not known and not (added and key.split(".")[0] in available):
        return _unknown_key(key, keys, chosen, available)
    if isinstance(keys.get(key), bool) and not override.is_sweep_override():
        value = override.value()
        if not isinstance(value, bool) and "${" not in str(value):
            return f"{key} must be true or false, got {format_value(value)}"
    if isinstance(keys.get(key), list) and not override.is_sweep_override():
        value, example = override.value(), str(keys[key] or ["a", "b"]).replace(" ", "").replace("'", "")
        if not isinstance(value, list) and value is not None and "${" not in str(value):
            return f"{key} must be a list, as in '{key}={example}', got {format_value(value)}"
    return None


def _launcher_problem(key: str, launcher: str | None, keys: Mapping[str, Any]) -> str | None:
    if launcher is None:
        return f"{key} needs its launcher, as in launcher=slurm {key}=…"
    # A preset of the user's own may build on one of ours; Hydra knows its keys.
    if not (conf_dir() / "launcher" / f"{launcher}.yaml").exists():
        return None
    known = [name for name in keys if name.startswith("launcher.")]
    nodes = {name.rsplit(".", 1)[0] for name in known if name.count(".") > 1}
    if key in known or any(key == node or key.startswith(node + ".") for node in nodes):
        return None
    inside = ", ".join(name.removeprefix("launcher.") for name in known) or "no keys"
    return f"unknown key {key!r}{did_you_mean(key, known)}; launcher={launcher} has {inside}"


def _unknown_choice(group: str, name: str, choices: Iterable[str]) -> str:
    return f"unknown {group} {name!r}{did_you_mean(name, choices)}; choose from {', '.join(choices)}"


def _unknown_key(
    key: str, keys: Mapping[str, Any], chosen: Mapping[str, Any], groups: Mapping[str, Any]
) -> str:
    tops = {name.split(".")[0] for name in (*keys, *groups)}
    hint = did_you_mean(key, [*keys, *groups])
    head = key.split(".")[0]
    if "." not in key or head not in tops:
        return f"unknown key {key!r}{hint}; the top level has {', '.join(sorted(tops))}"
    inside = [name.removeprefix(head + ".") for name in keys if name.startswith(head + ".")]
    choice = chosen.get(head, default_choices().get(head))
    several, part = isinstance(default_choices().get(head), list), key.split(".")[1]
    if (
        several
        and part in groups.get(head, ())
        and part not in (choice if isinstance(choice, list) else [choice])
    ):
        return f"{key} needs {head}={part}, which is not chosen"
    where = f"{head}={choice}" if isinstance(choice, str) else head
    return f"unknown key {key!r}{hint}; {where} has {', '.join(inside) or 'no keys of its own'}"


def register_resolvers() -> None:
    """Make the interpolations of conf/ known; the jobs of a sweep need it in their own process."""
    OmegaConf.register_new_resolver("cflow.label", label, replace=True)
    OmegaConf.register_new_resolver("cflow.times", lambda a, b: a * b, replace=True)


def label(name: str | None, optimizer: str, overrides: Sequence[str]) -> str:
    """Readable part of a run folder's name: ``gd_lr-0.05_widths-64-64``.

    No ``=``: readers take folders named ``key=value`` for partitions of a table.

    Parameters
    ----------
    name
        The run's name; the optimizer's when None.
    optimizer
        Choice of the optimizer group.
    overrides
        Overrides of the run; the last part of each key and the value are used, of a path its last part.
    """
    parts = [[str(name or optimizer)]]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in ("optimizer", "name", "tags", "notes", "logger") and not key.startswith("logger."):
            parts.append([key.rsplit(".", 1)[-1], value.rstrip("/").rsplit("/", 1)[-1]])
    clean = [[re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in part] for part in parts]
    text = "_".join("-".join(part) for part in clean)
    return text if len(text) <= _MAX_LABEL else text[:_MAX_LABEL].rstrip("_-.")
