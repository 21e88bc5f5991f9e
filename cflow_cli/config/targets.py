"""What a config may name with ``_target_``, and how that is found.

A target is a class or a function that makes what its group is for. Those of this package and of optax are known by
their place; a module of the user's own may be named by the one who starts a run, but not by a folder that came from
somebody else. Nothing is called before it is known to be of its kind, and nothing is imported before its name is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from cflow_cli.config import yaml_files
from cflow_cli.config.values import format_value
from cflow_cli.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What the targets of a group make.

    Parameters
    ----------
    what
        In words.
    rooms
        Modules of this package, and optax, in which they may be.
    base
        Name of the class of what they make.
    """

    what: str
    rooms: tuple[str, ...]
    base: str


KINDS = {
    "optimizer": Kind("optimizer", ("cflow_cli.optimizers", "optax"), "GradientTransformation"),
    "schedule": Kind("schedule", ("optax",), "Schedule"),
    "model": Kind("model", ("cflow_cli.models",), "Model"),
    "data": Kind("data set", ("cflow_cli.datasets",), "Dataset"),
    "loss": Kind("loss", ("cflow_cli.losses",), "Loss"),
    "processes": Kind("process", ("cflow_cli.flows.options", "cflow_cli.engine.options"), "Flow"),
    "measurements": Kind("measurement", ("cflow_cli.measurements",), "Measurement"),
    "logger": Kind("logger", ("cflow_cli.loggers",), "Logger"),
    "eigs": Kind("set of options of the eigensolver", ("cflow_cli.curvature.options",), "EigsOptions"),
    "kernel": Kind("set of options of a kernel", ("cflow_cli.kernels.options",), "KernelOptions"),
}
"""Config group -> what its targets make."""

