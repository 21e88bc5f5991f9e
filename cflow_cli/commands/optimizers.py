"""``cflow optimizers``: the optimizers of conf/optimizer as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_cli.commands.parsing import Parser
from cflow_cli.config import tree
from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.report import tables
from cflow_cli.report.tables import Column, Table

if TYPE_CHECKING:
    from cflow_cli.optimizers.listing import Row

_THRESHOLD = (
    "of lr·λ_max(P⁻¹H) at the edge of stability, for these hyperparameters; P divides the step (I where "
    "there is no second moment)."
)
_STATE = "odd leaves flip their sign with the gradient (momenta), even ones do not (second moments)."
_COLUMNS = (
    Column("optimizer", "optimizer", "text", "choice in the config group optimizer"),
    Column("state", "state", "text", _STATE, wraps=True),
    Column("threshold", "threshold", "number", _THRESHOLD),
    Column("flows", "flows", "text", "yes, or which flows there are not, and why", wraps=True),
    Column("description", "description", "text", "first comment of its config file", wraps=True),
)
LEGEND = f"threshold: {_THRESHOLD}\nstate: {_STATE}"


def words(before: Sequence[str]) -> list[str]:
    """What a word of its command line can be: an optimizer, or a key of those that were named before."""
    available = tree.groups()["optimizer"]
    named = [available[word] for word in before if word in available]
    keys = dict.fromkeys(
        key for path in named for key in tree.read_choice(path, "optimizer").keys if "." in key
    )
    return [*available, *(f"{key}=" for key in keys if key != "optimizer.learning_rate")]


def parser() -> Parser:
    """Build the parser of ``cflow optimizers``."""
    out = Parser(
        prog="cflow optimizers",
        description="List the optimizers: their state, their edge of stability, and whether they have flows.",
        epilog="examples: cflow optimizers; cflow optimizers adam nadam optimizer.b1=0.95; "
        "cflow optimizers --format md",
    )
    out.add_argument(
        "words",
        metavar="NAME|key=value",
        nargs="*",
        help="optimizers (all by default), and overrides for them",
    )
    out.add_argument("--format", choices=tables.FORMATS, default="table", help="default: table")
    out.add_argument("-cd", "--config-dir", type=Path, help="a folder of your own configs")
    return out


def main(argv: Sequence[str]) -> int:
    """Run ``cflow optimizers``.

    Raises
    ------
    UserError
        For an optimizer or a key that there is not.
    """
    args = parser().parse_intermixed_args(argv)
    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    overrides = choose(args.words, config_dir)
    # Rich takes a tenth of a second to load, for which help must not wait.
    from cflow_cli.report import terminal

    with terminal.following(list(overrides), "probing") as names:
        _set_up_jax()
        rows = list(describe(names, overrides, config_dir))
    table = to_table(rows, complete=args.format in tables.FOR_PROGRAMS)
    if args.format != "table":
        sys.stdout.write(tables.render(table, args.format))
        return 0
    console = terminal.make_console()
    terminal.print_table(table, console)
    console.print(LEGEND, markup=False, soft_wrap=True)
    return 0


def to_table(rows: Sequence[Row], *, complete: bool) -> Table:
    """Arrange the rows as a table.

    Parameters
    ----------
    rows
        From :func:`describe`.
    complete
        Thresholds in full precision, for a program; otherwise in six digits.
    """
    values = []
    for row in rows:
        threshold: float | str | None = row.threshold
        if row.threshold is not None and not complete:
            threshold = f"{row.threshold:.6g}"
        values.append([row.name, row.state, threshold, row.refusal or "yes", row.summary])
    return Table(_COLUMNS, values)


def _set_up_jax() -> None:
    if "jax" not in sys.modules:
        # Vectors of four numbers: a GPU's runtime would take longer to start than all of it.
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax  # takes a second to load, for which help must not wait

    from cflow_cli.computing import keep_programs

    jax.config.update("jax_enable_x64", True)
    keep_programs(0)


def choose(words: Sequence[str] = (), config_dir: Path | None = None) -> dict[str, list[str]]:
    """The optimizers that are meant, and the overrides of each.

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
    available = tree.groups(config_dir)["optimizer"]
    names = [
        n for w in words if "=" not in w or w.startswith("optimizer=") for n in w.split("=")[-1].split(",")
    ]
    overrides = [w for w in words if "=" in w and not w.startswith("optimizer=")]
    for name in names:
        if name not in available:
            hint = did_you_mean(name, available)
            raise UserError(f"unknown optimizer {name!r}{hint}; choose from {', '.join(available)}")
    chosen = {name: tree.read_choice(available[name], "optimizer") for name in names or available}
    everyones = set(tree.top_level())
    keys = {name: everyones.union(choice.keys) for name, choice in chosen.items()}
    _check_overrides(overrides, keys, everyones)
    return {
        name: [text for text in overrides if text.partition("=")[0] in known] for name, known in keys.items()
    }


def describe(
    names: Iterable[str], overrides: Mapping[str, Sequence[str]], config_dir: Path | None = None
) -> Iterator[Row]:
    """Probe optimizers, one after the other: the row of each as it is asked for.

    Parameters
    ----------
    names
        Of those to probe.
    overrides
        From :func:`choose`.
    config_dir
        A folder of further configs.

    Raises
    ------
    UserError
        If an override has a value that is not allowed.
    """
    # Hydra and JAX take seconds to load, for which neither help nor the first words must wait.
    from cflow_cli.config import building, composing
    from cflow_cli.optimizers import listing

    files = tree.groups(config_dir)["optimizer"]
    with composing.hydra_session(config_dir) as hydra:
        for name in names:
            cfg = composing.composed(hydra, [f"optimizer={name}", *overrides[name]], config_dir)
            node = composing.without_hydra(cfg).optimizer
            _set_unit_rates(node)
            summary = tree.read_choice(files[name], "optimizer").summary
            yield listing.describe(name, building.build(node, "optimizer"), summary)


def _check_overrides(overrides: Sequence[str], keys: Mapping[str, set[str]], everyones: set[str]) -> None:
    """Refuse an override whose key none of the optimizers has."""
    known = everyones.union(*keys.values())
    for override in overrides:
        key = override.partition("=")[0]
        if key not in known:
            has = ", ".join(sorted(k for k in known - everyones if k != "optimizer.learning_rate"))
            raise UserError(
                f"no optimizer listed has the key {key!r}{did_you_mean(key, known)}; "
                f"they have {has or 'no keys but the learning rate, which leaves the threshold alone'}"
            )


def _set_unit_rates(node: Any) -> None:
    """Set every learning rate to one: the threshold does not depend on it, and a schedule would end at zero."""
    for key in node:
        if key == "learning_rate":
            node[key] = 1.0
        elif hasattr(node[key], "keys"):
            _set_unit_rates(node[key])
