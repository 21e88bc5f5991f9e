"""The documentation does what it says: its files and commands are taken literally."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def sections(page):
    """Sections that have commands to run: title, files by name, commands."""
    for section in (ROOT / "docs" / page).read_text(encoding="utf-8").split("\n## ")[1:]:
        files = re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        commands = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        if files and commands:
            yield pytest.param(files, "".join(commands), id=section.splitlines()[0])


@pytest.mark.parametrize(("files", "commands"), list(sections("extending.md")))
def test_adding_your_own_goes_as_the_page_says(files, commands, tmp_path):
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    program = f'cflow() {{ "{sys.executable}" -c "import sys; from cflow_cli.cli import main; sys.exit(main())" "$@"; }}\n'
    # The package is found wherever it is installed, or else from the checkout.
    found = commands.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}")
    done = subprocess.run(
        ["bash", "-euc", program + found],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done" in done.stdout and ("padam" in done.stdout or "modified" in done.stdout)
