"""A result is the same in memory and on disk, and shows itself."""

import re
import shutil
import subprocess
import sys

import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from toys import network, start

from cflow_cli import Problem, Result, load
from cflow_cli.config.settings import CheckpointSettings
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.runs.resuming import Checkpoints
from cflow_cli.storage import RunWriter, checkpoints

STEPS = 12


def toy(**options):
    return Simulation(
        Problem.from_function(network, start()), optax.sgd(0.1), steps=STEPS, learning_rate=0.1, **options
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A simulation, and the folder it was written to as it went."""
    simulation, folder = toy(), tmp_path_factory.mktemp("runs") / "run"
    writer = RunWriter(folder, columns=simulation.columns, kinds=simulation.kinds)
    writer.start({"steps": STEPS, "lr": 0.1, "num_parameters": 86, "dtype": "float64", "seed": 0})
    for chunk in simulation:
        writer.write(chunk.metrics, chunk.eigenvalues)
    Checkpoints(simulation, writer, CheckpointSettings(every=None, keep=1)).save()
    writer.finish("done", counts=simulation.counts, processes=simulation.statuses)
    return Result.of(simulation), folder


def test_a_result_is_the_same_from_disk(both):
    here, folder = both
    there = load(folder)
    for name in ("metrics", "eigenvalues"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert len(ours) > 3 * STEPS
        pd.testing.assert_frame_equal(ours, theirs, check_categorical=False, check_dtype=False)
    assert here.weights.keys() == there.weights.keys() == {"discrete", "stable", "central"}
    for process, weights in here.weights.items():
        np.testing.assert_array_equal(weights, there.weights[process])
    assert here.counts == there.counts and here.statuses == there.statuses
    assert here.summary.values.keys() == there.summary.values.keys()
    differing = {name for name, value in here.summary.values.items() if value != there.summary.values[name]}
    assert differing <= {"run", "wall_seconds"}
    assert repr(there) == f"<Result of {folder}: done, {STEPS} steps of discrete, stable, central, midpoint>"


def test_a_notebook_shows_the_report_s_table_with_its_notes(both):
    result = toy(processes=["discrete"])
    for chunk in result:
        if chunk.step < STEPS:
            break
    html = Result.of(result)._repr_html_()
    assert (
        f"<li>simulation: interrupted after {chunk.step} of {STEPS} steps: left at step {chunk.step}</li>"
        in html
    )
    html = load(both[1])._repr_html_()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    heads = re.findall(r'<th[^>]*title="[^"]+">([^<]*)</th>', html)
    assert dict(zip(heads, cells, strict=True))["lr"] == "0.1"
    assert "color" not in html  # it is read on light and on dark


def test_a_notebook_shows_panel_and_film(both, tmp_path):
    result = load(both[1])
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    film = result.animate(frames=5)
    assert film._repr_html_().startswith('<img alt="film" src="data:image/gif;base64,')
    film.save(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as picture:
        assert picture.n_frames == 5
    empty = toy(processes=["discrete"])
    with pytest.raises(UserError, match="no steps to draw yet"):
        Result.of(empty).animate()


def test_what_cannot_be_loaded_is_one_sentence(both, tmp_path):
    folder = both[1].parent
    with pytest.raises(UserError, match=r"holds 1 of them: load one, such as load\('.*/run'\), or all"):
        load(folder)
    for path, why in (
        (tmp_path, "is not a run: it has no manifest.json"),
        (tmp_path / "none", "not an existing folder"),
    ):
        with pytest.raises(UserError, match=why):
            load(path)


def test_a_run_that_was_killed_at_once_is_loaded(tmp_path):
    RunWriter(tmp_path / "run").start(
        {"pid": 2**22 + 1, "steps": STEPS}
    )  # beyond the ids that Linux gives by default
    result = load(tmp_path / "run")
    assert result.run.status == "killed" and result.metrics.empty and result.weights == {}
    assert "killed: its process is gone, after 0 of 12 steps" in result._repr_html_()


def test_a_damaged_table_is_told(both, tmp_path):
    harmed = shutil.copytree(both[1], tmp_path / "harmed")
    next((harmed / "metrics").iterdir()).write_bytes(b"nothing")
    assert "is damaged" in load(harmed)._repr_html_()


def test_loading_and_the_table_need_neither_jax_nor_matplotlib(both):
    program = f"import sys, cflow_cli; cflow_cli.load({str(both[1])!r})._repr_html_(); sys.exit({{'jax', 'matplotlib'}} & {{*sys.modules}} != set())"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert checkpoints.paths(both[1])
