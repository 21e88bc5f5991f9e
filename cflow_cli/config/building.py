"""Building what a config node names."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from cflow_cli.config.values import format_value, is_number, whole
from cflow_cli.errors import UserError, did_you_mean

# A package that a target imports -> the extra of ours that brings it.
EXTRAS = {"tensorboardX": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def build_options(node: Any, where: str) -> Any:
    """Build a node whose target is a dataclass of settings, after checking the types of its values."""
    kind = _target_of(node, where)
    if not (isinstance(kind, type) and is_dataclass(kind)):
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
            try:
                values[key] = whole(value)
            except ValueError:
                raise UserError(f"{where}.{key} must be a whole number, got {format_value(value)}") from None
        elif str(types[key]).startswith("float") and not is_number(value):
            raise UserError(f"{where}.{key} must be a number, got {format_value(value)}")
    try:
        return kind(**values)
    except ValueError as error:
        text = str(error)
        raise UserError(text if text.startswith(where) else f"{where}: {text}") from error


def _target_of(node: Any, where: str) -> Any:
    """What ``_target_`` names, where it can be imported."""
    module, _, name = str(node.get("_target_", "")).rpartition(".") if hasattr(node, "get") else ("", "", "")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or f"{module}.".startswith(f"{error.name}."):
            return None  # Hydra says it better
        missing = error.name.split(".")[0]
        extra = f"'cflow-cli[{EXTRAS[missing]}]'" if missing in EXTRAS else missing
        raise UserError(f"{where} needs the package {missing}; pip install {extra} brings it") from error
    except (ImportError, ValueError):
        return None


def build(node: Any, where: str, **arguments: Any) -> Any:
    """Build what a node's ``_target_`` names.

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
        If the target does not exist or does not take the node's keys; its own UserErrors pass through.
    """
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
        # What a node wants in part (a loss that is a plain function) stays a function.
        return target if node.get("_partial_") and not arguments else target(**arguments)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            missing = "required positional argument" in str(error)
            hint = "; for the function itself, as a loss is one, add _partial_: true to its config" * missing
            raise UserError(f"{where}: {error}{hint}") from error
        raise UserError(
            f"unknown key {where + '.' + unknown[1]!r}: {node['_target_']} does not take it"
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