# A package that a target imports -> the extra of ours that brings it.
EXTRAS = {"tensorboardX": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
# What the targets of these groups make is a set of options, that is an object of the class that is named.
_CLASSES = ("processes", "measurements", "logger", "eigs", "kernel")
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


# --- names ------------------------------------------------------------------------------------------


def named_in(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Find every target in a config: the key of its node, and what it is.

    Parameters
    ----------
    node
        A config, as plain values.
    where
        Its own key.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield where, node["_target_"]
        for key, value in node.items():
            yield from named_in(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list | tuple | set):  # YAML has all three
        for place, value in enumerate(node):
            yield from named_in(value, f"{where}[{place}]")


def check_names(config: Mapping[str, Any]) -> None:
    """Check the names of all targets of a config; nothing is imported.

    Parameters
    ----------
    config
        As plain values.

    Raises
    ------
    UserError
        For one that cannot be what its group is for.
    """
    for where, target in named_in(config):
        _check_name(where, target)


def _check_name(where: str, target: Any) -> None:
    if not isinstance(target, str) or _NAME.fullmatch(target) is None:
        raise UserError(
            f"{where}._target_ must name a class or function, as in optax.adam, got {format_value(target)}"
        )
    head = target.split(".")[0]
    kinds = _kinds(where)
    if head in ("cflow_cli", "optax"):
        if not _is_inside(target, _rooms(kinds)) or "._" in target:
            raise _refusal(where, target)
    elif head in sys.stdlib_module_names or head == "hydra":
        raise _refusal(where, target)


def is_known(target: Any) -> bool:
    """Whether a target is of this package or of optax, by its name."""
    return isinstance(target, str) and target.split(".")[0] in ("cflow_cli", "optax")


def _kinds(where: str) -> list[Kind]:
    """What a target at some place may be: in a group what the group is for, within that any argument of it."""
    group, *inside = re.split(r"[.\[]", where)
    several = group in ("processes", "measurements", "logger")
    if group in KINDS and len(inside) <= several:
        return [KINDS[group]]
    return list(KINDS.values())


def _rooms(kinds: list[Kind]) -> tuple[str, ...]:
    return tuple(room for kind in kinds for room in kind.rooms)


def _is_inside(name: str, rooms: Collection[str]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def _refusal(where: str, target: str) -> UserError:
    kinds = _kinds(where)
    what = kinds[0].what if len(kinds) == 1 else "part of a config"
    known = " or ".join(dict.fromkeys(room.split(".")[0] for room in _rooms(kinds)))
    return UserError(
        f"{where}: {target} is no {what}; there are those of {known.replace('cflow_cli', 'this package')}, "
        "and classes and functions in modules of your own"
    )


# --- folders from somebody else -----------------------------------------------------------------------


def check_received(config: Mapping[str, Any], source: Path, own: Collection[str] = ()) -> None:
    """Check a config that came with a folder: what it names may be built without anybody's word.

    Parameters
    ----------
    config
        As plain values.
    source
        The file that it was read from.
    own
        Modules that are trusted, from :func:`modules_in`.

    Raises
    ------
    UserError
        If it names a target that is neither of this package nor of optax nor in ``own``, or refers to other values.
    """
    foreign = [
        str(target)
        for _, target in named_in(config)
        if not is_known(target) and str(target).rpartition(".")[0] not in own
    ]
    if foreign:
        raise UserError(untrusted(source, foreign))
    if any("${" in text for text in _texts(config)):
        raise UserError(
            f"{source} refers to other values with ${{…}}, which the config of a run never does; "
            "if you know where it comes from and trust it: --trust"
        )


def untrusted(source: Path, foreign: Collection[str]) -> str:
    """Say what a file from a folder would run, and how one who trusts it lets it."""
    names = ", ".join(dict.fromkeys(text if len(text) <= 80 else text[:80] + "…" for text in foreign))
    return (
        f"{source} names what is neither of this package nor of optax: {names}; if it is your own, add "
        "--config-dir with the folder of configs that names it, or if you trust whoever wrote it, --trust"
    )


def modules_in(config_dir: Path | None) -> set[str]:
    """Modules that the files of a folder of configs name: whoever gives that folder trusts them."""
    if config_dir is None:
        return set()
    found = (named_in(yaml_files.load(path)) for path in sorted(config_dir.rglob("*.yaml")))
    return {str(target).rpartition(".")[0] for pairs in found for _, target in pairs}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(node, list | tuple | set):  # YAML has all three
        for value in node:
            yield from _texts(value)


# --- objects ------------------------------------------------------------------------------------------


def find(where: str, target: Any) -> Callable[..., Any]:
    """Import what a target names.

    Parameters
    ----------
    where
        Key of its node, such as ``optimizer`` or ``processes.central``.
    target
        Its name.

    Raises
    ------
    UserError
        If there is no such thing, or it does not make what its place is for.
    """
    _check_name(where, target)
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            missing = error.name.split(".")[0]
            extra = f"'cflow-cli[{EXTRAS[missing]}]'" if missing in EXTRAS else missing
            raise UserError(f"{where} needs the package {missing}; pip install {extra} brings it") from error
        raise UserError(
            f"{where}: there is no module {error.name} for {target}; is the folder that it lies in on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise UserError(f"{where}: the module {module} has no {name}") from error
    except Exception as error:
        raise UserError(f"{where}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    if not any(_makes(found, kind, target) for kind in _kinds(where)):
        raise _refusal(where, target)
    return found


def check_made(where: str, target: str, made: Any) -> None:
    """Check that what a function made is of its kind, which only a declaration could have told before.

    Raises
    ------
    UserError
        If it is not.
    """
    kinds = _kinds(where)
    if len(kinds) > 1:
        return
    kind = kinds[0]
    if kind.base == "Dataset":
        fits = _derives(type(made), kind)
    elif kind.base == "GradientTransformation":
        fits = callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))
    else:
        fits = callable(made)
    if not fits:
        raise UserError(f"{where}: {target} made a {type(made).__name__}, which is no {kind.what}")


def _makes(found: Any, kind: Kind, target: str) -> bool:
    """Whether a class or function makes objects of a kind, as far as that is known without calling it."""
    made = found
    while isinstance(made, functools.partial):
        made = made.func
    if not (inspect.isclass(made) or inspect.isfunction(made)):
        return False
    home = made.__module__
    known = is_known(target)
    if known and not _is_inside(home, kind.rooms):
        return False  # something that a module of ours imports for itself
    if kind in (KINDS[group] for group in _CLASSES):
        return inspect.isclass(made) and is_dataclass(made) and _is_options(made, kind)
    if inspect.isclass(made) and _derives(made, kind):
        return True
    if inspect.isfunction(made) and _returns(made, kind):
        return True
    # Elsewhere a declaration is asked for; a module of the user's own is what the user says it is.
    return not known and all(_is_own(name) for name in (target, home))


def _is_options(made: type, kind: Kind) -> bool:
    # A process that is no flow derives from nothing.
    return _derives(made, kind) or (
        kind.base == "Flow" and hasattr(made, "name") and hasattr(made, "is_flow")
    )


def _derives(made: type, kind: Kind) -> bool:
    return any(base.__name__ == kind.base and is_known(base.__module__) for base in made.__mro__)


def _returns(function: Any, kind: Kind) -> bool:
    """Whether the annotation of a function says so; some transformations of optax have none."""
    given = function.__annotations__.get("return")
    if given is None:
        return kind.base == "GradientTransformation" and is_known(function.__module__)
    if isinstance(given, str):
        value: Any = function.__globals__
        for part in given.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        given = value if value is not None else given
    if kind.base == "Schedule":
        return given == getattr(sys.modules.get("optax"), "Schedule", None) or given == "Schedule"
    return _derives(given, kind) if inspect.isclass(given) else str(given).rpartition(".")[2] == kind.base


def _is_own(name: str) -> bool:
    """Whether a module is the user's own: neither Python's nor installed among the packages."""
    head = name.split(".")[0]
    if head in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(head)
    except ValueError:
        return head == "__main__"
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return not any(
        Path(place).resolve().is_relative_to(folder) for place in places for folder in _installed()
    )


@functools.cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in folders)
