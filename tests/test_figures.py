"""``cflow figures``, as installed: runs are shared and made once, claims are checked, a false one fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_cli import config as configs
from cflow_cli.errors import UserError
from cflow_cli.figures import experiment as experiments
from cflow_cli.figures.claims import Claim, holds
from cflow_cli.figures.command import main
from cflow_cli.figures.experiment import SIZES, experiments_dir

NAMES = sorted(path.parent.name for path in experiments_dir().glob("*/figure.py"))

OWN = '''
"""The loss of a short run falls."""
from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import finish, panels, raw, series

CAPTION = "Training loss."
ANIMATED = True


def runs(size):
    return {"run": ["experiment=quick", "processes=[discrete]", "steps=12"]}


def draw(runs):
    figure, (ax,) = panels(1, 1)
    raw(ax, series(runs["run"], "discrete", "loss"))
    return finish(figure)


def claims(runs):
    loss = series(runs["run"], "discrete", "loss")
    yield Claim("last loss over first", loss.iloc[-1] / loss.iloc[0], high=HIGH)
'''


def own_figure(folder: Path, high: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "figure.py").write_text(OWN.replace("HIGH", str(high)), encoding="utf-8")
    return folder


def test_a_figure_of_ones_own(tmp_path: Path) -> None:
    """A run is made once; what is drawn and claimed is on disk; a false claim is the exit status."""
    cflow = str(Path(sys.executable).parent / "cflow")
    output = ["--output", str(tmp_path / "made")]

    def figures(folder: Path) -> subprocess.CompletedProcess[str]:
        words = [cflow, "figures", str(folder), *output]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    first = figures(own_figure(tmp_path / "falls", 0.99))
    assert first.returncode == 0, first.stderr
    assert "PASS  last loss over first" in first.stdout
    made = tmp_path / "made" / "mini" / "falls"
    assert {path.name for path in made.iterdir()} == {"falls.png", "falls.svg", "falls.gif", "claims.json"}
    with Image.open(made / "falls.gif") as film:
        last = film.n_frames - 1
        assert 5 < last < 50  # pictures in which nothing new is seen are left out
        begin = np.asarray(film.convert("L"), float)
        film.seek(last)
        assert (np.asarray(film.convert("L"), float) < 200).sum() > (begin < 200).sum()
    about = json.loads((made / "claims.json").read_text(encoding="utf-8"))
    assert about["claims"][0]["passed"] and about["claims"][0]["low"] is None
    run = Path(about["runs"]["run"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / run).rglob("*")}

    second = figures(own_figure(tmp_path / "rises", 1e-9))
    assert second.returncode == 1
    assert "FAIL  last loss over first" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / run).rglob("*")} == written
    assert len(list((tmp_path / "made" / "runs").iterdir())) == 1


@pytest.mark.parametrize("name", ["quadratic", "rms-quadratic"])
def test_figures_without_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--output", str(tmp_path), "--gallery", str(tmp_path / "gallery.md")]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert (tmp_path / "mini" / name / f"{name}.svg").stat().st_size > 1000
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert f"gallery/{name}.png" in page and "**fails**" not in page
    assert (tmp_path / "gallery" / f"{name}.png").exists()


def test_every_figure_is_complete() -> None:
    """Each has a README with its command, and runs whose configs compose, at both sizes."""
    listed = (Path(__file__).parents[1] / "docs" / "gallery.md").read_text(encoding="utf-8")
    composed: set[tuple[str, ...]] = set()
    with configs.hydra_session() as hydra:
        for figure in experiments.find(NAMES):
            readme = (figure.folder / "README.md").read_text(encoding="utf-8")
            assert f"    cflow figures {figure.name}" in readme
            assert f"## {figure.name}\n" in listed
            assert figure.caption and figure.title
            for size in SIZES:
                for overrides in figure.plan(size).values():
                    if overrides not in composed:
                        composed.add(overrides)
                        configs.composed(hydra, overrides)


def test_claims() -> None:
    assert Claim("x", 1.0, 1.0, 2.0).passed and not Claim("x", float("nan")).passed
    assert str(Claim("x", 0.5, low=1)) == "FAIL  x: 0.5 (at least 1)"
    assert not holds("x", False).passed and holds("x", True).passed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rnk"], "did you mean rank"),
        (["rank", "size=big"], "size must be one of mini, paper"),
        (["rank", "--all"], "not both"),
        (["size=mini"], "which figure"),
        (["rank", "--commands", "lr=-1"], "lr must be a positive number"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(words)
