"""``cflow figures``, as installed: runs are shared and made once, claims are checked, a false one fails."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_cli.commands import kernel
from cflow_cli.commands.figures import main
from cflow_cli.config import composing
from cflow_cli.errors import UserError
from cflow_cli.figures import experiment, making, readme
from cflow_cli.figures.claims import Check, Claim, truth
from cflow_cli.figures.experiment import SIZES

GALLERY = Path(__file__).parents[1] / "docs" / "gallery.md"

OWN = '''
"""The loss of a short run falls."""
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, raw

CAPTION = "Training loss."
ANIMATED = True
FALLS = Check("last loss over first", high=HIGH)


def runs(size):
    return {"run": ["experiment=quick", "processes=[discrete]", "steps=12"]}


def draw(run):
    figure, (ax,) = panels(1, 1)
    raw(ax, run.series("discrete", "loss"))
    return figure


def claims(run):
    loss = run.series("discrete", "loss")
    yield FALLS(loss.iloc[-1] / loss.iloc[0])
'''

OF_A_KERNEL = '''
"""A kernel of two layers fits its training set."""
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels

CAPTION = "Nothing."
FITS = Check("accuracy on the training set", low=1)


def runs(size):
    return {}


def kernels(size):
    return {"kernel": ["model=fc", "model.depth=2", "model.activation=relu", "data.n=20", "kernel.kinds=[ntk]"]}


def draw(kernel):
    return panels(1, 1)[0]


def claims(kernel):
    yield FITS(kernel.value("accuracy", depth=2))
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


def test_a_figure_of_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is computed once, where its command computes it."""
    (tmp_path / "figure.py").write_text(OF_A_KERNEL, encoding="utf-8")
    words = [str(tmp_path), "--output", str(tmp_path / "made")]
    assert main(words) == 0
    (folder,) = (tmp_path / "made" / "kernels").iterdir()
    capsys.readouterr()
    assert main(words) == 0
    assert "pair" not in capsys.readouterr().out
    assert main([*words, "--commands"]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[:2] == ["cflow", "kernel"]
    assert kernel.main(command[2:]) == 0
    assert "done" in capsys.readouterr().out
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["quadratic", "rms-quadratic"])
def test_figures_without_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--output", str(tmp_path), "--gallery", str(tmp_path / "gallery.md")]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert (tmp_path / "mini" / name / f"{name}.svg").stat().st_size > 1000
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert f"gallery/{name}.png" in page and "**fails**" not in page
    assert (tmp_path / "gallery" / f"{name}.png").exists()


def test_interrupted_figures_say_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "obtain", interrupted)
    words = ["loss", "lr=0.3", "--output", str(tmp_path / "my figures")]
    assert main(words) == 130
    shown = capsys.readouterr()
    assert shown.out.startswith("loss (mini): ")
    assert shown.err.endswith(f": cflow figures loss lr=0.3 --output '{tmp_path}/my figures'\n")


def test_every_figure_is_complete() -> None:
    """Each has a README with its command, and runs whose configs compose, at both sizes."""
    # What differs in its numbers only composes alike, and each takes Hydra half a second.
    composed: set[tuple[str, ...]] = set()
    with composing.hydra_session() as hydra:
        for figure in experiment.find([]):
            text = (figure.folder / "README.md").read_text(encoding="utf-8")
            assert f"    cflow figures {figure.name}" in text
            assert figure.caption and figure.title and figure.part
            for size in SIZES:
                kernels = (("kernel=default", *words) for words in figure.kernel_plan(size).values())
                for overrides in (*figure.plan(size).values(), *kernels):
                    form = tuple(re.sub(r"=[-\d.e]+$", "=", override) for override in overrides)
                    if form not in composed:
                        composed.add(form)
                        composing.composed(hydra, overrides)


