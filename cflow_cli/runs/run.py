"""One run: :func:`prepare` builds it, :func:`execute` takes it into a folder.

All that can be wrong with a request shows in :func:`prepare`, while nothing is on disk. JAX is imported only inside
it: a sweep is checked and sent off on machines that need none.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cflow_cli import together
from cflow_cli.config.building import build
from cflow_cli.config.checking import check
from cflow_cli.config.settings import Settings
from cflow_cli.config.tree import flatten
from cflow_cli.engine.snapshot import Snapshot, Start
from cflow_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, UserError, is_loss, one_sentence, wants_traceback
from cflow_cli.loggers.base import Logger, RunInfo
from cflow_cli.runs import branching, devices, progress, resuming, sweeps
from cflow_cli.runs.interrupts import Interrupts
from cflow_cli.runs.tracking import Describe, Tracking
from cflow_cli.storage import RunWriter, checkpoints, files, manifests, mending

if TYPE_CHECKING:
    from cflow_cli.engine.recording import Chunk
    from cflow_cli.engine.simulation import Simulation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Parameters
    ----------
    folder
        Where everything is.
    status
        ``done``, ``interrupted`` or ``failed``.
    reason
        Sentence on why it was interrupted or failed.
    """

    folder: Path
    status: str
    reason: str | None = None

    @property
    def exit_code(self) -> int:
        """0, 1 if it failed, 130 if it was interrupted."""
        return {"done": 0, "failed": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}[self.status]


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Parameters
    ----------
    cfg
        Its config, without Hydra's own node.
    settings
        The top level of the config, checked.
    simulation
        Built, nothing stepped yet.
    device
        The device in words.
    data
        The data set in words.
    choices
        Group -> choice, where known.
    warning
        What a flow misses on this model, where it is not smooth; that there is none, where the run is too short.
    loggers
        Name -> logger, not opened yet.
    start
        Where it branches off another run.
    notes
        Sentences on how that was found.
    """

    cfg: DictConfig
    settings: Settings
    simulation: Simulation
    device: str
    data: str
    choices: dict[str, str]
    warning: str | None = None
    loggers: Mapping[str, Logger] = field(default_factory=dict)
    start: Start | None = None
    notes: tuple[str, ...] = ()


def run(cfg: DictConfig, folder: Path | str | None = None) -> RunResult:
    """Run a config into a folder.

    Parameters
    ----------
    cfg
        A composed config, e.g. from :func:`cflow_cli.config.composing.compose`.
    folder
        The run folder; a run of the same config there is continued. The one Hydra has chosen where Hydra
        launched this.

    Raises
    ------
    UserError
        If the config or the data are not as they must be, or the folder holds another run; nothing is written then.
    """
    if folder is None:
        if not HydraConfig.initialized():
            raise UserError("run(cfg) needs a folder when Hydra has not chosen one: run(cfg, 'outputs/mine')")
        folder = HydraConfig.get().runtime.output_dir
    folder = Path(folder)
    devices.join(check(cfg).settings)
    if together.decide(lambda: resuming.is_done(folder, cfg)):
        return RunResult(folder, "done")
    return execute(prepare(cfg, folder=folder), folder)


# --- preparing ------------------------------------------------------------------------------------


def prepare(cfg: DictConfig, choices: dict[str, str] | None = None, folder: Path | None = None) -> Prepared:
    """Build everything a run needs, short of its folder.

    Parameters
    ----------
    cfg
        Without Hydra's own node.
    choices
        Group -> choice, where Hydra did not compose the config.
    folder
        The run folder, where it may hold the beginning of this run.

    Raises
    ------
    UserError
        One sentence on what cannot be done.
    """
    checked = check(cfg)
    settings = checked.settings
    if settings.distributed.coordinator is not None:
        # Who computes a run together is no part of what it is.
        cfg = OmegaConf.merge(cfg, {"distributed": dict.fromkeys(cfg.distributed)})  # type: ignore[assignment]
    data = build(cfg.data, "data")
    start, notes = together.decide(lambda: branching.point(settings.init, folder))
    device = devices.configure_jax(settings)

    # Only now: the device must be chosen before JAX is loaded, and a sweep is sent off where there is none.
    from cflow_cli.runs import assembling

    simulation, model, several, chosen = assembling.simulation(cfg, checked, data, device, start)
    used = next(iter(simulation.problem.w0.devices()))
    words = f"{len(several)} devices ({used.device_kind})" if several else describe_device(used)
    words += f" of {together.count()} programs" if together.count() > 1 else ""
    flows = any(process.is_flow for process in checked.processes)
    warnings = [getattr(model, "smoothness_warning", None)] if flows else []
    if flows and settings.warm_start is None and simulation.warm_start == settings.steps:
        warnings.append(
            f"no flow begins within {settings.steps} steps, because flows of this optimizer branch off later; "
            "give more steps, or warm_start=0"
        )
    warning = "; ".join(filter(None, warnings)) or None
    return Prepared(
        cfg,
        settings,
        simulation,
        words,
        describe_data(data),
        choices or choices_of(cfg),
        warning,
        checked.loggers,
        start,
        (*notes, *chosen),
    )


def describe_failure(error: Exception, folder: Path, what: str) -> str:
    """A sentence on an error that is being handled; of one that nobody foresaw the traceback is left in the folder."""
    reason = one_sentence(error)
    if isinstance(error, UserError) or is_loss(error) or not together.leads():
        return reason
    log.error("the %s failed\n%s", what, traceback.format_exc())
    (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    return f"{reason} (traceback in {folder / 'traceback.txt'})"


def describe_device(device: Any) -> str:
    """A device in words."""
    if device.platform == "cpu":
        return "cpu"
    return f"{device.platform}:{device.id} ({device.device_kind})"


def describe_data(data: Any) -> str:
    """A data set in words."""
    tests = 0 if data.x_test is None else len(data.x_test)
    return f"{data.name}, {len(data.x)} training and {tests} test examples"


def choices_of(cfg: DictConfig) -> dict[str, str]:
    """Which choice each group has: from Hydra where it composed the config, else from the targets."""
    if HydraConfig.initialized():
        chosen = HydraConfig.get().runtime.choices
        return {str(k): str(v) for k, v in chosen.items() if not str(k).startswith("hydra/") and k in cfg}
    targets = {group: cfg[group].get("_target_") for group in ("model", "data", "loss", "optimizer")}
    return {group: str(target).rsplit(".", 1)[-1] for group, target in targets.items()}


# --- executing ------------------------------------------------------------------------------------


def execute(prepared: Prepared, folder: Path, *, describe: Describe | None = None) -> RunResult:
    """Run a simulation into a folder; whatever happens, the folder's manifest says how it ended.

    Where the folder holds the beginning of this run, it is continued from its newest checkpoint.

    Parameters
    ----------
    prepared
        From :func:`prepare`.
    folder
        The run folder.
    describe
        Makes what the loggers are given at the end.

    Raises
    ------
    UserError
        If the folder cannot be written or another process is running it.
    """
    with contextlib.ExitStack() as held:
        together.decide(lambda: held.enter_context(files.lock(folder)))
        return _execute_locked(prepared, folder, describe)


def _execute_locked(prepared: Prepared, folder: Path, describe: Describe | None) -> RunResult:
    simulation, settings = prepared.simulation, prepared.settings
    # The jobs of a sweep may share one terminal, where bars would overwrite each other.
    display = progress.display(settings.steps, shared=devices.in_sweep())
    writer = RunWriter(folder, columns=simulation.columns, kinds=simulation.kinds)
    notes = _open_folder(prepared, writer)
    saving = resuming.Checkpoints(simulation, writer, settings.checkpoint)
    loggers = prepared.loggers if together.leads() else {}
    tracking = Tracking(loggers, _about(prepared, folder), describe)
    status, reason, reached = "done", None, simulation.step
    interrupts = Interrupts(display.say)

    def take(chunk: Chunk) -> bool:
        writer.write(chunk.metrics, chunk.eigenvalues)
        display.advance(chunk)
        tracking.write(chunk.metrics)
        return saving.due()

    try:
        with interrupts, display:
            _announce(prepared, folder, [*notes, *_starting_notes(prepared)], display)
            for chunk in simulation:
                interrupts.unsaved, reached = True, chunk.step
                due = together.decide(functools.partial(take, chunk))
                stop, save = together.any_of(interrupts.reason is not None, interrupts.save or due)
                if stop and chunk.step < settings.steps:
                    who = interrupts.reason or "a signal to another program of the run"
                    status, reason = "interrupted", f"{who} at step {chunk.step}"
                    break
                if save:
                    interrupts.save = False
                    together.decide(saving.save)
            together.decide(saving.finish)
    except KeyboardInterrupt:
        status, reason = "interrupted", f"{interrupts.reason or 'Ctrl-C'} at step {reached}"
        if not interrupts.unsaved:
            reason += ", before anything was computed"
    except Exception as error:
        lost = is_loss(error)
        if wants_traceback() and not lost:
            if together.leads():
                writer.finish("failed", reason=one_sentence(error), **_outcome(simulation))
            raise
        status, reason = "failed", describe_failure(error, folder, "run")
        if lost and not together.leads():
            print(f"error: {reason}", file=sys.stderr)
    known = _oscillation(simulation) if status == "done" else {}
    if not together.leads():
        if status == "interrupted":
            interrupts.forward()
        return RunResult(folder, status, reason)
    try:
        writer.finish(status, reason=reason, **_outcome(simulation), **known)
    except UserError as error:
        status, reason = "failed", str(error)
    if outcome := tracking.finish(status):
        with contextlib.suppress(UserError):  # a full disk, which was told
            writer.update(**outcome)
    if status == "interrupted":
        interrupts.forward()
    return RunResult(folder, status, reason)


def _open_folder(prepared: Prepared, writer: RunWriter) -> list[str]:
    """Begin the run in its folder, or continue the one that is there; sentences on what was found."""
    about, text = _manifest_entries(prepared), OmegaConf.to_yaml(prepared.cfg, resolve=True)
    there = together.decide(lambda: _look_into(writer.folder))
    if there is None:
        together.decide(lambda: _start(prepared, writer, about, text))
        return []
    notes, found = there
    if found is None:
        together.decide(lambda: writer.resume(None, about, text))
        return notes
    header = dict(found.header)
    position = header.pop("storage")
    simulation = prepared.simulation
    simulation.restore(Snapshot(header, found.arrays))
    last = resuming.measured_as_last
    together.decide(lambda: writer.resume(position, about, text, last(simulation, writer.folder)))
    return [*notes, f"continuing from step {header['step']}"]


def _look_into(folder: Path) -> tuple[list[str], checkpoints.Checkpoint | None] | None:
    """Sentences on the run in a folder, mended, and its newest good checkpoint; None where there is no run."""
    if not mending.is_needed(folder) and not (folder / manifests.NAME).exists():
        return None
    notes = mending.mend(folder)
    point = resuming.last_point(folder)
    return [*notes, *point.notes], point.checkpoint


def _start(prepared: Prepared, writer: RunWriter, about: dict[str, Any], text: str) -> None:
    branching.keep(prepared.start, prepared.settings.init, writer.folder)
    writer.start(about | describe_command(), text)


def _announce(
    prepared: Prepared, folder: Path, notes: Sequence[str], display: progress.Lines | progress.Bar
) -> None:
    settings = prepared.settings
    model = prepared.choices.get("model", "model")
    display.say(f"{model}, {prepared.simulation.problem.num_parameters} parameters · {prepared.data}")
    rate = f"lr {settings.lr:g}" + (
        "" if not isinstance(prepared.cfg.schedule, DictConfig) else " (schedule)"
    )
    display.say(
        f"{prepared.choices.get('optimizer', 'optimizer')}, {rate}, {settings.steps} steps, "
        f"{settings.dtype} on {prepared.device}, {_loop(settings.kick)} · {', '.join(prepared.cfg.processes)}"
    )
    display.say(f"folder {folder}")
    if prepared.simulation.memory is not None:
        display.say(prepared.simulation.memory.sentence)
    if prepared.warning is not None:
        display.say(f"warning: {prepared.warning}")
    for note in notes:
        display.say(f"note: {note}")


def _loop(kick: float) -> str:
    """What the optimizer's own steps are."""
    return f"optax with kicks of norm {kick:g}" if kick else "plain optax"


