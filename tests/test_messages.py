"""Every key that a message, a help text or the documentation names can be set."""

import ast
import re
from pathlib import Path

import pytest

from cflow_cli.config import tree
from cflow_cli.config.path_settings import PATH_SETTINGS

ROOT = Path(__file__).resolve().parents[1]
GROUPS = tree.groups()
# Hydra's own, and nodes that take any key: SLURM's options, and those of a sweeper.
HYDRAS = {
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.sweeper.max_batch_size",
    "hydra.job.num",
    "hydra.mode",
    "hydra.launcher",
    "hydra/sweeper",
}
OPEN = ("launcher.additional_parameters.", "hydra.sweeper.")
# What stands before = without being a key: placeholders, options of cflow figures and kernel, arguments in Python; and
# names of files.
WORDS = {"key", "group", "group.key", "size", "opt", "x", "y", "bytes", "at", "kernel.parquet", "kernel.npz"}
# Choices that a user is to make.
OWN = {"mine", "mymodel"}


def keys():
    found = set(tree.top_level())
    for group, choices in GROUPS.items():
        for path in choices.values():
            found |= set(tree.read_choice(path, group).keys)
    return found


# Of a run, and of cflow path.
KEYS = keys() | set(PATH_SETTINGS)
HEADS = {key.split(".")[0] for key in KEYS if "." in key} | set(GROUPS) | {"hydra", "process"}


def exists(key):
    return (
        key in KEYS | set(GROUPS) | HYDRAS
        or any(known.startswith(key + ".") for known in KEYS)
        or key.startswith(OPEN)
    )


def unknown_in(text):
    """Keys and choices that a text names and that there are not."""
    # "eigs: need … got block=4" means eigs.block.
    node = re.match(r"(\w+): ", text)
    for name, equals, value in re.findall(
        r"(?<![\w./$*-])([a-z_]\w*(?:[./]\w+)*)(?:(=)(?!=)([a-z_]\w*)?)?", text
    ):
        if equals and name not in WORDS:
            if not exists(name) and not (node and exists(f"{node[1]}.{name}")):
                yield f"{name}="
            if name in GROUPS and value and value not in {*GROUPS[name], *OWN}:
                yield f"{name}={value}"
        elif "." in name and name.split(".")[0] in HEADS and name not in WORDS and not exists(name):
            yield name


def strings(source):
    """Texts of a module, f-strings with … for what is filled in; without docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    skip = {id(part) for node in joined for part in ast.walk(node) if part is not node}
    skip |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in joined:
        if id(node) not in skip:
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node.value


def is_prose(text):
    """Whether a text is for readers, and not a shell's script or a page's markup."""
    return not text.startswith("#") and not re.search(r"</?\w+|style=|class=", text)


def test_the_finder_finds():
    assert list(unknown_in("try process.substeps=2, lrr=3 or model=mpl")) == [
        "process.substeps=",
        "lrr=",
        "model=mpl",
    ]
    assert not list(unknown_in("raise eigs.max_tracked, or lower lr, as in lr=0.1 model=mlp"))


@pytest.mark.parametrize("path", sorted((ROOT / "cflow_cli").rglob("*.py")), ids=lambda p: p.name)
def test_keys_in_messages_exist(path):
    for text in filter(is_prose, strings(path.read_text(encoding="utf-8"))):
        assert not list(unknown_in(text)), text


def test_keys_in_comments_of_configs_exist():
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not list(unknown_in(line.partition("# ")[2])), f"{path}: {line}"


PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.md")),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_in_documented_commands_exist(path):
    text = path.read_text(encoding="utf-8")
    for command in re.findall(r"\bcflow (?:run|resume)\b[^`\n]*", text):
        if "--config-dir" not in command:  # there the keys are the user's own
            named = [key for key in re.findall(r"[ '][+~]*([\w./]+)=", command) if key not in WORDS]
            assert all(exists(key) for key in named), command
