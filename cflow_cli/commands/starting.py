"""What ``cflow run`` and ``cflow resume`` ask of Hydra and of the rooms below.

Apart from their options, because Hydra and pandas take a second to load, for which help must not wait.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cflow_cli.config import composing, tree
from cflow_cli.errors import UserError
from cflow_cli.report import ending, objective
from cflow_cli.runs import launching, sweeping
from cflow_cli.runs.run import RunResult
from cflow_cli.runs.sweeping import SweepResult

REPORTER = launching.Reporter(objective.column, objective.value, ending.describe)


def run(overrides: Sequence[str], config_dir: Path | None) -> RunResult:
    """Do what ``cflow run`` does."""
    return launching.launch(overrides, config_dir, REPORTER)


def sweep(overrides: Sequence[str], config_dir: Path | None) -> SweepResult | None:
    """Do what ``cflow run -m`` does."""
    return sweeping.launch(overrides, config_dir, REPORTER)


def resume(
    folder: Path, overrides: Sequence[str], config_dir: Path | None, *, trust: bool
) -> RunResult | None:
    """Do what ``cflow resume RUN`` does."""
    return launching.resume(folder, overrides, ending.describe, config_dir, trust=trust)


def resume_sweep(
    folder: Path, overrides: Sequence[str], config_dir: Path | None, *, trust: bool
) -> SweepResult | None:
    """Do what ``cflow resume SWEEP`` does."""
    return sweeping.resume(folder, overrides, REPORTER, config_dir, trust=trust)


def show(args: argparse.Namespace, config_dir: Path | None) -> None:
    """Print what was asked for with ``--info`` or ``--cfg``, of a sweep for each of its runs."""
    overrides = composing.paths_as_text(args.overrides, multirun=args.multirun)
    with composing.hydra_session(config_dir) as hydra:
        cfg = composing.composed(hydra, overrides, config_dir, multirun=args.multirun)
        if args.info is not None:
            # Hydra prints it through a logger on which it sets up a handler for everything.
            root = logging.getLogger()
            handlers, level = root.handlers[:], root.level
            hydra.show_info(args.info, tree.PRIMARY, composing.for_hydra(overrides))
            root.handlers[:] = handlers
            root.setLevel(level)
            return
        if not args.multirun or args.cfg == "hydra":
            _print_config(hydra, cfg, args)
            return
        _, axes, jobs, _ = sweeping.plan(hydra, overrides, config_dir, REPORTER)
        if jobs is None:
            raise UserError(
                "this sweeper chooses one point after the other, so there is no list of its runs; leave out -m, and "
                "give one value of each key, to see the config of one"
            )
        print(f"# {sweeping.describe(axes, jobs)}")
        for job in jobs:
            point = [text for text in job.overrides if text.partition("=")[0] in axes]
            print(
                f"--- # run {job.number + 1} of {len(jobs)}, in {job.folder}/: {' '.join(point)}", flush=True
            )
            _print_config(hydra, composing.composed(hydra, job.overrides, config_dir), args)


def _print_config(hydra: Hydra, cfg: DictConfig, args: argparse.Namespace) -> None:
    """A composed config, or one node of it, as YAML, as Hydra prints it."""
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_readonly(cfg.hydra, None)
    cfg = hydra.get_sanitized_cfg(cfg, args.cfg)
    package = None if args.package == "_global_" else args.package
    node = cfg if package is None else OmegaConf.select(cfg, package)
    if node is None:
        raise UserError(f"--package: the config has no {package}")
    if not OmegaConf.is_config(node):
        print(node)
        return
    if package is not None:
        print(f"# @package {package}")
    if args.resolve:
        OmegaConf.resolve(node)
    sys.stdout.write(OmegaConf.to_yaml(node))