def _starting_notes(prepared: Prepared) -> list[str]:
    init = prepared.settings.init
    if init.source is None:
        return [*prepared.notes]
    if init.t is not None:
        return [
            *prepared.notes,
            f"starting from weights only of the curve at t = {init.t:g} in {init.source}",
        ]
    taken = "weights and optimizer state" if prepared.simulation.takes_over else "weights only"
    return [*prepared.notes, f"starting from {taken} of {init.process} in {init.source}"]


def _manifest_entries(prepared: Prepared) -> dict[str, Any]:
    settings, simulation = prepared.settings, prepared.simulation
    return {
        "name": settings.name,
        "tags": settings.tags,
        "notes": settings.notes,
        "choices": prepared.choices,
        "lr": settings.lr,
        "steps": settings.steps,
        "warm_start": simulation.warm_start,
        "kick": settings.kick,
        "kick_seed": settings.seed if settings.kick_seed is None else settings.kick_seed,
        "optimizer_loop": _loop(settings.kick),
        "seed": settings.seed,
        "dtype": settings.dtype,
        "device": prepared.device,
        "memory": None if simulation.memory is None else asdict(simulation.memory),
        "num_parameters": simulation.problem.num_parameters,
        "layers": [name for name, _ in simulation.problem.layers],
        "data_description": prepared.data,
        "warning": prepared.warning,
    }


