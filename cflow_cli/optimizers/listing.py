"""The optimizers of conf/optimizer as a table: state, threshold, and whether they have flows."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import config as configs
from ..errors import UserError
from .update_map import COUNTER, EVEN, ODD, UpdateMap

_SIZE = 4
# So many steps that every bias correction has died out, also for b2 = 0.99999.
_LATE = 10_000_000

HEADERS = ("optimizer", "state", "threshold", "flows", "description")
LEGEND = (
    "threshold: of lr·λ_max(P⁻¹H) at the edge of stability, for these hyperparameters; P divides the step (I where "
    "there is no second moment).\n"
    "state: odd leaves flip their sign with the gradient (momenta), even ones do not (second moments)."
)


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Parameters
    ----------
    name
        Its choice in the config group ``optimizer``.
    state
        Leaves of its state: name and parity under g → −g.
    threshold
        Value of η·λ_max(P⁻¹H) at the edge of stability; None where there is none.
    refusal
        None; or which flows it has not, and why.
    summary
        The first comment of its file.
    """

    name: str
    state: str
    threshold: float | None
    refusal: str | None
    summary: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of :data:`HEADERS`."""
        threshold = "–" if self.threshold is None else f"{self.threshold:.6g}"
        flows = "yes" if self.refusal is None else self.refusal
        return self.name, self.state, threshold, flows, self.summary


def threshold(update: UpdateMap) -> float:
    """Value of η·λ_max(P⁻¹H) at the edge of stability of an optimizer built with η = 1: 2/D at P = I.

    Every second moment is one and the step count so large that bias corrections have died out. A constant unit
    gradient would bring most optimizers there, but not AdaBelief, whose ν it sends to zero, or AdaGrad, whose sum of
    squares grows for ever.

    Parameters
    ----------
    update
        Without refusal.
    """
    state = update.init(jnp.zeros(update.size, update.dtype))
    filler = {ODD: 0, EVEN: 1, COUNTER: _LATE}
    leaves = [jnp.full_like(x, filler[p]) for x, p in zip(jax.tree.leaves(state), update.parity, strict=True)]
    d, _ = jax.jit(
        lambda leaves: update.linear_response(jax.tree.unflatten(jax.tree.structure(state), leaves))
    )(leaves)
    return float(2 / d[0])


def rows(words: Sequence[str] = (), config_dir: Path | None = None) -> list[Row]:
    """One row per optimizer.

    Parameters
    ----------
    words
        Names of optimizers (all when there are none) and overrides such as ``optimizer.b1=0.95``, which go to every
        optimizer that has the key.
    config_dir
        A folder of further configs.

    Raises
    ------
    UserError
        If a name is unknown, or no optimizer asked for has the key of an override.
    """
    available = configs.groups(config_dir)["optimizer"]
    names = [
        n for w in words if "=" not in w or w.startswith("optimizer=") for n in w.split("=")[-1].split(",")
    ]
    overrides = [w for w in words if "=" in w and not w.startswith("optimizer=")]
    for name in names:
        if name not in available:
            hint = configs.did_you_mean(name, available)
            raise UserError(f"unknown optimizer {name!r}{hint}; choose from {', '.join(available)}")
    names = names or list(available)
    keys = {name: configs.read_choice(available[name], "optimizer").keys for name in names}
    everyones = set(configs.top_level())
    for override in overrides:
        key = override.partition("=")[0]
        known = everyones.union(*keys.values())
        if key not in known:
            has = ", ".join(sorted(k for k in known - everyones if k != "optimizer.learning_rate"))
            raise UserError(
                f"no optimizer listed has the key {key!r}{configs.did_you_mean(key, known)}; "
                f"they have {has or 'no keys but the learning rate, which leaves the threshold alone'}"
            )
    found = []
    with configs.hydra_session(config_dir) as hydra:
        for name in names:
            fitting = [o for o in overrides if o.partition("=")[0] in everyones | set(keys[name])]
            cfg = configs.composed(hydra, [f"optimizer={name}", *fitting], config_dir)
            node = configs.without_hydra(cfg).optimizer
            _unit_rates(node)
            found.append(_row(name, configs.build(node, "optimizer"), available[name]))
    return found


def _unit_rates(node: Any) -> None:
    """Set every learning rate to one: the threshold does not depend on it, and a schedule would end at zero."""
    from omegaconf import DictConfig

    for key in node:
        if key == "learning_rate":
            node[key] = 1.0
        elif isinstance(node[key], DictConfig):
            _unit_rates(node[key])


def _row(name: str, optimizer: optax.GradientTransformation, path: Path) -> Row:
    w = jnp.zeros(_SIZE)
    with warnings.catch_warnings():
        # Probing a discontinuous optimizer makes optax or JAX warn; the refusal says it better.
        warnings.simplefilter("ignore")
        update = UpdateMap.of(optimizer, w)
    paths = jax.tree_util.tree_flatten_with_path(jax.eval_shape(optimizer.init, w))[0]
    leaves = [(_name(p), parity) for (p, _), parity in zip(paths, update.parity, strict=True)]
    state = ", ".join(dict.fromkeys(n if p == COUNTER else f"{n} ({p})" for n, p in leaves)) or "none"
    value = None if update.refusal else threshold(update)
    refusal = f"no: {update.refusal}" if update.refusal else None
    if not update.stiffens:
        refusal = "stable and rod only: a small oscillation shrinks its second moment"
    return Row(name, state, value, refusal, configs.read_choice(path, "optimizer").summary)


def _name(path: Sequence[Any]) -> str:
    named = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    return named[-1] if named else "state"


def print_table(found: Sequence[Row]) -> None:
    """Print the rows so that they fit the width of the terminal, and what the columns mean."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a file or a pipe the table is as wide as it needs to be.
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for header in HEADERS:
        right = header == "threshold"
        table.add_column(
            header,
            justify="right" if right else "left",
            no_wrap=right or header == "optimizer",
            overflow="fold",
        )
    for row in found:
        table.add_row(*(Text(cell) for cell in row.cells()))
    console.print(table)
    console.print(Text(LEGEND), soft_wrap=True)


def render(found: Sequence[Row], form: str) -> str:
    """The rows as text: ``md`` or ``csv``."""
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEADERS)
        for row in found:
            value = "" if row.threshold is None else repr(row.threshold)
            writer.writerow([*row.cells()[:2], value, *row.cells()[3:]])
        return out.getvalue()
    lines = [HEADERS, tuple("---:" if h == "threshold" else "---" for h in HEADERS)]
    lines += [row.cells() for row in found]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )
