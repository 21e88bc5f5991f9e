"""Running what a config says: here Hydra's config, JAX's settings, the disk and the terminal meet.

A run has two halves. :func:`prepare` checks the config, loads the data and builds the simulation; all that
can be wrong with a request shows there, while nothing is on disk. :func:`execute` runs the simulation into a
folder. JAX is imported only inside them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config as configs
from . import progress, resuming
from .commandline import EXIT_FAILED, EXIT_INTERRUPTED
from .errors import UserError, wants_traceback
from .storage import RunWriter, files

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .simulation import Simulation

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
        What a flow misses on this model, where it is not smooth.
    """

    cfg: DictConfig
    settings: configs.Settings
    simulation: Simulation
    device: str
    data: str
    choices: dict[str, str]
    warning: str | None = None


def run(cfg: DictConfig, folder: Path | str | None = None) -> RunResult:
    """Run a config into a folder.

    Parameters
    ----------
    cfg
        A composed config, e.g. from :func:`cflow_cli.config.compose`.
    folder
        The run folder; a run of the same config there is gone on with. The one Hydra has chosen where Hydra
        launched this.

    Raises
    ------
    UserError
        If the config or the data are not as they must be, or the folder holds another run; nothing is written then.
    """
    from hydra.core.hydra_config import HydraConfig

    if folder is None:
        if not HydraConfig.initialized():
            raise UserError("run(cfg) needs a folder when Hydra has not chosen one: run(cfg, 'outputs/mine')")
        folder = HydraConfig.get().runtime.output_dir
    folder = Path(folder)
    if resuming.is_done(folder, cfg):
        return RunResult(folder, "done")
    return execute(prepare(cfg), folder)


# --- preparing ------------------------------------------------------------------------------------


def prepare(cfg: DictConfig, choices: dict[str, str] | None = None) -> Prepared:
    """Build everything a run needs, short of its folder.

    Parameters
    ----------
    cfg
        Without Hydra's own node.
    choices
        Group -> choice, where Hydra did not compose the config.

    Raises
    ------
    UserError
        One sentence on what cannot be done.
    """
    checked = configs.check(cfg)
    settings = checked.settings
    data = configs.build(cfg.data, "data")
    start = _start(settings.init)
    device = _configure_jax(settings)

    import jax

    from .models import Model, check_pair
    from .options import Flow
    from .problem import Problem
    from .simulation import Simulation

    with _on(device):
        model = configs.build(cfg.model, "model", data=data, key=jax.random.PRNGKey(settings.seed))
        loss = configs.build(cfg.loss, "loss")
        check_pair(model, data, loss)
        problem = Problem.from_model(model, data, loss, settings.dtype)
        several = _several(settings)
        if several:
            problem = problem.sharded(several)
        simulation = Simulation(
            problem,
            configs.build(cfg.optimizer, "optimizer"),
            processes=checked.processes,
            steps=settings.steps,
            warm_start=settings.warm_start,
            seed=settings.seed,
            eigs=checked.eigs,
            learning_rate=configs.build(cfg.schedule, "schedule"),
            eval_every=settings.eval_every,
            coordinates=settings.coordinates,
            outputs=settings.outputs,
            kick=settings.kick,
            pause_every=settings.checkpoint.steps,
            start=start,
        )
        used = next(iter(problem.w0.devices()))
    words = used.platform if used.platform == "cpu" else f"{used.platform}:{used.id} ({used.device_kind})"
    words = f"{len(several)} devices ({used.device_kind})" if several else words
    tests = 0 if data.x_test is None else len(data.x_test)
    described = f"{data.name}, {len(data.x)} training and {tests} test examples"
    flows = any(isinstance(process, Flow) for process in checked.processes)
    warning = model.smoothness_warning if flows and isinstance(model, Model) else None
    return Prepared(cfg, settings, simulation, words, described, choices or _choices(cfg), warning)


def _start(init: configs.InitSettings) -> Any:
    """The point another run has reached; None without one."""
    from .storage import checkpoints, read_run

    if init.source is None:
        return None
    read_run(init.source)
    found = checkpoints.at_step(init.source, init.step)
    from .simulation import branch

    try:
        return branch(found.arrays, init.process)
    except UserError as error:
        raise UserError(f"init.process={init.process}: in {found.path} {error}") from error