def _about(prepared: Prepared, folder: Path) -> RunInfo:
    """What loggers are told of a run."""
    settings = prepared.settings
    above = folder.resolve().parent
    group = above.name if sweeps.is_sweep(above) else None
    name = settings.name or (f"{group}/{folder.name}" if group else folder.resolve().name)
    config: dict[str, Any] = OmegaConf.to_container(prepared.cfg, resolve=True)  # type: ignore[assignment]
    return RunInfo(name, folder, "", flatten(config), settings.tags, settings.notes, group)


def describe_command() -> dict[str, Any]:
    """The overrides of this run, and for a job of a sweep the command that runs it alone."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    # Where a run of a sweep went is no part of what it is.
    overrides = [text for text in hydra.overrides.task if not text.startswith(("launcher=", "distributed."))]
    command: dict[str, Any] = {"overrides": overrides}
    if devices.in_sweep():
        folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        extra = [part for folder in folders for part in ("--config-dir", folder)]
        command["command_line"] = shlex.join(["cflow", "run", *extra, *overrides])
    return command


def _outcome(simulation: Simulation) -> dict[str, Any]:
    return {
        "counts": simulation.counts,
        "processes": simulation.statuses,
    }


def _oscillation(simulation: Simulation) -> dict[str, Any]:
    from cflow_cli.engine import growth

    return {"oscillation": growth.of_oscillations(simulation)}
