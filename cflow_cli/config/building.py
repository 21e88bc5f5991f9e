"""Building what a config node names."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cflow_cli.config import targets
from cflow_cli.config.values import format_value, is_number, whole
from cflow_cli.errors import UserError, did_you_mean

# Keys beside a target that have a meaning of their own; all others are arguments.
_INTERNAL = ("_target_", "_args_", "_partial_")


def build_options(node: Any, where: str) -> Any:
    """Build a node whose target is a dataclass of settings, after checking the types of its values."""
    if not isinstance(node, DictConfig) or node.get("_target_") is None:
        raise UserError(f"{where} must hold a _target_ and its keys, got {format_value(node)}")
    values = _plain(node, where)
    kind = targets.find(where, values.pop("_target_"))
    types = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in types:
            has = ", ".join(types) or "no keys"
            raise UserError(f"unknown key {where + '.' + key!r}{did_you_mean(key, types)}; {where} has {has}")
        values[key] = _check_type(value, types[key], f"{where}.{key}")
    return _call(kind, [], values, where)


def build(node: Any, where: str, **arguments: Any) -> Any:
    """Build what a node's ``_target_`` names, and first what the nodes within it name.

    Parameters
    ----------
    node
        A config node, or a plain number, which is returned as it is.
    where
        The node's name, for the message.
    arguments
        Passed to the target as they are. Without any, a node with ``_partial_: true`` gives a function that is still to
        be called.

    Raises
    ------
    UserError
        If the target does not exist, is not what its place is for or does not take the node's keys, or fails; its own
        UserErrors pass through.
    """
    if not isinstance(node, DictConfig):
        return node
    return _build_plain(_plain(node, where), where, arguments)


def _plain(node: DictConfig, where: str) -> dict[str, Any]:
    try:
        plain: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    return {str(key): value for key, value in plain.items()}


def _build_plain(node: Mapping[str, Any], where: str, arguments: Mapping[str, Any]) -> Any:
    for key in node:
        if key.startswith("_") and key not in _INTERNAL:
            raise UserError(
                f"{where}.{key}: beside a _target_ only _args_ and _partial_ have a meaning of their own"
            )
    target = targets.find(where, node.get("_target_"))
    listed = node.get("_args_") or []
    if not isinstance(listed, list):
        raise UserError(f"{where}._args_ must be a list, got {format_value(listed)}")
    positional = [_build_inside(value, f"{where}._args_") for value in listed]
    given = {
        key: _build_inside(value, f"{where}.{key}") for key, value in node.items() if key not in _INTERNAL
    }
    # What a node wants in part (a loss that is a plain function) stays a function.
    in_part = node.get("_partial_") is True and not arguments
    try:
        signature = inspect.signature(target)
        bind = signature.bind_partial if in_part else signature.bind
        bound = bind(*positional, **{**given, **arguments})
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            is_missing = "missing a required argument" in str(error)
            hint = (
                "; for the function itself, as a loss is one, add _partial_: true to its config" * is_missing
            )
            raise UserError(f"{where}: {node['_target_']}: {error}{hint}") from error
        hint = did_you_mean(unknown[1], signature.parameters)
        raise UserError(
            f"unknown key {where + '.' + unknown[1]!r}{hint}: {node['_target_']} does not take it"
        ) from error
    for key in given.keys() & bound.arguments.keys():
        given[key] = _check_type(given[key], signature.parameters[key].annotation, f"{where}.{key}")
    if in_part:
        made = functools.partial(target, *positional, **given)
    else:
        made = _call(target, positional, {**given, **arguments}, where)
    targets.check_made(where, node["_target_"], made)
    return made


def _build_inside(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _build_plain(value, where, {})
        return {key: _build_inside(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_build_inside(item, f"{where}[{place}]") for place, item in enumerate(value)]
    return value


def _call(target: Callable[..., Any], positional: list[Any], keywords: Mapping[str, Any], where: str) -> Any:
    try:
        return target(*positional, **keywords)
    except UserError:
        raise
    except Exception as error:
        # Whatever numbers out of all bounds make a library raise; CFLOW_TRACEBACK=1 shows where.
        text = " ".join(str(error).split())
        if not isinstance(error, TypeError | ValueError):
            text = f"{type(error).__name__}: {text}"
        raise UserError(text if text.startswith(where) else f"{where}: {text}") from error


def _check_type(value: Any, annotation: Any, where: str) -> Any:
    """Check a value against a plain type that its argument is declared with; whole numbers may be written as floats."""
    declared = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    types = [name.strip() for name in declared.split("|")]
    if value is None and "None" in types:
        return value
    kind = next((name for name in types if name != "None"), None)
    if len([name for name in types if name != "None"]) != 1 or kind not in _CHECKS:
        return value
    what, check = _CHECKS[kind]
    try:
        return check(value)
    except ValueError:
        null = ", or null" if "None" in types else ""
        raise UserError(f"{where} must be {what}{null}, got {format_value(value)}") from None


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if not is_number(value):
        raise ValueError
    return value


_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "bool": ("true or false", _switch),
    "int": ("a whole number", whole),
    "float": ("a number", _number),
    "str": ("text", _text),
}
