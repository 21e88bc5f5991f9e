"""Pages that are made from the code when the site is built, so that they cannot tell anything else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cflow_cli import config, records  # noqa: E402

_GROUPS = {
    "model": "The network. Defaults are small; the file's comment has the paper's size.",
    "data": "The training examples, and the test split where there is one.",
    "loss": "What is minimised.",
    "optimizer": "Any optax optimizer; its keys are optax's own arguments. Each brings its default `lr`.",
    "schedule": "The learning rate over time; `lr` is its peak.",
    "processes": "What is measured or stepped beside the optimizer: `processes=[discrete,central]`.",
    "eigs": "How the top of the spectrum is followed.",
    "launcher": "Where the runs of a sweep go: `cflow run -m launcher=slurm …`.",
    "experiment": "Presets of several keys: `cflow run experiment=quick`.",
}


def on_files(files: Files, config) -> Files:
    """Add the generated pages."""
    for name, text in (
        ("index.md", index()),
        ("configuration.md", configuration()),
        ("columns.md", columns()),
    ):
        files.append(File.generated(config, name, content=text))
    return files


def index() -> str:
    """The README; its links into docs/ lead to the pages, and those to other files of the repository to nothing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("(docs/", "(")
    return re.sub(r"\[([^\]]+)\]\((?:CHANGELOG\.md|CITATION\.cff|LICENSE)\)", r"\1", text)


def configuration() -> str:
    """Every key of every config file with its default and comment."""
    lines = [
        "# Configuration",
        "",
        "Every key can be set on the command line, `cflow run lr=0.05 model.widths=[64,64]`; `cflow run --cfg job` "
        "shows the whole. This page is made from the files in `conf/`.",
        "",
        "## Top level",
        "",
        *_table(config.conf_dir() / "config.yaml", skip=("defaults", "hydra")),
    ]
    for group, choices in config.groups().items():
        lines += ["", f"## {group}", "", _GROUPS[group]]
        for choice, path in choices.items():
            summary = config.read_choice(path, group).summary
            lines += ["", f"### {group}={choice}", "", summary, "", *_table(path, skip=("defaults",))]
    return "\n".join(lines) + "\n"


def _table(path: Path, skip: tuple[str, ...]) -> list[str]:
    text = path.read_text(encoding="utf-8")
    source = text.splitlines()
    rows = [
        f"| `{key}` | `{_plain(text, value)}` | {_comment(source[line])} |"
        for key, value, line in _leaves(yaml.compose(text))
        if key.split(".")[0] not in skip
        or (key.startswith("hydra.launcher") and path.parent.name == "launcher")
    ]
    return ["| key | default | |", "|---|---|---|", *rows] if rows else []


def _leaves(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, yaml.Node, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "_target_":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value, key.start_mark.line


def _plain(text: str, node: yaml.Node) -> str:
    return re.sub(r"\s+", " ", text[node.start_mark.index : node.end_mark.index]).strip().replace("|", "\\|")


def _comment(line: str) -> str:
    return line.partition(" # ")[2].strip().replace("|", "\\|")


def columns() -> str:
    """Columns of the two tables and the statuses."""
    lines = [
        "# Tables and columns",
        "",
        "A run folder has two tables, each a folder of Parquet parts that together are the table. null means not "
        "measured. The same words are in the files: `pyarrow.parquet.read_schema(part).field(name).metadata`.",
    ]
    for name, table in (("metrics", records.METRICS), ("eigenvalues", records.EIGENVALUES)):
        lines += ["", f"## {name}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |".replace("||", "\\|\\|") for c in table
        ]
    lines += ["", "## Kinds of eigenvalues", "", "| kind | value |", "|---|---|"]
    lines += [f"| `{kind}` | {text} |" for kind, text in records.KINDS.items()]
    lines += ["", "## Statuses of a process", "", "| status | stops it | |", "|---|---|---|"]
    lines += [f"| `{s.label}` | {'yes' if s.stops else 'no'} | {s.sentence} |" for s in records.Status]
    return "\n".join(lines) + "\n"
