"""Building what a config names that needs JAX; imported when the device is chosen, and JAX is set up for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
from omegaconf import DictConfig

from cflow_cli import together
from cflow_cli.config.building import build
from cflow_cli.config.checking import Checked
from cflow_cli.config.settings import Settings
from cflow_cli.engine.options import SimulationOptions
from cflow_cli.engine.simulation import Simulation
from cflow_cli.engine.snapshot import Start
from cflow_cli.errors import UserError
from cflow_cli.models import check_pair
from cflow_cli.problem import Problem
from cflow_cli.runs import choosing


class Assembled(NamedTuple):
    """A simulation, nothing stepped yet.

    Parameters
    ----------
    simulation, model
        And what is trained.
    several
        The devices that share the data; none where one has it all.
    notes
        Sentences on what was chosen.
    """

    simulation: Simulation
    model: Any
    several: list[Any]
    notes: tuple[str, ...] = ()


class Trained(NamedTuple):
    """What is trained: the model, the loss, and the problem that they make with the data."""

    model: Any
    loss: Any
    problem: Problem


def trained(cfg: DictConfig, checked: Checked, data: Any) -> Trained:
    """Build the model and the loss.

    Parameters
    ----------
    cfg, checked
        The config, and what was built of it already.
    data
        The data set.

    Raises
    ------
    UserError
        If they do not go together.
    """
    model = network(cfg, data, checked.settings.seed)
    loss = build(cfg.loss, "loss")
    check_pair(model, data, loss)
    return Trained(model, loss, Problem.from_model(model, data, loss, checked.settings.dtype))


def network(cfg: DictConfig, data: Any, seed: int) -> Any:
    """The model, with initial weights from a seed."""
    return build(cfg.model, "model", data=data, key=jax.random.PRNGKey(seed))


def parameters(model: Any, dtype: str) -> Any:
    """What of a model is trained, in the precision of the run."""
    trainable = eqx.filter(model, eqx.is_inexact_array)
    return jax.tree.map(lambda array: array.astype(dtype), trainable)


def several_devices(settings: Settings) -> list[Any]:
    """The devices that share the data; none where one has it all."""
    kind, _, index = settings.device.partition(":")
    if together.count() > 1:
        if index or settings.devices not in (None, 1):
            raise UserError(
                "with distributed.coordinator=… all devices of all programs share the data: leave out devices=…, "
                f"and give only the kind of device, as in device={kind}"
            )
        return list(jax.devices(None if kind == "auto" else kind))
    if settings.devices == 1:
        return []
    if index:
        raise UserError(
            f"device={settings.device} is one device; with devices= give only its kind: device={kind}"
        )
    found = jax.devices(None if kind == "auto" else kind)
    wanted = settings.devices or len(found)
    if wanted > len(found):
        raise UserError(f"devices={wanted}: JAX sees only {len(found)} here; devices=all takes what there is")
    return list(found[:wanted]) if wanted > 1 else []


def simulation(cfg: DictConfig, checked: Checked, data: Any, device: Any, start: Start | None) -> Assembled:
    """Build a simulation.

    Parameters
    ----------
    cfg, checked
        The config, and what was built of it already.
    data
        The data set.
    device
        Where; None for JAX's choice.
    start
        Where it branches off another run.

    Raises
    ------
    UserError
        One sentence on what cannot be done.
    """
    settings = checked.settings
    with jax.default_device(device):
        model, _, problem = trained(cfg, checked, data)
    faster, why = choosing.choose(problem, settings)
    if faster is not None:
        device = faster
        with jax.default_device(device):
            model, _, problem = trained(cfg, checked, data)
    with jax.default_device(device):
        several = several_devices(settings)
        if several:
            problem = problem.sharded(several)
        options = SimulationOptions(
            processes=checked.processes,
            measurements=checked.measurements,
            steps=settings.steps,
            warm_start=settings.warm_start,
            seed=settings.seed,
            eigs=checked.eigs,
            kick=settings.kick,
            kick_seed=settings.kick_seed,
            pause_every=settings.checkpoint.steps,
            memory_gib=settings.memory_gib,
        )
        built = Simulation(
            problem,
            build(cfg.optimizer, "optimizer"),
            options,
            learning_rate=build(cfg.schedule, "schedule"),
            start=start,
            keep_rows=False,
        )
    return Assembled(built, model, several, () if why is None else (why,))