def _configure_jax(settings: configs.Settings) -> Any:
    """Set precision, cache and platform before the first array is made; the device, None for JAX's choice."""
    kind, _, index = settings.device.partition(":")
    # A run on the CPU must not touch the GPUs: starting their runtime costs a second and their memory.
    if kind == "cpu" and "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_enable_x64", settings.dtype == "float64")
    # TF32 and bfloat16 passes have three digits: not enough for eigenvalues that are compared with 2.
    jax.config.update("jax_default_matmul_precision", "highest")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if kind == "auto":
        return None
    try:
        found = jax.devices(kind)
    except RuntimeError:
        here = sorted({device.platform for device in jax.devices()})
        extra = "; for an NVIDIA GPU: pip install 'cflow[cuda]'" if kind in ("gpu", "cuda") else ""
        raise UserError(
            f"device={settings.device}: JAX has no {kind} here, only {', '.join(here)}{extra}"
        ) from None
    if int(index or 0) >= len(found):
        names = ", ".join(f"{kind}:{i}" for i in range(len(found)))
        raise UserError(f"device={settings.device}: there is only {names}")
    return found[int(index or 0)]


def _several(settings: configs.Settings) -> list[Any]:
    """The devices that share the data; none where one has it all."""
    import jax

    kind, _, index = settings.device.partition(":")
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


