"""Reports on runs made of formulas, so that every reported number is known beforehand."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from cflow_cli import report
from cflow_cli.errors import UserError
from cflow_cli.records import EIGENVALUES, METRICS
from cflow_cli.report import compare, definitions, page, plot, style, summary, table, terminal
from cflow_cli.storage import RunWriter, find_runs, read_run

STEPS, BRANCH = 400, 6
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONFIG = """\
lr: {lr}
steps: 400
seed: {seed}
optimizer: {{_target_: optax.adam, learning_rate: {lr}, b2: 0.99}}
model: {{_target_: cflow_cli.models.mlp.MLP, widths: [32, 32]}}
data: {{_target_: cflow_cli.datasets.digits.digits, n: 200}}
loss: {{_target_: cflow_cli.losses.mse}}
"""


def rows(process: str, steps: np.ndarray, **known: object) -> dict[str, np.ndarray]:
    """Rows of the metrics table with everything missing that is not given."""
    n = len(steps)
    columns: dict[str, np.ndarray] = {}
    for column in METRICS:
        empty = np.full(n, "ok", object) if column.type == "string" else np.full(n, np.nan)
        value = known.get(column.name, empty)
        columns[column.name] = np.broadcast_to(np.asarray(value), n)
    return columns | {"step": steps, "process": np.full(n, process, object)}


def fabricate(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.1,
    error: float = 0.03,
    steps: int = STEPS,
    stable_stops: int | None = None,
    status: str | None = "done",
    reason: str | None = None,
) -> None:
    """Write a run whose loss is a line plus an oscillation of period 2; its flows miss it by a known part."""
    t = np.arange(steps)
    line = 2 - 0.002 * t
    discrete = rows(
        "discrete",
        t,
        loss=line + 0.3 * (-1.0) ** t,
        grad_norm_sq=4 * line + (-1.0) ** t,
        effective_sharpness=5.0,
    )
    midpoint = rows("midpoint", t[1:], loss=line[1:], effective_sharpness=np.where(t[1:] < 98, 1.0, 2.25))
    t, line = t[BRANCH:], line[BRANCH:]
    labels = np.full(len(t), "ok", object)
    labels[:7] = "sdcp_not_converged"
    central = rows(
        "central",
        t,
        loss=line / 2,
        predicted_loss=(1 + error) * line,
        grad_norm_sq=line,
        predicted_grad_norm_sq=0.9 * 4 * line,
        effective_sharpness=np.minimum(1.001 + t / 100, 2),
        num_critical=np.where(t < 98, 0, 3),
        distance_to_discrete=1e-3 * t,
        status=labels,
    )
    stop = len(t) if stable_stops is None else stable_stops + 1 - BRANCH
    t, line = t[:stop], line[:stop]
    labels = np.full(len(t), "ok", object)
    if stable_stops is not None:
        labels[-1] = "too_sharp"
    stable = rows(
        "stable", t, loss=1.5 * line, effective_sharpness=t / 10, distance_to_discrete=2.0, status=labels
    )
    parts = [discrete, midpoint, central, stable]
    writer = RunWriter(folder)
    writer.start(
        {"choices": {"model": "mlp"}, "steps": STEPS, "num_parameters": 7}, CONFIG.format(lr=lr, seed=seed)
    )
    writer.write(
        {name: np.concatenate([part[name] for part in parts]) for name in discrete},
        {
            column.name: np.zeros(0, object if column.type == "string" else column.type)
            for column in EIGENVALUES
        },
    )
    if status:
        writer.finish(status, reason=reason, wall_seconds=90.0 + seed)


def test_every_quantity_has_its_closed_form(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    got = summary.summarise(read_run(tmp_path / "run"))
    expected = {
        "run": "run",
        "optimizer": "adam",
        "lr": 0.1,
        "model": "mlp",
        "data": "digits",
        "loss_function": "mse",
        "seed": 0,
        "num_parameters": 7,
        "steps": STEPS,
        "final_loss": 2 - 0.002 * 399 - 0.3,
        "final_loss_central": (2 - 0.002 * 399) / 2,
        "final_loss_stable": (2 - 0.002 * 399) * 1.5,
        "edge_step": 98,
        "num_critical": 3,
        "s_eff": 2.25,
        "s_eff_central": (1.981 + 1.991 + 2 * (STEPS - 100)) / (STEPS - 98),
        "distance_central": 1e-3 * (350 + 399) / 2,
        "distance_stable": 2.0,
        "distance_ratio_central": 1e-3 * (350 + 399) / 4,
        "loss_error_central": 0.03,
        "loss_error_stable": 0.5,
        "grad_error_central": 0.1,
        "status": "done",
        "wall_seconds": 90.0,
    }
    for name, value in expected.items():
        assert got.values[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), (
            name
        )
    assert got.values["grad_error_stable"] is None
    assert got.notes == (
        "central: sdcp_not_converged at 7 of 394 steps: the oscillation covariance does not meet its "
        "complementarity conditions; try process.substeps=2 or a smaller lr",
    )


def test_a_flow_that_stopped_is_compared_where_both_exist(tmp_path: Path) -> None:
    fabricate(tmp_path, stable_stops=299)
    got = summary.summarise(read_run(tmp_path))
    assert got.values["distance_central"] == pytest.approx(1e-3 * (350 + 399) / 2)
    assert got.values["distance_ratio_central"] == pytest.approx(1e-3 * (250 + 299) / 4)
    assert got.values["loss_error_stable"] == pytest.approx(0.5)
    assert any(
        note.startswith("stable stopped at step 299: the effective sharpness passed") for note in got.notes
    )
    assert "central / stable compares steps 250 to 299, the last that both reached" in got.notes


def test_smoothing_is_exact_for_lines_and_blind_to_period_two() -> None:
    t = np.arange(120)
    y = pd.Series(3 - 0.01 * t + (-1.0) ** t, index=t)
    s = definitions.smoothed(y, 50)
    assert (s.index[0], s.index[-1]) == (25, 94)
    np.testing.assert_allclose(s, 3 - 0.01 * s.index.to_numpy(), rtol=1e-13)
    gap = definitions.smoothed(y.drop(60), 50)
    assert set(gap.index) == set(range(25, 35)) | set(range(86, 95))
    assert definitions.smoothed(y[:50], 50).empty
    assert np.isnan(definitions.relative_error(y[:50], y))
    # Losses that fall by twelve decades are smoothed to their own precision.
    steep = pd.Series(10.0 ** (-t / 10), index=t)
    q = 10.0 ** (-1 / 10 * np.arange(-25, 26))
    factor = (q[1:-1].sum() + (q[0] + q[-1]) / 2) / 50
    np.testing.assert_allclose(definitions.smoothed(steep), factor * steep[25:95], rtol=1e-12)


def test_onset_ignores_a_spike_and_the_time_before_the_branch() -> None:
    values = pd.Series(1.0, index=range(100))
    assert definitions.onset(values) is None
    values[:3] = 50.0  # adaptive optimizers: D is infinite at first
    values[20] = 3.0
    values[60:] = 1.99
    assert definitions.onset(values, start=3) == 60
    assert definitions.onset(values[:22], start=20) is None
    assert definitions.onset(values[:62], start=3) == 60  # only two measurements are left, both at the edge
    assert definitions.onset(values.iloc[::10], start=3) == 60  # measured at every tenth step


def test_unfinished_and_failed_runs_appear_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path / "0")
    fabricate(tmp_path / "1", steps=30, status=None)
    fabricate(tmp_path / "2", steps=100, status="failed", reason="out of memory")
    RunWriter(tmp_path / "3").start({"steps": 400})
    (tmp_path / "4").mkdir()
    (tmp_path / "4/manifest.json").write_text("{")
    fabricate(tmp_path / "5")
    part = tmp_path / "5/metrics/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert report.main([str(tmp_path), "--format", "json"]) == 0
    got = {row["run"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    statuses = [got[str(i)]["status"] for i in range(6)]
    assert statuses == ["done", "running", "failed", "running", "unreadable", "unreadable"]
    assert "running after 30 of 400 steps" in got["1"]["notes"]
    assert got["1"]["loss_error_central"] is None  # shorter than the window
    assert "failed after 100 of 400 steps: out of memory" in got["2"]["notes"]
    assert "is damaged" in got["5"]["notes"][0]
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "out of memory" in out and "unreadable" in out


def test_formats_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, lr in enumerate((0.2, 0.1)):
        fabricate(tmp_path / f"a_{seed}", seed=seed, lr=lr)

    def out(*arguments: str) -> str:
        assert report.main([str(tmp_path), *arguments]) == 0
        return capsys.readouterr().out

    rows = list(csv.DictReader(io.StringIO(out("--format", "csv", "--sort", "lr"))))
    assert [(row["run"], float(row["lr"])) for row in rows] == [("a_1", 0.1), ("a_0", 0.2)]
    assert float(rows[0]["loss_error_central"]) == pytest.approx(0.03, rel=1e-12)
    entries = json.loads(out("--format", "json", "--sort", "lr"))
    assert entries["rows"][0]["distance_ratio_central"] == float(rows[0]["distance_ratio_central"])
    assert set(entries["definitions"]) == set(entries["rows"][0]) - {"notes"} == set(rows[0]) - {"notes"}
    markdown = out("--format", "md").splitlines()
    assert markdown[0].startswith("| run | lr | seed | loss |")  # model, data and so on are the same in both
    assert {line.count("|") for line in markdown[:4]} == {markdown[0].count("|")}
    assert "| 3 % | 50 % |" in markdown[2]
    assert any("optimizer adam" in line for line in markdown)
    latex = out("--format", "latex", "--metric", "lr,loss_error_central,optimizer.b2")
    assert "a\\_0 & 0.2 & 3 \\% & 0.99 \\\\" in latex.splitlines()
    text = out("--metric", "loss_error_central,edge_step")
    assert "3 %" in text and "98" in text and "50 %" not in text


def test_groups_are_means_over_the_runs_that_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, error in enumerate((0.01, 0.02, 0.06)):
        fabricate(tmp_path / str(seed), seed=seed, error=error)
    fabricate(tmp_path / "3", seed=3, error=0.9, steps=200, status="interrupted")
    fabricate(tmp_path / "4", seed=4, lr=0.05)
    arguments = [str(tmp_path), "--by", "optimizer,lr", "--metric", "loss_error_central"]
    assert report.main([*arguments, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["lr"], row["runs"]) for row in rows] == [(0.05, "1"), (0.1, "3 of 4")]
    estimate = rows[1]["loss_error_central"]
    assert estimate["mean"] == pytest.approx(0.03)
    assert estimate["standard_error"] == pytest.approx(np.std([0.01, 0.02, 0.06], ddof=1) / np.sqrt(3))
    assert rows[0]["loss_error_central"]["standard_error"] is None
    assert report.main([*arguments, "--format", "md", "--sort", "loss_error_central"]) == 0
    assert "| adam | 0.1 | 3 of 4 | 3 ± 1.5 % |" in capsys.readouterr().out


def test_what_cannot_be_reported_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .*cflow run"):
        report.main([str(tmp_path)])
    fabricate(tmp_path / "run")
    with pytest.raises(UserError, match=r"no column 'typo'.*loss_error_central"):
        report.main([str(tmp_path), "--metric", "typo"])
    with pytest.raises(UserError, match="which runs"):
        report.main([])


def test_a_report_needs_no_jax(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    code = f"import sys; from cflow_cli import report; report.main([{str(tmp_path)!r}]); sys.exit('jax' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1]
    )


def test_the_panel_draws_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "run", stable_stops=299)
    assert plot.main([str(tmp_path), "--output", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures/run.png").read_bytes().startswith(b"\x89PNG")
    figure = plot.panel(read_run(tmp_path / "run"))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    predicted = lines["predicted by central flow"]
    t = np.arange(BRANCH, STEPS)
    np.testing.assert_array_equal(predicted.get_xdata(), t)
    np.testing.assert_allclose(predicted.get_ydata(), 1.03 * (2 - 0.002 * t))
    assert predicted.get_color() == style.colour("central")
    assert lines["stable flow"].get_xdata()[-1] == 299
    fabricate(tmp_path / "short", steps=3, status=None)
    plot.panel(read_run(tmp_path / "short"))  # before the flows branch off
    RunWriter(tmp_path / "empty").start({})
    with pytest.raises(UserError, match="no steps to draw yet"):
        plot.main([str(tmp_path / "empty")])


def opened(path: Path, view: str, tmp_path: Path) -> str:
    """What a browser shows of a page after its script has run."""
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    url = f"{path.resolve().as_uri()}#{view}"
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split('<script type="application/json"')[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_page_sorts_filters_and_opens_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, error in enumerate((0.03, 0.01, 0.02, 0.05)):
        fabricate(tmp_path / f"runs/{i}", seed=i % 2, lr=0.1 * (1 + i // 2), error=error)
    fabricate(
        tmp_path / "runs/4",
        lr=0.4,
        error=0.04,
        steps=60,
        status="failed",
        reason="</script> & <b>trouble</b>",
    )
    path = tmp_path / "report.html"
    assert report.main([str(tmp_path / "runs"), "--html", str(path)]) == 0
    assert not re.search(
        r"(src|href)=|url\(|fetch\(|http(?!://www.w3.org/2000/svg)", path.read_text()
    )  # no network

    def shown(view: str) -> tuple[list[str], str]:
        html = opened(path, view, tmp_path)
        assert re.search(r'<p id="errors"[^>]*></p>', html), "the page had an error"
        body = re.search(r'<table id="runs">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)
        assert body is not None
        return re.findall(r'<tr[^>]*><td class="text">(.*?)</td>', body[1]), html

    runs, html = shown("")
    assert runs == ["0", "1", "2", "3", "4"]
    assert "failed after 60 of 400 steps: &lt;/script&gt; &amp; &lt;b&gt;trouble" in html
    assert html.count("<svg") >= 10 and 'id="map" hidden' not in html  # overviews, and a map of lr and seed
    assert shown("sort=-loss_error_central")[0] == ["3", "4", "0", "2", "1"]
    assert shown("lr=<0.15&loss_error_central=>2")[0] == ["0"]
    assert shown("status=failed")[0] == ["4"]
    runs, html = shown("run=2")
    assert "distance from the optimizer" in html and "settings (those that differ" in html
    assert re.search(r'<tr class="differs"><td>lr</td><td>0.2</td>', html)


def test_curves_are_thinned_without_losing_their_spikes() -> None:
    values = pd.Series(np.where(np.arange(10_000) == 5_001, 7.0, 1.0), index=range(10_000))
    steps, shown = page.thinned(values, 90, spikes=True)
    assert len(steps) <= 90 and dict(zip(steps, shown))[5_001] == 7.0
    steps, shown = page.thinned(values, 90)
    assert len(steps) <= 90 and set(np.diff(steps)) == {112}


def test_comparing_says_where_two_runs_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "a")
    fabricate(tmp_path / "b", lr=0.2)
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "the same at all 400 common steps" in out
    assert re.search(r"^ *lr +0\.1 +0\.2", out, re.MULTILINE)
    one = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2])
    two = pd.Series([2.0 + 1e-12, 3.1, 9.0], index=[1, 2, 3])
    assert compare.first_difference(one, two) == (1, 2, 2)
    assert compare.first_difference(one, one) == (None, None, 3)


def test_a_narrow_terminal_keeps_what_matters(tmp_path: Path) -> None:
    summaries = []
    for i in range(4):
        fabricate(tmp_path / str(i), lr=0.1 * (i + 1))
        summaries.append(summary.summarise_folder(tmp_path / str(i)))
    console = Console(width=80, file=io.StringIO())
    terminal.print_table(table.build(summaries), console)
    out = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    table_lines = out[: next(i for i, line in enumerate(out) if line.startswith("in all runs"))]
    assert max(map(len, table_lines)) <= 80
    rows = [line.split() for line in table_lines if line.strip().startswith(("0 ", "1 ", "2 ", "3 "))]
    assert [row[1] for row in rows] == ["0.1", "0.2", "0.3", "0.4"]
    assert all({"0.187", "done"} <= set(row) and "3 %" in " ".join(row) for row in rows)
    assert any("final_loss_stable" in line for line in out)


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    for name in ("x/sweep/0", "x/sweep/1", "x/other/0"):
        (tmp_path / name).mkdir(parents=True)
        RunWriter(tmp_path / name).start({})
    assert summary.names_of(find_runs([tmp_path])) == ["other/0", "sweep/0", "sweep/1"]
    assert table.show(None, "number") == "–"
