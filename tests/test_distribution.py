"""What is published: its name, its two files and their page, and the command installed from them."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from cflow_cli import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = PROJECT["name"]
TINY = ["data.n=20", "data.n_test=10", "model.widths=[4]", "processes=[discrete]", "steps=4"]


def run(*words, cwd, **env):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "REPOSITORY_URL": ""} | env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder, source=ROOT, **env):
    """The wheel and the source distribution, made without fetching anything."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=source, **env)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


def metadata(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(files.read(name).decode("utf-8"))


# --- the name --------------------------------------------------------------------------------------


def texts():
    """Everything that a user may read, or be told."""
    for folder, endings in (
        (ROOT, ("*.md", "*.toml", "*.yml", "*.cff", "Makefile")),
        (ROOT / ".github", ("**/*.yml",)),
        *((ROOT / name, ("**/*.py", "**/*.md")) for name in ("cflow_cli", "experiments", "docs", "benchmarks")),
        *((ROOT / name, ("**/*.py", "**/*.yaml", "**/*.sh")) for name in ("conf", "hydra_plugins", "tests", "scripts")),
    ):  # fmt: skip
        for ending in endings:
            for path in sorted(folder.glob(ending)):
                yield path, path.read_text(encoding="utf-8")


def test_everything_says_what_to_install_by_the_name_it_is_published_under():
    other = re.compile(r"pip install [^\n`#]*?(?<![\w./-])cflow(?![\w-])|(?<![\w-])cflow\[")
    extra = re.compile(re.escape(NAME) + r"\[([\w,]+)\]")
    assert all(other.search(text.format("cflow")) for text in ("'{}[cuda]'", "pip install -U {}\n"))
    named = set()
    for path, text in texts():
        assert not other.search(text), f"{path}: {other.search(text)[0]}"
        named |= {name for found in extra.findall(text) for name in found.split(",")}
    assert {"cuda", "slurm", "ray"} <= named <= set(PROJECT["optional-dependencies"])


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation


# --- the two files ---------------------------------------------------------------------------------


def test_the_wheel_and_the_source_distribution_are_as_an_index_wants_them(built):
    wheel, archive = built
    assert wheel.name == f"cflow_cli-{__version__}-py3-none-any.whl"
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, archive, cwd=ROOT)
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=ROOT)
    with zipfile.ZipFile(wheel) as files:
        inside = set(files.namelist())
    for folder, place in (("conf", "cflow_cli/conf"), ("experiments", "cflow_cli/experiments")):
        wanted = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file()}
        wanted = {path for path in wanted if "__pycache__" not in path.parts}
        assert wanted and {f"{place}/{path.as_posix()}" for path in wanted} <= inside
    assert {"cflow_cli/py.typed", "hydra_plugins/cflow_submitit.py"} <= inside


def test_links_of_the_page_lead_to_the_repository_or_are_left_out(built, tmp_path):
    """A wheel made from the published sources has the page and the addresses of those sources."""
    plain = metadata(built[0])
    page = plain.get_payload()
    assert page.startswith("# cflow\n") and "](docs/" not in page and "![" not in page
    assert "docs/accuracy.md" in page and "Project-URL" not in plain

    _, archive = build(tmp_path / "dist", REPOSITORY_URL="https://example.org/them/it")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    again, _ = build(tmp_path / "again", tmp_path / archive.name.removesuffix(".tar.gz"))
    published = metadata(again)
    page, at = published.get_payload(), f"v{__version__}"
    assert f"](https://example.org/them/it/raw/{at}/docs/assets/default-run.png)" in page
    assert f"](https://example.org/them/it/blob/{at}/docs/accuracy.md)" in page
    assert all(re.match(r"https://|#", link) for link in re.findall(r"\]\(([^)]+)\)", page))
    assert "Repository, https://example.org/them/it" in published.get_all("Project-URL")


# --- installed -------------------------------------------------------------------------------------


def try_out(python, folder):
    """The command as installed, away from the checkout: help, a config, a run, the figures."""
    cflow = Path(python).with_name("cflow")
    where = run(python, "-c", "import cflow_cli; print(cflow_cli.__file__)", cwd=folder).strip()
    assert not Path(where).is_relative_to(ROOT)
    assert "usage: cflow COMMAND" in run(cflow, "--help", cwd=folder)
    assert run(cflow, "--version", cwd=folder) == f"cflow {__version__}\n"
    assert "lr: 0.2" in run(cflow, "run", "--cfg", "job", cwd=folder)
    assert "  rank " in run(cflow, "figures", cwd=folder)
    return cflow


def test_the_wheel_works_away_from_the_checkout(built, tmp_path):
    """In an environment of its own, which borrows what the package depends on from this one."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built[0], cwd=tmp_path)
    (packages,) = environment.glob("lib/python*/site-packages")
    # The packages only: the .pth files beside them, which lead to the checkout, are not followed.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    try_out(python, tmp_path)


@pytest.mark.slow
def test_an_empty_environment_needs_nothing_but_the_wheel(built, tmp_path):
    """Everything is fetched that it says it depends on; also a run, and typing as a user's mypy sees it."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", built[0], cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)
    cflow = try_out(python, tmp_path)
    assert "done" in run(cflow, "run", *TINY, "hydra.run.dir=run", cwd=tmp_path)
    assert "final" in run(cflow, "report", "run", "--format", "csv", cwd=tmp_path)
