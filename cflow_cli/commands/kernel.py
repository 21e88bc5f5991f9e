"""``cflow kernel``: what its words mean beyond those of ``cflow run``, and its help."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands import run
from cflow_cli.config import tree
from cflow_cli.errors import UserError
from cflow_cli.runs import places
from cflow_cli.storage import manifests

_EPILOG = """\
examples:
  cflow kernel model=fc model.depth=3 model.parametrisation=ntk
  cflow kernel model=plain_cnn model.parametrisation=ntk data=cifar10 data.pool=4 data.n=160 data.n_test=320
  cflow kernel model=plain_cnn model.readout=flatten data.n=400 dtype=float64
  cflow kernel kernel.kinds=[ntk,empirical] kernel.seeds=5 model.parametrisation=ntk 'model.widths=[256,256]'
  cflow kernel -m data.n=50,100,200 model.activation=relu,gelu
  cflow kernel at=outputs/RUN@central
"""
# What of another run says how it went, not what it trained.
_OF_THE_RUN = (
    "hydra.",
    "init.",
    "name",
    "tags",
    "notes",
    "processes",
    "measurements",
    "logger",
    "checkpoint",
    "objective",
)


def main(argv: Sequence[str]) -> int:
    """Run ``cflow kernel``; the exit status is that of ``cflow run``.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    return run.start(argv, "cflow kernel", _help, _complete)


def _complete(overrides: list[str]) -> list[str]:
    """The overrides of a run that are meant; ``at=RUN`` brings those of that run, and where it has come to."""
    places = [text.removeprefix("at=") for text in overrides if text.startswith("at=")]
    if len(places) > 1:
        raise UserError("at= names one run: cflow kernel at=outputs/RUN@central")
    own = [text for text in overrides if not text.startswith("at=")]
    before = ["kernel=default"]
    if not any(text.startswith("name=") for text in own):
        before.append("name=kernel")
    for place in places:
        before += _overrides_of(place)
        if not any(text.startswith("kernel.kinds=") for text in own):
            before.append("kernel.kinds=[empirical]")
    return [*before, *own]


def _overrides_of(place: str) -> list[str]:
    """RUN, RUN@PROCESS or RUN@PROCESS@STEP as overrides: those of that run, and ``init`` at the place."""
    folder, process, step = places.parse(place)
    manifest = manifests.read(folder)
    kept = [text for text in manifest.get("overrides") or [] if not text.lstrip("+~").startswith(_OF_THE_RUN)]
    where = {"init.process": process, "init.step": step}
    return [
        *kept,
        f"init.from={folder}",
        *(f"{key}={value}" for key, value in where.items() if value is not None),
    ]


def _help(config_dir: Path | None) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    groups = tree.groups(config_dir)
    shown = [run.entry(group, ", ".join(groups[group]), width) for group in ("model", "data")]
    keys = [
        run.entry(f"kernel.{entry.key}=", f"{entry.comment} ({entry.text.replace(' ', '')})", width)
        for entry in tree.read_entries(tree.conf_dir() / "kernel" / "default.yaml")
    ]
    place = "of the network that a run has reached: RUN, RUN@PROCESS or RUN@PROCESS@STEP"
    return "\n".join(
        [
            "usage: cflow kernel [-m] [--config-dir DIR] [--cfg job] [key=value …]",
            "",
            "Kernels of infinitely wide networks, exactly: NNGP and tangent kernel at every depth, what regression",
            "with them predicts, their spectrum, and the learning rate above which gradient descent diverges.",
            "",
            "choices:",
            *shown,
            "",
            "overrides:",
            *keys,
            run.entry("at=", place, width),
            run.entry(
                "model.*, data.*, …", "dtype, device, seed, checkpoint and so on as of cflow run", width
            ),
            "",
            "options: those of cflow run",
            "",
            _EPILOG.rstrip(),
        ]
    )
