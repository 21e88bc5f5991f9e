"""The configuration: where conf/ is, how it is composed, and what its values may be.

Everything a user can get wrong in a config ends here as one sentence, before anything is computed or
written. Nothing here imports JAX; Hydra is imported only where a config is composed, so that help and
completion answer at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import options
from .errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

PRIMARY = "config"
DTYPES = ("float32", "float64")
DEVICES = ("auto", "cpu", "gpu", "cuda", "rocm", "tpu")
# Hydra's name of a launcher -> the extra of ours that brings it.
LAUNCHER_EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "cflow_local": "slurm",
    "cflow_slurm": "slurm",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
}
_MAX_LABEL = 80


def conf_dir() -> Path:
    """Folder of the configs that come with the package: in a wheel inside it, in a checkout at its root."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Choice:
    """One YAML file of a config group.

    Parameters
    ----------
    path
        The file.
    summary
        Its first comment, for the help.
    package
        Where its keys go: ``_global_`` for the top level, else a node's name.
    keys
        Its keys, flattened with dots, with their values; interpolations as written.
    """

    path: Path
    summary: str
    package: str
    keys: dict[str, Any]


def read_choice(path: Path, group: str) -> Choice:
    """Read one file of a config group without Hydra.

    Raises
    ------
    UserError
        If it is not readable YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    package, summary = group.replace("/", "."), ""
    for line in text.splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#"):
            break
        if comment.startswith("@package"):
            package = comment.removeprefix("@package").strip()
        elif not summary:
            summary = comment
    prefix = "" if package == "_global_" else package + "."
    if group == "launcher" and isinstance(content, dict):
        # A launcher's settings are Hydra's; on the command line they are launcher.… like any group's.
        content, prefix = (content.get("hydra") or {}).get("launcher") or {}, "launcher."
    keys = _flatten(content, prefix) if isinstance(content, dict) else {}
    return Choice(path, summary, package, keys)


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("defaults", "hydra") and not prefix:
            continue
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        elif not str(key).startswith("_"):
            flat[f"{prefix}{key}"] = value
    return flat


def groups(config_dir: Path | None = None) -> dict[str, dict[str, Path]]:
    """Config groups and the file of each of their choices, the user's own folder included.

    Parameters
    ----------
    config_dir
        The folder given with ``--config-dir``, if any.

    Returns
    -------
    dict
        group -> choice -> file.

    Raises
    ------
    UserError
        If the folder does not exist or holds a choice that the package has too.
    """
    own = _groups_in(conf_dir())
    if config_dir is None:
        return own
    if not config_dir.is_dir():
        raise UserError(f"--config-dir: {config_dir} is not an existing folder")
    if (config_dir / f"{PRIMARY}.yaml").exists():
        raise UserError(
            f"--config-dir: {config_dir} has a {PRIMARY}.yaml, which would never be read; "
            "put its values into experiment/NAME.yaml there (first line: # @package _global_) and add "
            "experiment=NAME"
        )
    for group, choices in _groups_in(config_dir).items():
        for choice, path in choices.items():
            if choice in own.get(group, {}):
                raise UserError(
                    f"--config-dir: {path} has the name of a built-in choice and would never be read; "
                    "rename it"
                )
            own.setdefault(group, {})[choice] = path
    return own


def _groups_in(root: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(root.glob("*/**/*.yaml")):
        group = path.parent.relative_to(root).as_posix()
        if not group.startswith("hydra"):
            found.setdefault(group, {})[path.stem] = path
    return found


def default_choices() -> dict[str, Any]:
    """Group -> default choice (a list for groups that take several), as in the primary config."""
    text = (conf_dir() / f"{PRIMARY}.yaml").read_text(encoding="utf-8")
    entries = [entry for entry in yaml.safe_load(text)["defaults"] if isinstance(entry, dict)]
    pairs = [(str(k).removeprefix("optional "), v) for entry in entries for k, v in entry.items()]
    return {group: choice for group, choice in pairs if "/" not in group}


def top_level() -> dict[str, Any]:
    """Keys of the top level with their defaults."""
    return dict(read_choice(conf_dir() / f"{PRIMARY}.yaml", "_global_").keys)


def override_keys(chosen: Mapping[str, Any], config_dir: Path | None = None) -> dict[str, Any]:
    """Every key that can be set under a selection of choices, with its default.

    Parameters
    ----------
    chosen
        group -> choice or choices, on top of the defaults.
    config_dir
        The folder given with ``--config-dir``, if any.
    """
    keys = top_level()
    available = groups(config_dir)
    for group, choice in (default_choices() | dict(chosen)).items():
        for name in choice if isinstance(choice, list) else [choice]:
            if name in available.get(group, {}):
                keys |= read_choice(available[group][name], group).keys
    return {key: value for key, value in keys.items() if key != "schedule"}


def _chosen_by(experiment: Path) -> dict[str, Any]:
    """Choices that an experiment's defaults list makes with ``override /group: choice``."""
    entries = (yaml.safe_load(experiment.read_text(encoding="utf-8")) or {}).get("defaults") or []
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {key.removeprefix("override /"): value for key, value in pairs if key.startswith("override /")}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"``, or nothing when no known word is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    same_end = [name for name in known if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    best = close or same_end
    return f" (did you mean {best[0]}?)" if best else ""