def compilation_cache_dir() -> Path:
    """Folder of compiled programs: a second run starts in a fraction of the time of the first.

    ``$JAX_COMPILATION_CACHE_DIR`` replaces it. Each kind of CPU has its own: homes are shared between
    machines, and a program compiled for one can crash another.
    """
    import hashlib

    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kind = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return caches / "cflow" / "jax" / hashlib.sha256(kind.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _on(device: Any) -> Iterator[None]:
    import jax

    with contextlib.nullcontext() if device is None else jax.default_device(device):
        yield


def _choices(cfg: DictConfig) -> dict[str, str]:
    """Which choice each group has: from Hydra where it composed the config, else from the targets."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        chosen = HydraConfig.get().runtime.choices
        return {str(k): str(v) for k, v in chosen.items() if not str(k).startswith("hydra/") and k in cfg}
    targets = {group: cfg[group].get("_target_") for group in ("model", "data", "loss", "optimizer")}
    return {group: str(target).rsplit(".", 1)[-1] for group, target in targets.items()}


# --- executing ------------------------------------------------------------------------------------


def execute(prepared: Prepared, folder: Path, *, owns_process: bool = False) -> RunResult:
    """Run a simulation into a folder; whatever happens, the folder's manifest says how it ended.

    Where the folder holds the beginning of this run, it is gone on with from its newest checkpoint.

    Parameters
    ----------
    prepared
        From :func:`prepare`.
    folder
        The run folder.
    owns_process
        Whether a second interrupt may end the process: XLA's compiler, which can take minutes, listens to
        nothing else.

    Raises
    ------
    UserError
        If the folder cannot be written or another process is running it.
    """
    with files.lock(folder):
        return _execute(prepared, folder, owns_process)


def _execute(prepared: Prepared, folder: Path, owns_process: bool) -> RunResult:
    simulation, settings = prepared.simulation, prepared.settings
    # The jobs of a sweep may share one terminal, where bars would overwrite each other.
    display = progress.display(settings.steps, shared=_in_sweep())
    writer = RunWriter(folder)
    notes = _open(prepared, writer)
    saving = resuming.Checkpoints(simulation, writer, settings.checkpoint)
    _introduce(prepared, folder, [*notes, *_notes(prepared)], display)
    status, reason = "done", None

    def stop_at_once() -> None:
        if not owns_process:
            raise KeyboardInterrupt
        display.__exit__()
        writer.finish(
            "interrupted", reason=f"interrupted twice at step {simulation.step}", **_outcome(simulation)
        )
        print(f"interrupted; everything before the last chunk is in {folder}", file=sys.stderr, flush=True)
        os._exit(EXIT_INTERRUPTED)

    interrupts = progress.Interrupts(display.say, stop_at_once)
    try:
        with interrupts, display:
            for chunk in simulation:
                writer.write(chunk.metrics, chunk.eigenvalues)
                display.advance(chunk)
                if interrupts.reason is not None and chunk.step < settings.steps:
                    status, reason = "interrupted", f"{interrupts.reason} at step {chunk.step}"
                    break
                if interrupts.save or saving.due():
                    interrupts.save = False
                    saving.save()
            saving.finish()
    except KeyboardInterrupt:
        status, reason = "interrupted", f"Ctrl-C at step {simulation.step}"
    except Exception as error:
        if wants_traceback():
            writer.finish("failed", reason=one_sentence(error), **_outcome(simulation))
            raise
        status, reason = "failed", one_sentence(error)
        if not isinstance(error, UserError):
            log.error("the run failed\n%s", traceback.format_exc())
            (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            reason += f" (traceback in {folder / 'traceback.txt'})"
    try:
        writer.finish(status, reason=reason, **_outcome(simulation))
    except UserError as error:
        status, reason = "failed", str(error)
    if status == "interrupted":
        interrupts.forward()
    return RunResult(folder, status, reason)


def _open(prepared: Prepared, writer: RunWriter) -> list[str]:
    """Begin the run in its folder, or go on with the one that is there; sentences on what was found."""
    from omegaconf import OmegaConf

    from .simulation import Snapshot

    about, text = _manifest(prepared), OmegaConf.to_yaml(prepared.cfg, resolve=True)
    if not (writer.folder / "manifest.json").exists():
        writer.start(about | _command(), text)
        return []
    point = resuming.last_point(writer.folder)
    if point.checkpoint is None:
        writer.resume(None, about, text)
        return point.notes
    header = dict(point.checkpoint.header)
    position = header.pop("storage")
    prepared.simulation.restore(Snapshot(header, point.checkpoint.arrays))
    writer.resume(position, about, text)
    return [*point.notes, f"going on from step {header['step']}"]


def _introduce(
    prepared: Prepared, folder: Path, notes: Sequence[str], display: progress.Lines | progress.Bar
) -> None:
    settings = prepared.settings
    model = prepared.choices.get("model", "model")
    display.say(f"{model}, {prepared.simulation.problem.num_parameters} parameters · {prepared.data}")
    rate = f"lr {settings.lr:g}" + ("" if not _is_node(prepared.cfg.schedule) else " (schedule)")
    display.say(
        f"{prepared.choices.get('optimizer', 'optimizer')}, {rate}, {settings.steps} steps, "
        f"{settings.dtype} on {prepared.device} · {', '.join(prepared.cfg.processes)}"
    )
    display.say(f"folder {folder}")
    if prepared.warning is not None:
        display.say(f"warning: {prepared.warning}")
    for note in notes:
        display.say(f"note: {note}")


def _notes(prepared: Prepared) -> list[str]:
    init = prepared.settings.init
    if init.source is None:
        return []
    taken = "weights and optimizer state" if prepared.simulation.takes_over else "weights only"
    return [f"starting from {taken} of {init.process} in {init.source}"]


def _manifest(prepared: Prepared) -> dict[str, Any]:
    settings, simulation = prepared.settings, prepared.simulation
    return {
        "name": settings.name,
        "choices": prepared.choices,
        "lr": settings.lr,
        "steps": settings.steps,
        "warm_start": simulation.warm_start,
        "seed": settings.seed,
        "dtype": settings.dtype,
        "device": prepared.device,
        "num_parameters": simulation.problem.num_parameters,
        "data_description": prepared.data,
        "warning": prepared.warning,
    }


def _in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _command() -> dict[str, Any]:
    """The overrides of this run, and for a job of a sweep the command that runs it alone."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    # Where a run of a sweep went is no part of what it is.
    overrides = [text for text in hydra.overrides.task if not text.startswith("launcher=")]
    command: dict[str, Any] = {"overrides": overrides}
    if _in_sweep():
        folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        extra = [part for folder in folders for part in ("--config-dir", folder)]
        command["command_line"] = shlex.join(["cflow", "run", *extra, *overrides])
    return command


def _outcome(simulation: Simulation) -> dict[str, Any]:
    return {
        "counts": simulation.counts,
        "processes": simulation.statuses,
    }


def _is_node(value: Any) -> bool:
    from omegaconf import DictConfig

    return isinstance(value, DictConfig)


def one_sentence(error: BaseException) -> str:
    """What to tell a user of an error that was not foreseen."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return "the device ran out of memory; try data.microbatch=100, a smaller data.n or a smaller model"
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


# --- launching ------------------------------------------------------------------------------------


def launch(overrides: Sequence[str], *, config_dir: Path | None = None, multirun: bool = False) -> int:
    """What ``cflow run`` does.

    Parameters
    ----------
    overrides
        As on the command line.
    config_dir
        A folder of further configs.
    multirun
        Run every point of a sweep through Hydra's sweeper and launcher.

    Returns
    -------
    int
        Exit status: 0, 1 if a run failed, 130 if one was interrupted.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    from . import sweeps

    with configs.hydra_session(config_dir) as hydra:
        return (sweeps.launch if multirun else _launch_one)(hydra, list(overrides), config_dir)


def _launch_one(hydra: Any, overrides: list[str], config_dir: Path | None) -> int:
    from hydra.core.hydra_config import HydraConfig

    cfg = configs.composed(hydra, overrides, config_dir)
    if any(text.startswith("launcher") for text in overrides):
        raise UserError("launcher= is for sweeps, which may be of one run: cflow run -m launcher=…")
    HydraConfig.instance().set_config(cfg)
    folder = Path(cfg.hydra.run.dir)
    chosen = any(text.startswith("hydra.run.dir=") for text in overrides)
    if chosen and resuming.is_done(folder, configs.without_hydra(cfg)):
        print(f"{folder} holds this run already, done")
        return conclude(RunResult(folder, "done"))
    prepared = prepare(configs.without_hydra(cfg))
    if chosen:
        _made(folder, again=True)
    else:
        folder = _unused(folder)
    result: RunResult = hydra.run(
        config_name=configs.PRIMARY,
        task_function=lambda _: execute(prepared, folder, owns_process=True),
        overrides=[*overrides, f"hydra.run.dir={_quoted(folder)}"],
    ).return_value
    return conclude(result)


def run_into(composed: DictConfig, folder: Path, announce: Callable[[Path], None]) -> RunResult:
    """Run a composed config into a folder, unless it is there already; what ``cflow figures`` does with each run.

    Parameters
    ----------
    composed
        With Hydra's own node, from :func:`cflow_cli.config.composed`.
    folder
        The run folder.
    announce
        Called with the folder before the run starts.

    Raises
    ------
    UserError
        If the run cannot be prepared; nothing is written then.
    """
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(composed)
    cfg = configs.without_hydra(composed)
    if resuming.is_done(folder, cfg):
        return RunResult(folder, "done")
    prepared = prepare(cfg)
    _made(folder, again=True)
    announce(folder)
    return execute(prepared, folder, owns_process=True)


def conclude(result: RunResult) -> int:
    """Say how a run ended, and show its summary; the exit status."""
    if result.status == "failed":
        print(f"error: {result.reason}", file=sys.stderr)
    elif result.status == "interrupted":
        print(f"interrupted: {result.reason}; go on with: cflow resume {result.folder}", file=sys.stderr)
    _summary(result.folder)
    print(f"folder: {result.folder}")
    return result.exit_code


def _summary(folder: Path) -> None:
    from . import report

    try:
        report.main([str(folder)])
    except UserError as error:
        print(f"no summary: {error}", file=sys.stderr)


def sweep_job(cfg: DictConfig) -> RunResult:
    """One run of a sweep; what Hydra's launchers call, in this process or another.

    A failure is a status in the run's manifest and not an exception, so that the other runs go on and every
    launcher treats it alike. An interrupt ends the whole sweep where it runs in one process.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    configs.register_resolvers()
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if resuming.is_done(folder, cfg):
            return RunResult(folder, "done")
        result = execute(prepare(cfg), folder, owns_process=True)
    except Exception as error:
        if wants_traceback():
            raise
        if not (folder / "manifest.json").exists():
            writer = RunWriter(folder)
            writer.start(_command() | {"choices": _choices(cfg)}, OmegaConf.to_yaml(cfg, resolve=True))
            if not isinstance(error, UserError):
                (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            writer.finish("failed", reason=one_sentence(error))
        result = RunResult(folder, "failed", one_sentence(error))
    if result.status == "failed":
        print(f"error: {result.reason}", file=sys.stderr, flush=True)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result


def _unused(folder: Path) -> Path:
    """Make the folder, or the same with _2, _3, … appended if it exists, so that no other run can take it."""
    candidate, number = folder, 1
    while not _made(candidate, again=False):
        number += 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    return candidate


def _made(folder: Path, *, again: bool) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=again)
    except FileExistsError:
        if again:
            raise UserError(
                f"{folder} is a file; choose another hydra.run.dir (or hydra.sweep.dir)"
            ) from None
        return False
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; "
            "choose another hydra.run.dir (or hydra.sweep.dir)"
        ) from error
    return True


def _quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
