"""The documentation does what it says: its files and commands are taken literally."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import optax
import pytest
from nbclient import NotebookClient
from toys import columns, network, start

from cflow_cli import Problem, simulate

ROOT = Path(__file__).resolve().parents[1]


WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "cflow_cli").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_say(module):
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted and not outcome.failed


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
    assert "done" in done.stdout and any(
        own in done.stdout
        for own in ("padam", "focal", "inverse_root", "modified", "cosine_to_start", '"panel": "outputs')
    )


def test_the_flow_of_the_page_follows_the_optimizer_to_second_order_under_a_schedule(tmp_path, monkeypatch):
    """Its distance falls like the square of the learning rate, that of gradient flow like the learning rate."""
    files = dict(file for section in sections("extending.md") for file in section.values[0])
    (tmp_path / "my_flows.py").write_text(files["my_flows.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    modified = importlib.import_module("my_flows").Modified

    def distances(lr):
        # It alternates: the rate of the step before is no substitute for that of the step to come.
        schedule = lambda t: jnp.where(t % 2 == 0, lr, lr / 3)  # noqa: E731
        steps, substeps = round(2 / lr), round(2 / lr)
        result = simulate(
            Problem.from_function(network, start()),
            optax.sgd(schedule),
            processes=["discrete", modified(substeps=substeps)],
            steps=steps,
            kick=0.0,
            measurements=(),
        )
        (sharpness,) = columns(result, "modified", "effective_sharpness")
        assert sharpness.max() < 1.5

        def euler(i, w):
            return w - schedule(i // substeps) / substeps * jax.grad(network)(w)

        plain = jax.lax.fori_loop(0, steps * substeps, euler, start())
        real, flow = result.weights["discrete"], result.weights["modified"]
        return [float(jnp.linalg.norm(path - real)) for path in (plain, flow)]

    coarse, fine = (np.asarray(distances(lr)) for lr in (0.1, 0.05))
    plain, second = np.log2(coarse / fine)
    assert 0.8 < plain < 1.2
    assert second > 1.8
    assert fine[1] < 0.1 * fine[0]


TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
# The longer one, of seconds that go into compiling, is left to `make check`.
QUICK_TUTORIAL = "edge"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=() if p.stem == QUICK_TUTORIAL else pytest.mark.slow)
        for p in TUTORIALS
    ],
)
def test_a_tutorial_goes_as_it_is_shown(path, tmp_path):
    """Cell by cell, in a kernel of its own; what it shows is of the kinds that its page shows."""
    shown = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 500_000
    kernel = {"metadata": {"path": str(tmp_path)}}
    gone = NotebookClient(deepcopy(shown), timeout=600, kernel_name="python3", resources=kernel).execute()

    def kinds(book):
        outputs = [
            [o for o in cell.outputs if o.get("name") != "stderr"] for cell in book.cells if "outputs" in cell
        ]
        return [{kind for o in of_cell for kind in o.get("data", [o.output_type])} for of_cell in outputs]

    assert kinds(gone) == kinds(shown)
    assert {"text/html", "image/png"} <= set().union(*kinds(gone))


@pytest.mark.slow
def test_the_pictures_of_the_concepts_can_be_drawn_again(tmp_path):
    command = [sys.executable, str(ROOT / "docs" / "pictures.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    shown = re.findall(
        r"assets/(concepts-\w+\.svg)", (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    )
    assert len(shown) >= 5 and sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