# --- composing ------------------------------------------------------------------------------------


@contextmanager
def hydra_session(config_dir: Path | None = None) -> Iterator[Hydra]:
    """Hydra set up on conf/ and, after it, the user's folder.

    Parameters
    ----------
    config_dir
        The folder given with ``--config-dir``, if any.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    groups(config_dir)
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
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

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
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_from_hydra(error)) from error
    if not multirun:
        check(without_hydra(cfg))
    return cfg


def _from_hydra(error: Exception) -> str:
    """One sentence from an error of Hydra's; its own have several lines and list all search paths."""
    text = " ".join(" ".join(str(e) for e in (error, error.__cause__) if e is not None).split())
    pattern = r"Could not find '([\w/]+)/([^/']+)' Available options in '[^']*': (.*?) Config search"
    missing = re.search(pattern, text)
    if missing and missing[1] == "hydra/launcher" and missing[2] in LAUNCHER_EXTRAS:
        return (
            f"the launcher {missing[2].removeprefix('cflow_')} is not installed; "
            f"pip install 'cflow[{LAUNCHER_EXTRAS[missing[2]]}]' brings it"
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
    from omegaconf import open_dict

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


def _first_problem(overrides: Sequence[str], config_dir: Path | None, *, multirun: bool) -> str | None:
    """The first override that Hydra would stumble on, in a sentence of ours."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    available = groups(config_dir)
    parser = OverridesParser.create()
    chosen: dict[str, Any] = {}
    values, launcher_keys = [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            return (
                f"cannot read the override {text!r}; write key=value, as in lr=0.05 or "
                "'model.widths=[64,64]' (quoted, so that the shell leaves the brackets alone)"
            )
        key = override.key_or_group
        if override.is_sweep_override() and not multirun:
            return f"{text} is a sweep; add -m to run each value: cflow run -m {text}"
        if override.is_sweep_override() and re.match("launcher[.=]", text):
            return f"{text}: a sweep has one launcher; launch another sweep for the other"
        if key.startswith("launcher."):
            launcher_keys.append(key)
            continue
        if override.is_hydra_override() or override.is_delete():
            continue
        if key not in available:
            values.append(override)
            continue
        swept = override.is_sweep_override() and override.is_discrete_sweep()
        value: Any = override.value()
        asked: list[Any]
        if isinstance(value, Glob):
            asked = value.filter(list(available[key]))
            if not asked:
                return f"{text} matches no {key}; there are {', '.join(available[key])}"
        else:
            asked = list(override.sweep_string_iterator()) if swept else [value]
        for value in asked:
            for name in value if isinstance(value, list) else str(value).strip("[]").split(","):
                if name not in available[key] and name not in ("None", "null"):
                    return _unknown_choice(key, str(name), available[key])
        chosen[key] = asked[0] if isinstance(asked[0], list) else str(asked[0])
    experiment = available.get("experiment", {}).get(str(chosen.get("experiment")))
    chosen = (_chosen_by(experiment) if experiment else {}) | chosen
    keys = override_keys(chosen, config_dir)
    for key in launcher_keys:
        problem = _launcher_problem(key, chosen.get("launcher"), keys)
        if problem:
            return problem
    for override in values:
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
        if isinstance(keys.get(key), list) and not override.is_sweep_override():
            value, example = override.value(), str(keys[key]).replace(" ", "")
            if not isinstance(value, list) and value is not None and "${" not in str(value):
                return f"{key} must be a list, as in '{key}={example}', got {_shown(value)}"
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


def _unknown_key(key: str, keys: Mapping[str, Any], chosen: Mapping[str, Any], groups: Iterable[str]) -> str:
    tops = {name.split(".")[0] for name in (*keys, *groups)}
    hint = did_you_mean(key, [*keys, *groups])
    head = key.split(".")[0]
    if "." not in key or head not in tops:
        return f"unknown key {key!r}{hint}; the top level has {', '.join(sorted(tops))}"
    inside = [name.removeprefix(head + ".") for name in keys if name.startswith(head + ".")]
    choice = chosen.get(head, default_choices().get(head))
    where = f"{head}={choice}" if isinstance(choice, str) else head
    return f"unknown key {key!r}{hint}; {where} has {', '.join(inside) or 'no keys of its own'}"


def register_resolvers() -> None:
    """Make the interpolations of conf/ known; the jobs of a sweep need it in their own process."""
    from omegaconf import OmegaConf

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
        if key not in ("optimizer", "name"):
            parts.append([key.rsplit(".", 1)[-1], value.rstrip("/").rsplit("/", 1)[-1]])
    clean = [[re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in part] for part in parts]
    text = "_".join("-".join(part) for part in clean)
    return text if len(text) <= _MAX_LABEL else text[:_MAX_LABEL].rstrip("_-.")


# --- checking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written.

    Parameters
    ----------
    every
        As in the config: a number of steps, a time such as ``5min``, or None for never.
    keep
        How many are kept, 0 for all.
    """

    every: int | str | None
    keep: int

    @property
    def steps(self) -> int | None:
        """Steps between two, where they go by steps."""
        return self.every if isinstance(self.every, int) else None

    @property
    def seconds(self) -> float | None:
        """Seconds between two, where they go by the clock."""
        match = re.fullmatch(_TIME, self.every) if isinstance(self.every, str) else None
        return None if match is None else float(match[1]) * _SECONDS[match[2]]


_TIME = r"(\d+(?:\.\d+)?) ?(s|min|h)"
_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class InitSettings:
    """The run, process and step to start from; None for the model's own initialisation, and the newest step."""

    source: Path | None
    process: str
    step: int | None


@dataclass(frozen=True)
class Settings:
    """The top level of a config, checked.

    Parameters
    ----------
    lr
        Learning rate, or the peak of its schedule; positive.
    steps
        Optimizer steps, at least 1.
    seed
        Non-negative.
    dtype
        ``float32`` or ``float64``.
    device
        ``auto``, ``cpu``, ``gpu``, ``cuda:1``, …
    warm_start
        Optimizer steps before the flows branch off, 0 to ``steps``; None for what the optimizer needs.
    eval_every
        Steps between evaluations of accuracy and test loss, at least 1.
    coordinates
        Number of weights whose squared gradients are recorded, or their indices.
    outputs
        Number of training examples whose outputs are recorded.
    kick
        Norm of a random kick at each step, not negative.
    name
        First part of the run folder's name.
    devices
        Devices that share the data, None for all there are.
    checkpoint
        When the state is written.
    init
        Where to start.
    """

    lr: float
    steps: int
    seed: int
    dtype: str
    device: str
    warm_start: int | None
    eval_every: int
    coordinates: int | list[int]
    outputs: int
    kick: float
    name: str | None
    devices: int | None
    checkpoint: CheckpointSettings
    init: InitSettings

    @classmethod
    def of(cls, cfg: DictConfig) -> Settings:
        """Check the top level of a config.

        Raises
        ------
        UserError
            If a value is not allowed.
        """
        lr = cfg.get("lr")
        if not _is_number(lr) or not lr > 0:
            raise UserError(
                f"lr must be a positive number, got {_shown(lr)}; for a schedule add schedule=cosine, say"
            )
        steps = _integer(cfg, "steps", 1)
        return cls(
            lr=float(lr),
            steps=steps,
            seed=_integer(cfg, "seed", 0, 2**32 - 1),
            dtype=_one_of(cfg, "dtype", DTYPES),
            device=_device(cfg.get("device")),
            warm_start=None if cfg.get("warm_start") is None else _integer(cfg, "warm_start", 0, steps),
            eval_every=_integer(cfg, "eval_every", 1),
            coordinates=_coordinates(cfg),
            outputs=_integer(cfg, "outputs", 0),
            kick=_not_negative(cfg, "kick"),
            name=None if cfg.get("name") is None else str(cfg.name),
            devices=None if cfg.get("devices") == "all" else _integer(cfg, "devices", 1),
            checkpoint=_checkpoint(cfg),
            init=_init(cfg),
        )


@dataclass(frozen=True)
class Checked:
    """What of a config can be built without JAX: the top level, the processes, the eigenvalue options."""

    settings: Settings
    processes: tuple[Any, ...]
    eigs: options.EigsOptions


def check(cfg: DictConfig) -> Checked:
    """Check all of a composed config that can be checked without data and device.

    Parameters
    ----------
    cfg
        Without Hydra's own node.

    Raises
    ------
    UserError
        One sentence on the first thing that is wrong.
    """
    from omegaconf.errors import OmegaConfBaseException

    try:
        known = {field.name for field in fields(Settings)} | set(default_choices()) - {
            "experiment",
            "launcher",
        }
        for key in cfg:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise UserError(
                    f"unknown key {str(key)!r}{hint}; the top level has {', '.join(sorted(known))}"
                )
        if not cfg.get("processes"):
            raise UserError("processes must name at least one, as in 'processes=[discrete,central]'")
        for key in sorted(known - {str(key) for key in cfg}):
            raise UserError(f"the config has no {key}; it is needed, so leave out ~{key}")
        settings = Settings.of(cfg)
        # The schedule first: the optimizer holds it, and a mistake should be named where it was made.
        for group in ("schedule", "optimizer"):
            _check_numbers(cfg[group], group)
        processes = tuple(_options(node, f"processes.{name}") for name, node in cfg.processes.items())
        return Checked(settings, processes, _options(cfg.eigs, "eigs"))
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error


_FRACTIONS = ("b1", "b2", "decay", "momentum")
_NOT_NEGATIVE = ("eps", "eps_root", "weight_decay", "initial_accumulator_value", "initial_scale")


def _check_numbers(node: Any, where: str) -> None:
    """Every value of an optimizer or schedule is a number or a switch; decays are below 1."""
    from omegaconf import DictConfig, ListConfig

    if not isinstance(node, DictConfig):
        return
    if node.get("_target_") is None:
        raise UserError(f"{where} has no _target_, such as _target_: optax.adam")
    for key, value in node.items():
        name = str(key)
        full = f"{where}.{name}"
        if isinstance(value, DictConfig) and "_target_" in value:
            _check_numbers(value, full)  # an optimizer within an optimizer
        if name.startswith("_") or name.endswith("dtype") or isinstance(value, DictConfig | ListConfig):
            continue
        if isinstance(value, str):
            raise UserError(f"{full} must be a number, got {value!r}")
        if name in _FRACTIONS and value is not None and not 0 <= value < 1:
            raise UserError(f"{full} must be at least 0 and below 1, got {value}")
        if name in _NOT_NEGATIVE and value is not None and not value >= 0:
            raise UserError(f"{full} must not be negative, got {value}")


def _options(node: Any, where: str) -> Any:
    """Build one of the dataclasses in :mod:`cflow_cli.options` after checking the types of its values."""
    target = str(node["_target_"]) if hasattr(node, "get") and "_target_" in node else ""
    module, _, name = target.rpartition(".")
    kind = getattr(options, name, None) if module == options.__name__ else None
    if kind is None:
        return build(node, where)
    values = {str(key): value for key, value in node.items() if not str(key).startswith("_")}
    types = {field.name: field.type for field in fields(kind)}
    for key, value in values.items():
        if key not in types:
            has = ", ".join(types) or "no keys"
            raise UserError(f"unknown key {where + '.' + key!r}{did_you_mean(key, types)}; {where} has {has}")
        if value is None and "None" in str(types[key]):
            continue
        if str(types[key]).startswith("int"):
            values[key] = _as_integer(value, f"{where}.{key}")
        elif str(types[key]).startswith("float") and not _is_number(value):
            raise UserError(f"{where}.{key} must be a number, got {_shown(value)}")
    try:
        return kind(**values)
    except ValueError as error:
        text = str(error)
        raise UserError(text if text.startswith(where) else f"{where}: {text}") from error


def build(node: Any, where: str, **arguments: Any) -> Any:
    """Build what a node's ``_target_`` names.

    Parameters
    ----------
    node
        A config node, or a plain number, which is returned as it is.
    where
        The node's name, for the message.
    arguments
        Passed to the target as they are.

    Raises
    ------
    UserError
        If the target does not exist or does not take the node's keys; its own UserErrors pass through.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf import DictConfig

    if not isinstance(node, DictConfig):
        return node
    try:
        # Partial first: Hydra would try to make configs of the arguments, which are arrays and modules.
        target = instantiate(node, _convert_="all", _partial_=True)
    except HydraException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {' '.join(str(cause or error).split())}") from error
    try:
        return target(**arguments)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise UserError(f"{where}: {error}") from error
        raise UserError(
            f"unknown key {where + '.' + unknown[1]!r}: {node['_target_']} does not take it"
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _as_integer(value: Any, name: str, allowed: str = "a whole number") -> int:
    # 1e3 reads as a float, and everyone means the integer.
    if not _is_number(value) or value != int(value):
        raise UserError(f"{name} must be {allowed}, got {_shown(value)}")
    return int(value)


def _integer(cfg: DictConfig, key: str, least: int, most: int | None = None) -> int:
    allowed = (
        f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    )
    value = _as_integer(cfg.get(key), key, allowed)
    if value < least or (most is not None and value > most):
        raise UserError(f"{key} must be {allowed}, got {value}")
    return value


def _not_negative(cfg: DictConfig, key: str) -> float:
    value = cfg.get(key)
    if not _is_number(value) or value < 0:
        raise UserError(f"{key} must be a number of at least 0, got {_shown(value)}")
    return float(value)


def _one_of(cfg: DictConfig, key: str, allowed: Sequence[str]) -> str:
    value = cfg.get(key)
    if value not in allowed:
        raise UserError(
            f"{key} must be {' or '.join(allowed)}, got {_shown(value)}{did_you_mean(str(value), allowed)}"
        )
    return str(value)


def _device(value: Any) -> str:
    match = re.fullmatch(r"(\w+)(?::(\d+))?", str(value))
    if match is None or match[1] not in DEVICES or (match[2] and match[1] == "auto"):
        hint = did_you_mean(str(value), DEVICES)
        raise UserError(
            f"device must be {', '.join(DEVICES)}, or one of several as in cuda:1, got {_shown(value)}{hint}"
        )
    return str(value)


def _checkpoint(cfg: DictConfig) -> CheckpointSettings:
    node = _node(cfg, "checkpoint", ("every", "keep"))
    every = node.get("every")
    allowed = "a number of steps, a time as in 30s, 5min or 2h, or null for never"
    if isinstance(every, str) and not re.fullmatch(_TIME, every):
        raise UserError(f"checkpoint.every must be {allowed}, got {every!r}")
    if every is not None and not isinstance(every, str):
        every = _as_integer(every, "checkpoint.every", allowed)
        if every < 1:
            raise UserError(f"checkpoint.every must be {allowed}, got {every}")
    keep = _as_integer(node.get("keep"), "checkpoint.keep", "a number of checkpoints, 0 for all")
    if keep < 0:
        raise UserError(f"checkpoint.keep must be a number of checkpoints, 0 for all, got {keep}")
    return CheckpointSettings(every, keep)


def _init(cfg: DictConfig) -> InitSettings:
    node = _node(cfg, "init", ("from", "process", "step"))
    source, step = node.get("from"), node.get("step")
    if source is None and step is not None:
        raise UserError("init.step needs the run to start from: init.from=outputs/… init.step=…")
    return InitSettings(
        None if source is None else Path(str(source)).expanduser(),
        str(node.get("process")),
        None if step is None else _as_integer(step, "init.step"),
    )


def _node(cfg: DictConfig, key: str, known: tuple[str, ...]) -> DictConfig:
    from omegaconf import DictConfig

    node = cfg.get(key)
    if not isinstance(node, DictConfig):
        raise UserError(f"{key} must be set by its keys: {', '.join(f'{key}.{name}=…' for name in known)}")
    for name in map(str, node):
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"unknown key '{key}.{name}'{hint}; {key} has {', '.join(known)}")
    return node


def _coordinates(cfg: DictConfig) -> int | list[int]:
    from omegaconf import ListConfig

    value = cfg.get("coordinates")
    allowed = "a number of weights or a list of their indices"
    indices = value if isinstance(value, ListConfig) else [value]
    numbers = [_as_integer(item, "coordinates", allowed) for item in indices]
    if any(number < 0 for number in numbers):
        raise UserError(f"coordinates must be {allowed}, none negative, got {value}")
    return numbers if isinstance(value, ListConfig) else numbers[0]
