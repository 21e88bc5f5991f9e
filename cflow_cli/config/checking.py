"""Checks of a whole config, before anything is computed or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cflow_cli.config import targets
from cflow_cli.config.building import build_options
from cflow_cli.config.interpolation import check_interpolations
from cflow_cli.config.settings import SETTINGS, Settings
from cflow_cli.config.tree import default_choices
from cflow_cli.config.values import LARGEST, format_value, is_number
from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.loggers.base import Logger

if TYPE_CHECKING:
    from cflow_cli.curvature.options import EigsOptions
    from cflow_cli.kernels.options import KernelOptions


@dataclass(frozen=True)
class Checked:
    """What of a config can be built without JAX: settings, processes, measurements, eigenvalues, loggers, kernels."""

    settings: Settings
    processes: tuple[Any, ...]
    measurements: tuple[Any, ...]
    eigs: EigsOptions
    loggers: dict[str, Logger]
    kernel: KernelOptions | None


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
    try:
        settings_keys = {key.split(".")[0] for key in SETTINGS}
        known = settings_keys | set(default_choices()) - {"experiment", "launcher"}
        for key in cfg:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise UserError(
                    f"unknown key {str(key)!r}{hint}; the top level has {', '.join(sorted(known))}"
                )
        check_interpolations(OmegaConf.to_container(cfg, resolve=False))
        if not isinstance(cfg.get("processes"), DictConfig) or not cfg.processes:
            raise UserError("processes must name at least one, as in 'processes=[discrete,central]'")
        # measurements=[] leaves no node of that name, and only cflow kernel has one of kernels.
        for key in sorted(known - {"measurements", "logger", "kernel"} - {str(key) for key in cfg}):
            raise UserError(f"the config has no {key}; it is needed, so leave out ~{key}")
        for key in targets.KINDS.keys() & {str(key) for key in cfg} - {"schedule", "logger"}:
            if not isinstance(cfg[key], DictConfig):
                raise UserError(
                    f"{key} must be a choice with its keys, got {format_value(cfg[key])}; "
                    f"leave out {key}=… for the default"
                )
        targets.check_names(_plain(cfg))
        settings = Settings.of({key: _plain(cfg.get(key)) for key in settings_keys})
        # The schedule first: the optimizer holds it, and a mistake should be named where it was made.
        for group in ("schedule", "optimizer"):
            _check_numbers(cfg[group], group)
        processes, measurements = (
            tuple(build_options(node, f"{group}.{name}") for name, node in (cfg.get(group) or {}).items())
            for group in ("processes", "measurements")
        )
        eigs = build_options(cfg.eigs, "eigs")
        kernel = build_options(cfg.kernel, "kernel") if "kernel" in cfg else None
        loggers = _build_loggers(cfg.get("logger") or {})
        return Checked(settings, processes, measurements, eigs, loggers, kernel)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _build_loggers(nodes: Any) -> dict[str, Logger]:
    """Build the loggers, not opened, so that a package that is missing is told now."""
    if not isinstance(nodes, Mapping):
        raise UserError(
            "the loggers of a run are chosen when it begins; afterwards their keys can change, as in "
            "logger.wandb.mode=online"
        )
    loggers = {}
    for name, node in nodes.items():
        where = f"logger.{name!s}"
        built = build_options(node, where)
        if not isinstance(built, Logger):
            raise UserError(f"{where}: {node.get('_target_')} is no Logger of cflow_cli.loggers.base")
        loggers[str(name)] = built
    return loggers


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


_FRACTIONS = ("b1", "b2", "decay", "momentum")
_NOT_NEGATIVE = ("eps", "eps_root", "weight_decay", "initial_accumulator_value", "initial_scale")


def _is_bounded(value: Any) -> bool:
    """Whether a number is finite and float32 holds its square; switches count as numbers here."""
    return isinstance(value, bool) or (is_number(value) and abs(value) <= LARGEST)


def _check_numbers(node: Any, where: str) -> None:
    """Every value of an optimizer or schedule is a number or a switch; decays are below 1."""
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
            raise UserError(f"{full} must be a number, got {format_value(value)}")
        if isinstance(value, int | float) and not _is_bounded(value):
            raise UserError(f"{full} must be a number of at most {LARGEST:g}, got {format_value(value)}")
        if name in _FRACTIONS and value is not None and not 0 <= value < 1:
            raise UserError(f"{full} must be at least 0 and below 1, got {value}")
        if name in _NOT_NEGATIVE and value is not None and not value >= 0:
            raise UserError(f"{full} must not be negative, got {value}")