def test_the_commands_of_a_figure_make_its_runs_and_the_paths_between_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["barrier", "--commands", "--output", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    made = [line.rpartition("hydra.run.dir=")[2] for line in lines if line.startswith("cflow run ")]
    ends = [line.split()[2:4] for line in lines if line.startswith("cflow path ")]
    assert len(made) == 3 and len(lines) == 6
    assert ends == [[f"{made[a]}@discrete", f"{made[(a + 1) % 3]}@discrete"] for a in range(3)]


def test_readmes_have_the_checks_of_their_figures() -> None:
    for figure in experiment.find([]):
        assert figure.checks, figure.name
        text = (figure.folder / "README.md").read_text(encoding="utf-8")
        assert text == readme.updated(figure), f"cflow figures {figure.name} --readme"


def test_the_gallery_has_the_claims_of_the_figures() -> None:
    """Every claim on the page is one of the figure's checks, with its bounds; every check is there."""
    title, *sections = re.split(r"^### ", GALLERY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    figures = experiment.find([])
    assert title.startswith("# Figures")
    assert [section.split("\n", 1)[0] for section in sections] == [figure.name for figure in figures]
    for figure, section in zip(figures, sections):
        lines = [line for line in section.splitlines() if line.startswith("|") and "---" not in line]
        rows = [re.split(r"(?<!\\)\|", line) for line in lines[1:]]
        told = [(row[1].strip().replace("\\|", "|"), row[3].strip()) for row in rows]
        # Texts with braces may be alike; then bounds tell the checks apart.
        found = [next(c for c in figure.checks if _is_of(text, bounds, c)) for text, bounds in told]
        assert set(found) == set(figure.checks), figure.name


def _is_of(text: str, bounds: str, check: Check) -> bool:
    parts = re.split(r"\{.*?\}", check.text)
    return bool(check.words or check.bounds == bounds) and bool(
        re.fullmatch(".+".join(map(re.escape, parts)), text)
    )


def test_figures_are_found_by_name_part_and_folder() -> None:
    root = experiment.experiments_dir()
    known = experiment.folders()

    def names(*words: str) -> list[str]:
        return [figure.name for figure in experiment.find(words)]

    part = names("central-flows/rmsprop")
    assert "rms-edge" in part and "rank" not in part
    assert names("experiments/central-flows/rmsprop/") == part
    assert set(names("central-flows")) == {
        name for name, path in known.items() if "central-flows" in path.parts
    }
    assert names("rank", str(known["rank"]), "central-flows/gd/rank", "loss", "rank") == ["rank", "loss"]
    assert experiment.find(["rank"])[0].folder == (root / "central-flows" / "gd" / "rank").resolve()


def test_two_figures_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        own_figure(tmp_path / part / "same", 1.0)
    monkeypatch.setattr(experiment, "experiments_dir", lambda: tmp_path)
    with pytest.raises(UserError, match="have the same name"):
        experiment.find(["same"])


def test_list_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "central-flows/gd" in lines
    assert any(line.startswith("  rank ") for line in lines)


def test_a_readme_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of checks goes between its markers, and what stands around it stays."""
    folder = own_figure(tmp_path / "falls", 0.5)
    with pytest.raises(UserError, match=r"needs the lines <!-- claims -->"):
        main([str(folder), "--readme"])
    path = folder / "README.md"
    path.write_text("# falls\n\n<!-- claims -->\nold\n<!-- /claims -->\n\nMore.\n", encoding="utf-8")
    for _ in range(2):
        assert main([str(folder), "--readme"]) == 0
        assert path.read_text(encoding="utf-8") == (
            "# falls\n\n<!-- claims -->\n\n| checked | bounds |\n| --- | --- |\n"
            "| last loss over first | at most 0.5 |\n\n<!-- /claims -->\n\nMore.\n"
        )
    assert str(path) in capsys.readouterr().out


def test_claims() -> None:
    assert Claim("x", 1.0, 1.0, 2.0).passed and not Claim("x", float("nan")).passed
    assert str(Claim("x", 0.5, low=1)) == "FAIL  x: 0.5 (at least 1)"


def test_checks() -> None:
    check = Check("loss at {each rate}, |late|", high=2, paper="1.5")
    assert check(1.0, "η = {1}") == Claim("loss at η = {1}, |late|", 1.0, high=2)
    assert check(1.0, "η", low=0.5).low == 0.5
    assert readme.table([check, truth("it holds")]).splitlines()[2:] == [
        r"| loss at each rate, \|late\| | at most 2 | 1.5 |",
        "| it holds | true |  |",
    ]
    assert not truth("x")(False).passed and truth("x")(True).passed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rnk"], "did you mean rank"),
        (["rank", "size=big"], "size must be one of mini, paper"),
        (["central-flows/rms"], "did you mean central-flows/rmsprop"),
        (["rank", "--all"], "not both"),
        (["size=mini"], "which figure"),
        (["rank", "--commands", "lr=-1"], "lr must be a positive number"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(words)
