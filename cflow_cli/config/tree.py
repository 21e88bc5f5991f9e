"""The configs as files: where conf/ is, its groups and choices, and the keys that can be set. YAML only, no Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cflow_cli.config import yaml_files
from cflow_cli.errors import UserError

PRIMARY = "config"


def conf_dir() -> Path:
    """Folder of the configs that come with the package: in a wheel inside it, in a checkout at its root."""
    package = Path(__file__).resolve().parent.parent
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


def read_yaml(path: Path) -> Any:
    """What a file of YAML holds.

    Raises
    ------
    UserError
        If it is not readable YAML.
    """
    return yaml_files.load(path) or {}


def read_choice(path: Path, group: str) -> Choice:
    """Read one file of a config group without Hydra.

    Raises
    ------
    UserError
        If it is not readable YAML.
    """
    text = yaml_files.read(path)
    content = yaml_files.parse(text, path) or {}
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
    inherited: dict[str, Any] = {}
    if group == "launcher" and isinstance(content, dict):
        # A launcher's settings are Hydra's; on the command line they are launcher.… like any group's.
        for name in content.get("defaults") or []:
            other = path.with_name(f"{name}.yaml") if isinstance(name, str) else path
            if other != path and other.exists():
                inherited |= read_choice(other, group).keys
        content, prefix = (content.get("hydra") or {}).get("launcher") or {}, "launcher."
    flat = flatten(content) if isinstance(content, dict) else {}
    keys = {prefix + key: value for key, value in flat.items() if not _is_internal(key)}
    return Choice(path, summary, package, inherited | keys)


def _is_internal(key: str) -> bool:
    """Whether a key of a file is for Hydra: its defaults, its own node, what an object is made from."""
    return key.split(".")[0] in ("defaults", "hydra") or key.rsplit(".", 1)[-1].startswith("_")


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as one mapping with dotted keys; an empty mapping stays a value.

    Examples
    --------
    >>> flatten({"lr": 0.1, "model": {"widths": [32, 32]}})
    {'lr': 0.1, 'model.widths': [32, 32]}
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@dataclass(frozen=True)
class Entry:
    """One line of a config file: a key as the file has it, its value as it is written there, and its comment."""

    key: str
    text: str
    comment: str


def read_entries(path: Path) -> list[Entry]:
    """Keys of one config file in their order, without targets and the defaults list; a launcher's as ``launcher.…``."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    entries = []
    for key, line, node in _leaves(yaml.compose(text, yaml_files.LOADER)):
        if key.split(".")[0] == "defaults" or key.endswith("_target_"):
            continue
        value = " ".join(text[node.start_mark.index : node.end_mark.index].split())
        comment = lines[line].partition(" # ")[2].strip()
        entries.append(Entry(re.sub(r"^hydra\.(?=launcher\.)", "", key), value, comment))
    return entries


def _leaves(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int, yaml.Node]]:
    """Keys with the line they stand on and their values."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", key.start_mark.line, value


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
        # A name that Hydra's grammar does not know can be no choice, and no shell should be offered it.
        if not group.startswith("hydra") and re.fullmatch(r"[\w.@+-]+", path.stem):
            found.setdefault(group, {})[path.stem] = path
    return found


def default_choices() -> dict[str, Any]:
    """Group -> default choice (a list for groups that take several), as in the primary config."""
    content = yaml_files.load(conf_dir() / f"{PRIMARY}.yaml")
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    pairs = [(str(k).removeprefix("optional "), v) for entry in entries for k, v in entry.items()]
    return {group: choice for group, choice in pairs if "/" not in group}


def comments_on(keys: Iterable[str]) -> dict[str, str]:
    """The comments on keys inside groups, such as ``data.n``, in the files of the groups' default choices."""
    defaults, comments = default_choices(), {}
    for key in keys:
        group, _, inside = key.partition(".")
        # The file of a process has the process's name above its keys; those of other groups have their keys alone.
        choice = inside.split(".")[0] if isinstance(defaults[group], list) else defaults[group]
        entries = read_entries(conf_dir() / group / f"{choice}.yaml")
        comments[key] = next(entry.comment for entry in entries if entry.key == inside)
    return comments


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


def choices_of_experiment(experiment: Path) -> dict[str, Any]:
    """Choices that an experiment's defaults list makes with ``override /group: choice``."""
    content = yaml_files.load(experiment)
    entries = (content.get("defaults") if isinstance(content, dict) else None) or []
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {key.removeprefix("override /"): value for key, value in pairs if key.startswith("override /")}
