"""Reports on runs made of formulas, so that every reported number is known beforehand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disk import reseal
from rich.console import Console
from scipy.signal import savgol_coeffs

from cflow_cli.commands import compare, report
from cflow_cli.commands import list as listing
from cflow_cli.commands import plot as plotting
from cflow_cli.engine.options import Discrete, Linear
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Central
from cflow_cli.measurements.evaluation import Evaluation
from cflow_cli.measurements.step_smoothness import StepSmoothness
from cflow_cli.records import EIGENVALUES, METRICS
from cflow_cli.report import (
    bursts,
    comparison,
    curves,
    definitions,
    gathering,
    objective,
    overview,
    page,
    plot,
    smoothing,
    style,
    summary,
    tables,
    terminal,
    watching,
)
from cflow_cli.storage import RunWriter, checkpoints, find_runs, manifests, read_run

STEPS, BRANCH, ONSET = 400, 6, 120
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONFIG = """\
lr: {lr}
steps: 400
seed: {seed}
optimizer: {{_target_: optax.adam, learning_rate: {lr}, b2: {b2}}}
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
    b2: float = 0.99,
    diverges: bool = False,
    sigma_trace: float = np.nan,
    oscillation: dict[str, Any] | None = None,
    more: str = "",
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
    if diverges:
        discrete["status"] = np.where(t < steps - 1, "ok", "diverged").astype(object)
    midpoint = rows(
        "midpoint",
        t[1:],
        loss=line[1:],
        grad_norm_sq=np.where(t < ONSET, 4, 1)[1:] * line[1:],
        effective_sharpness=np.where(t[1:] < 98, 1.0, 2.25),
    )
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
        sigma_trace=sigma_trace,
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
        {"choices": {"model": "mlp"}, "steps": STEPS, "num_parameters": 7, "oscillation": oscillation},
        CONFIG.format(lr=lr, seed=seed, b2=b2) + more,
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
        "onset": ONSET,
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
        "complementarity conditions; raise the flow's substeps, as in processes.central.substeps=2 (elementwise optimizers), or lower lr",
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
    s = smoothing.smoothed(y, 50)
    assert (s.index[0], s.index[-1]) == (25, 94)
    np.testing.assert_allclose(s, 3 - 0.01 * s.index.to_numpy(), rtol=1e-13)
    gap = smoothing.smoothed(y.drop(60), 50)
    assert set(gap.index) == set(range(25, 35)) | set(range(86, 95))
    assert smoothing.smoothed(y[:50], 50).empty
    assert np.isnan(definitions.relative_error(y[:50], y))
    assert np.isnan(definitions.relative_error(y, y, start=95))
    # What is smoothed on one side only counts its own convexity as an error.
    convex = pd.Series(1 + (t - 60.0) ** 2, index=t)
    assert definitions.relative_error(convex + (-1.0) ** t, convex) < 1e-12
    # Losses that fall by twelve decades are smoothed to their own precision.
    steep = pd.Series(10.0 ** (-t / 10), index=t)
    q = 10.0 ** (-1 / 10 * np.arange(-25, 26))
    factor = (q[1:-1].sum() + (q[0] + q[-1]) / 2) / 50
    np.testing.assert_allclose(smoothing.smoothed(steep), factor * steep[25:95], rtol=1e-12)


def test_trend_keeps_parabolas_and_is_blind_to_period_two() -> None:
    t = np.arange(120)
    curve = pd.Series(3 - 0.01 * t + 0.002 * t**2, index=t)
    trend = smoothing.trend(curve + (-1.0) ** t)
    np.testing.assert_allclose(trend, curve[25:95], rtol=1e-12)
    # A filter of Savitzky and Golay, whose small response to a period of 2 is taken out.
    weights = np.array([smoothing.trend(pd.Series(one)).iloc[0] for one in np.eye(51)])
    np.testing.assert_allclose(weights, savgol_coeffs(51, 2), atol=1e-3)


def test_the_oscillation_begins_where_half_of_the_gradient_is_gone_at_the_midpoints(tmp_path: Path) -> None:
    fabricate(tmp_path / "whole")
    whole = read_run(tmp_path / "whole").metrics
    assert definitions.onset(whole) == definitions.onset(whole, BRANCH) == ONSET
    assert definitions.onset(whole[whole.process != "midpoint"]) is None
    # Reached the edge, not oscillating yet: a sentence instead of ratios of two small numbers.
    fabricate(tmp_path / "early", steps=110)
    early = summary.summarise(read_run(tmp_path / "early"))
    assert (early.values["edge_step"], early.values["onset"]) == (98, None)
    assert early.values["loss_error_central"] is early.values["distance_ratio_central"] is None
    assert early.values["distance_central"] > 0
    assert any(
        note
        == "S_eff reached 2 at step 98; the optimizer has not begun to oscillate by 110, so there is nothing to "
        "compare yet: more steps, or kick=0.001"
        for note in early.notes
    )
    fabricate(tmp_path / "short", steps=130)
    short = summary.summarise(read_run(tmp_path / "short"))
    assert short.values["loss_error_central"] is None and short.values["distance_ratio_central"] > 0
    assert any("oscillates from step 120 on; its loss is compared once" in note for note in short.notes)


def test_the_edge_is_reached_after_the_branch_and_not_by_a_spike() -> None:
    values = pd.Series(1.0, index=range(100))
    assert definitions.edge_step(values) is None
    values[:3] = 50.0  # adaptive optimizers: D is infinite at first
    values[20] = 3.0
    values[60:] = 1.99
    assert definitions.edge_step(values, start=3) == 60
    assert definitions.edge_step(values[:22], start=20) is None
    assert (
        definitions.edge_step(values[:62], start=3) == 60
    )  # only two measurements are left, both at the edge
    assert definitions.edge_step(values.iloc[::10], start=3) == 60  # measured at every tenth step


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


@pytest.mark.parametrize("form", [*tables.FORMATS, "html"])
@pytest.mark.parametrize("command", [report, listing])
def test_text_from_files_is_shown_and_not_obeyed(
    command: Any, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command is listing and form == "html":
        return
    reason = "=cmd|' /C calc'!A0\n\\input{/etc/passwd}\x1b]0;title\x07\x9b2J\u202e</script><script>alert(1)"
    fabricate(tmp_path / "run", status="failed", reason=reason)
    manifest = manifests.read(tmp_path / "run")
    manifest["choices"] |= {"optimizer": "=1+1\n\\input{x}", "model": "\x1b[31mmlp"}
    manifests.write(tmp_path / "run", manifest)
    assert command.main([str(tmp_path), "--format", form]) == 0
    said = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert not any(line.lstrip().startswith((r"\input", "=")) for line in said.splitlines())
    if form == "csv":
        (row,) = csv.DictReader(io.StringIO(said))
        cell = row["optimizer" if command is report else "what"]
        assert cell.startswith(r"'=1+1 \input{x}")
    if form == "html":
        assert "<script>alert" not in said


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
    assert "| adam | 0.1 | 3 of 4 | 3.0 ± 1.5 % |" in capsys.readouterr().out


def test_a_diverged_run_is_no_part_of_a_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "0", error=0.02)
    fabricate(tmp_path / "1", seed=1, error=1e20, diverges=True)
    assert (
        report.main([str(tmp_path), "--by", "lr", "--metric", "loss_error_central", "--format", "json"]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["runs"] == "1 of 2" and row["loss_error_central"]["mean"] == pytest.approx(0.02)
    got = summary.summarise_folder(tmp_path / "1")
    assert got.values["status"] == "diverged" and got.notes[0].startswith("discrete stopped at step 399")


def test_an_objective_is_a_column_of_numbers_and_its_value_that_of_the_report(tmp_path: Path) -> None:
    def column(name: str) -> str:
        return objective.column(name, (Discrete(), Central()), (Evaluation(), StepSmoothness()))

    assert column("loss_error.central") == column("loss_error_central") == "loss_error_central"
    assert column(StepSmoothness.columns[0].name)
    own = {"loss_error.linear": "loss_error_linear", "function_distance": "function_distance"}
    for name, found in own.items():
        assert objective.column(name, (Discrete(), Linear()), ()) == found
    for name in ("loss_error.stable", "status", "optimizer.b2", "num_tracked", "final_los"):
        with pytest.raises(UserError, match=f"^objective={name} is no column of numbers") as raised:
            column(name)
        assert ("did you mean final_loss?" in str(raised.value)) == (name == "final_los")
    fabricate(tmp_path / "done", error=0.02)
    fabricate(tmp_path / "diverged", diverges=True)
    fabricate(tmp_path / "failed", status="failed")
    assert objective.value(tmp_path / "done", "loss_error_central") == pytest.approx(0.02)
    for run, name in (("done", "grad_error_stable"), ("diverged", "final_loss"), ("failed", "final_loss")):
        assert objective.value(tmp_path / run, name) is None
    assert objective.value(tmp_path / "not there", "final_loss") is None


def test_a_sweep_is_told_apart_by_what_was_swept_and_counts_what_never_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, decay in enumerate((0.9, 0.99)):
        fabricate(tmp_path / str(i), b2=decay)
    jobs = [
        {"number": i, "overrides": [f"optimizer.b2={b2}", "loss=mse"], "folder": str(i)}
        for i, b2 in enumerate((0.9, 0.99, 0.999))
    ]
    sweep = {"axes": {"optimizer.b2": ["0.9", "0.99", "0.999"]}, "launches": [], "jobs": jobs}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))

    def rows(*arguments: str) -> list[dict[str, Any]]:
        assert report.main([str(tmp_path), "--format", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)["rows"]

    found = rows()
    assert [(row["optimizer.b2"], row["status"]) for row in found] == [
        (0.9, "done"),
        (0.99, "done"),
        (0.999, "missing"),
    ]
    assert found[2]["notes"] == ["it never began"] and found[2]["final_loss"] is None
    assert [row["runs"] for row in rows("--by", "optimizer.b2")] == ["1", "1", "0 of 1"]
    assert report.main([str(tmp_path), "--format", "md"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| run | optimizer.b2 | loss |") and "0.999" not in out


def test_a_summary_is_kept_until_its_run_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_own_columns(tmp_path / "run")
    found = summary.summarise_folder(run)
    assert summary.summarise_folder(run) == found and found.own
    charts = curves.packed_charts(run, found.flows)
    moved = run.rename(tmp_path / "moved")
    with monkeypatch.context() as patched:
        for module in (summary, curves):
            patched.setattr(module, "read_run", lambda folder: pytest.fail("read again"))
        again = summary.summarise_folder(moved)
        assert again.values == {**found.values, "run": "moved"} and again.about["folder"] == str(moved)
        assert curves.packed_charts(moved, found.flows) == charts is not None
    text = (moved / ".summary.json").read_text()
    (moved / ".summary.json").write_text(text.replace('"final_loss": ', '"final_loss": 1'))
    assert summary.summarise_folder(moved).values == again.values  # a bit of it flipped: worked out anew
    part = moved / "metrics/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    assert summary.summarise_folder(moved).values["status"] == "unreadable"
    fabricate(tmp_path / "going on", status=None)
    assert summary.summarise_folder(tmp_path / "going on").values["status"] == "running"
    assert not list((tmp_path / "going on").glob(".summary*"))


def test_what_cannot_be_reported_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .*cflow run"):
        report.main([str(tmp_path)])
    fabricate(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"no column 'los_error_central' in these runs \(did you mean loss_error_central\?\)"
    ):
        report.main([str(tmp_path), "--metric", "los_error_central"])
    for arguments, message in (
        (["--format", "xml"], "invalid choice: 'xml'.*see cflow report --help"),
        (["--html", str(tmp_path)], "it is a folder; give a file"),
        (["--html", str(tmp_path / "no/page.html")], "there is no folder"),
        (["--by", "lr", "--sort", "seed"], "cannot sort groups by seed"),
    ):
        with pytest.raises(UserError, match=message):
            report.main([str(tmp_path), *arguments])
    with pytest.raises(UserError, match="which runs"):
        report.main([])


def test_a_report_needs_no_jax(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    code = f"import sys; from cflow_cli.commands import report; report.main([{str(tmp_path)!r}]); sys.exit('jax' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1]
    )


def test_the_panel_draws_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "run", stable_stops=299)
    assert plotting.main([str(tmp_path), "--output", str(tmp_path / "figures")]) == 0
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
        plotting.main([str(tmp_path / "empty")])


def test_a_linearised_network_has_its_name_and_moves_no_branch_point(tmp_path: Path) -> None:
    """It may be there before the flows, where an adaptive optimizer's sharpness may be anything."""
    t = np.arange(STEPS)
    parts = [
        rows("discrete", t, loss=1.0, effective_sharpness=np.where(t < 20, 9.0, 1.0)),
        rows("linear", t, loss=2.0, effective_sharpness=0.5, distance_to_discrete=t + 1.0),
    ]
    writer = RunWriter(tmp_path / "run")
    writer.start({"choices": {}, "steps": STEPS, "warm_start": 20}, CONFIG.format(lr=0.1, seed=0, b2=0.9))
    nothing = {c.name: np.zeros(0, object if c.type == "string" else c.type) for c in EIGENVALUES}
    writer.write({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, nothing)
    writer.finish("done")
    found = summary.summarise_folder(tmp_path / "run")
    assert found.flows == ("linear",) and found.get("edge_step") is None and not found.notes
    assert found.get("distance_linear") == STEPS - 24.5
    told = {quantity.name: quantity.meaning for quantity in definitions.quantities(["linear", "central"])}
    assert "of the linearised network at" in told["final_loss_linear"] and "s_eff_linear" not in told
    assert "of the central flow at" in told["final_loss_central"]
    lines = {line.get_label(): line for line in plot.panel(read_run(tmp_path / "run")).axes[0].lines}
    assert lines["linearised network"].get_color() == style.colour("linear")
    charts = {chart["title"]: chart["lines"] for chart in curves.run_charts(tmp_path / "run", found.flows)}
    assert [line["label"] for line in charts["distance from the optimizer"]] == ["linearised network"]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; the tests that need it are skipped where it or Playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here to open the page with")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def opened(browser, path: Path, view: str = ""):
    """The page in a tab, and the list of what went wrong there or was asked of the network."""
    tab, wrong = browser.new_page(), []
    tab.set_default_timeout(20_000)
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    tab.goto(path.resolve().as_uri() + (f"#{view}" if view else ""))
    return tab, wrong


def column(tab, name: str) -> list[str]:
    """What the table shows in one column."""
    heads = tab.locator("#runs thead tr:first-child th").evaluate_all("all => all.map(th => th.dataset.name)")
    return tab.locator(f"#runs tbody td:nth-child({heads.index(name) + 1})").all_inner_texts()


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on a sweep of lr and seed, of whose six cells one failed and one never began."""
    folder = tmp_path_factory.mktemp("page")
    points = [(lr, seed) for lr in (0.1, 0.2, 0.4) for seed in (0, 1)]
    for i, error in enumerate((0.03, 0.01, 0.02, 0.05)):
        fabricate(folder / f"runs/{i}", lr=points[i][0], seed=points[i][1], error=error)
    trouble = "</script> & <b>trouble</b>"
    fabricate(folder / "runs/5", lr=0.4, seed=1, error=0.04, steps=60, status="failed", reason=trouble)
    jobs = [
        {"number": i, "overrides": [f"lr={lr}", f"seed={seed}"], "folder": str(i)}
        for i, (lr, seed) in enumerate(points)
    ]
    sweep = {"axes": {"lr": ["0.1", "0.2", "0.4"], "seed": ["0", "1"]}, "launches": [], "jobs": jobs}
    (folder / "runs/sweep.json").write_text(json.dumps(sweep))
    assert report.main([str(folder / "runs"), "--html", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_the_page_sorts_filters_and_opens_runs(browser, sweep_page: Path) -> None:
    assert not re.search(
        r"(src|href)=\"(?!#|data:)|url\(|fetch\(|@import", sweep_page.read_text()
    )  # no network
    tab, wrong = opened(browser, sweep_page)
    assert column(tab, "run") == ["0", "1", "2", "3", "4", "5"]
    assert column(tab, "status") == [*["done"] * 4, "missing", "failed"]
    assert column(tab, "lr")[4:] == ["0.4", "0.4"]  # of the cell that never began too
    assert tab.inner_text("#failures").count("trouble") == 1 and "it never began" in tab.inner_text(
        "#failures"
    )
    assert tab.locator("#overview figure").count() > 10
    cells = tab.locator("#heat td").all_inner_texts()
    assert cells == ["3 %", "2 %", "missing", "1 %", "5 %", "failed"]  # lr by seed
    head = tab.locator("th[data-name=loss_error_central] button")
    head.click(), head.click()
    assert column(tab, "run") == ["3", "0", "2", "1", "4", "5"]  # what has no value comes last
    tab.click("#facets button:has-text('0.1')")
    assert column(tab, "run") == ["0", "1"]
    tab.click("#facets button:has-text('0.2')")
    assert column(tab, "run") == ["3", "0", "2", "1"]
    tab.fill("thead input[name=loss_error_central]", "2..4")
    assert column(tab, "loss_error_central") == ["3 %", "2 %"]
    assert "lr=%3D0.1%7C%3D0.2" in tab.url and "sort=-loss_error_central" in tab.url  # can be bookmarked
    tab.click("#clear")
    tab.fill("#search", "trouble")
    assert column(tab, "run") == ["5"]
    tab.click("#runs tbody tr")
    assert "</script> & <b>trouble</b>" in tab.inner_text("#detail .error")
    tab.keyboard.press("Escape")
    tab.fill("#search", "")
    tab.click("#runs tbody tr:nth-child(2)")
    tab.wait_for_selector("#detail figure svg")
    assert tab.locator("#detail h3").all_inner_texts()[:2] == ["loss", "effective eigenvalues"]
    assert ["lr", "0.1"] in [row.split("\t") for row in tab.locator("#detail tr.differs").all_inner_texts()]
    assert not wrong
    tab.close()


def test_the_address_holds_the_view(browser, sweep_page: Path) -> None:
    tab, wrong = opened(browser, sweep_page, "lr=<0.15&loss_error_central=>2")
    assert column(tab, "run") == ["0"]
    for view, runs in (
        ("status=failed|missing", ["4", "5"]),
        ("sort=-loss_error_central&run=2", ["3", "0", "2", "1", "4", "5"]),
    ):
        tab.evaluate("view => { location.hash = view; }", view)
        tab.reload()
        assert column(tab, "run") == runs
    tab.wait_for_selector("#detail figure svg")
    assert not wrong
    tab.close()


def finish(run: Path, **fields: Any) -> None:
    manifests.write(run, manifests.read(run) | fields)


def test_a_page_that_is_watched_loads_itself_anew_and_keeps_its_view(browser, tmp_path: Path) -> None:
    for i in range(30):
        fabricate(tmp_path / f"runs/{i}", lr=0.1 * (1 + i % 3), seed=i, status="done" if i else None)
    path = tmp_path / "page.html"
    words = ["report", str(tmp_path / "runs"), "--html", str(path), "--watch", "--every", "0.2"]
    program = "import sys; from cflow_cli.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == f"{path} follows 30 runs, 1 still going on; Ctrl-C ends it\n"
        while not path.exists():
            time.sleep(0.05)
        tab, wrong = opened(browser, path, "lr=0.1&sort=-seed&run=")
        assert column(tab, "run")[-1] == "0" and column(tab, "status")[-1] == "running"
        assert tab.inner_text("#live").startswith("live")
        tab.locator("#settings-section details > summary").click()
        tab.locator("#settings-section").scroll_into_view_if_needed()
        tab.locator("main .scroll").first.evaluate("node => { node.scrollLeft = 40; }")
        tab.fill("#search", "mlp")
        seen = tab.evaluate("[scrollY, document.querySelector('main .scroll').scrollLeft]")
        finish(tmp_path / "runs/0", status="done")
        tab.wait_for_selector("#live", state="hidden")  # what was written last stays
        assert column(tab, "run") == [str(i) for i in range(27, -1, -3)]
        assert set(column(tab, "status")) == {"done"} and tab.input_value("#search") == "mlp"
        assert tab.locator("#settings-section details").get_attribute("open") is not None
        assert (
            tab.evaluate("[scrollY, document.querySelector('main .scroll').scrollLeft]") == seen
            and seen[1] > 0
        )
        assert tab.evaluate("document.activeElement.id") == "search" and not wrong
        tab.close()
        assert follower.wait(30) == 0
        assert follower.stdout.read() == f"all runs have ended: {path} stays as it is\n"


def test_ctrl_c_leaves_a_page_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path / "run", status=None)
    path, looks = tmp_path / "page.html", []

    def sleep(seconds: float) -> None:
        looks.append('"reload_every":7.0' in path.read_text())
        path.unlink()  # is written again only when the run has written
        if len(looks) == 1:
            finish(tmp_path / "run", step=3)
        elif len(looks) == 3:
            raise KeyboardInterrupt
        else:
            path.touch()

    monkeypatch.setattr(watching.time, "sleep", sleep)
    assert report.main([str(tmp_path), "--html", str(path), "--watch", "--every", "7"]) == 0
    assert looks == [True, True, False]
    assert '"reload_every":null' in path.read_text()
    assert capsys.readouterr().out.endswith(f"not followed any longer: {path} stays as it is\n")
    for words, why in (
        (["--watch"], "--html page.html --watch"),
        (["--watch", "--html", str(path), "--every", "soon"], "a number of seconds from 0.1 on"),
        (["--watch", "--html", str(path), "--sort", "non"], "no column 'non'"),
    ):
        with pytest.raises(UserError, match=why):
            report.main([str(tmp_path), *words])


def test_a_page_of_hundreds_of_runs_shows_some_at_a_time(browser, tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    one = summary.summarise_folder(tmp_path / "run")
    many = [
        dataclasses.replace(
            one,
            folder=tmp_path / str(i),
            values=one.values | {"run": str(i), "lr": 0.01 * (1 + i % 10), "seed": i // 10},
            config=one.config | {"lr": 0.01 * (1 + i % 10), "seed": i // 10},
        )
        for i in range(500)
    ]
    page.write_page(many, tmp_path / "report.html")
    tab, wrong = opened(browser, tmp_path / "report.html")
    assert len(column(tab, "run")) == 25 and tab.inner_text("#count") == "500 runs"
    tab.click("#pages button:has-text('20')")
    assert column(tab, "run")[-1] == "499"
    tab.select_option("#size", "100")
    assert len(column(tab, "run")) == 100 and tab.locator("circle").count() < 500 and not wrong
    tab.close()


def test_curves_are_thinned_without_losing_their_spikes() -> None:
    values = pd.Series(np.where(np.arange(10_000) == 5_001, 7.0, 1.0), index=range(10_000))
    steps, shown = curves.thin(values, 90, spikes=True)
    assert len(steps) <= 90 and dict(zip(steps, shown))[5_001] == 7.0
    steps, shown = curves.thin(values, 90)
    assert len(steps) <= 90 and set(np.diff(steps)) == {112}


def add_columns(run: Path, **columns: tuple[str, str, dict[str, Any]]) -> None:
    """Give the rows of a run columns of its own: unit, meaning and value against process (none: missing)."""
    path = run / "metrics/part-00000.parquet"
    rows = pq.read_table(path)
    steps, processes = rows["step"].to_numpy(), rows["process"].to_pylist()
    for name, (unit, meaning, value_of) in columns.items():
        values = [value_of[p](t) if p in value_of else None for p, t in zip(processes, steps)]
        field = pa.field(name, pa.float64(), metadata={"unit": unit, "meaning": meaning})
        rows = rows.append_column(field, pa.array(values, pa.float64()))
    pq.write_table(rows, path)
    reseal(run)


def with_own_columns(folder: Path, **made: Any) -> Path:
    fabricate(folder, **made)
    add_columns(
        folder,
        weight_norm=("weight", "norm of the weights ‖w‖", {p: lambda t: 3 + 0.01 * t for p in ("midpoint", "central")}),
        predicted_weight_norm=("weight", "the mean that a flow predicts", {"central": lambda t: 4 + 0.01 * t}),
        alignment=("1", "cosine | of two directions", {"discrete": lambda t: 0.5 if t <= 300 else None}),
    )  # fmt: skip
    return folder


def test_a_run_s_own_columns_are_read_with_meaning_and_unit(tmp_path: Path) -> None:
    run = read_run(with_own_columns(tmp_path / "run"))
    assert [*run.columns] == [c.name for c in METRICS] + ["weight_norm", "predicted_weight_norm", "alignment"]
    assert run.columns["loss"].unit == "loss" and run.columns["weight_norm"].unit == "weight"
    assert run.columns["alignment"].meaning == "cosine | of two directions"
    assert [*run.metrics] == [*run.columns]
    assert [*run.table("metrics", ["alignment", "step"])] == ["alignment", "step"]
    # A part without them, as of a run that was continued otherwise: missing there.
    fabricate(tmp_path / "other")
    shutil.copy(tmp_path / "other/metrics/part-00000.parquet", tmp_path / "run/metrics/part-00001.parquet")
    reseal(tmp_path / "run")
    both = read_run(tmp_path / "run").metrics
    assert len(both) == 2 * len(run.metrics) and both["weight_norm"][len(run.metrics) :].isna().all()
    pd.testing.assert_series_equal(both["weight_norm"][: len(run.metrics)], run.metrics["weight_norm"])
    with pytest.raises(KeyError):
        read_run(tmp_path / "other").table("metrics", ["alignment"])
    assert [*read_run(tmp_path / "other").columns] == [column.name for column in METRICS]


def test_a_run_s_own_columns_are_metrics_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_own_columns(tmp_path / "a")
    with_own_columns(tmp_path / "b", seed=1)
    fabricate(tmp_path / "c", seed=2)

    def read(*arguments: str) -> dict[str, Any]:
        assert report.main([str(tmp_path), "--format", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    found = read("--metric", "weight_norm,alignment,predicted_weight_norm")
    # Of the optimizer where it has the column, and at its last step that has it; else of its midpoints; else the flow's.
    assert [row["alignment"] for row in found["rows"]] == [0.5, 0.5, None]
    assert found["rows"][0]["weight_norm"] == pytest.approx(3 + 0.01 * (STEPS - 1))
    assert found["rows"][1]["predicted_weight_norm"] == pytest.approx(4 + 0.01 * (STEPS - 1))
    assert found["definitions"]["weight_norm"].startswith(
        "norm of the weights ‖w‖ (weight); of the optimizer"
    )
    assert read()["rows"][0]["weight_norm"] == found["rows"][0]["weight_norm"]
    (group,) = read("--by", "lr", "--metric", "weight_norm")["rows"]
    assert group["weight_norm"]["runs"] == 2
    assert report.main([str(tmp_path), "--format", "md"]) == 0
    assert "weight_norm" not in capsys.readouterr().out


def test_a_run_s_own_columns_have_charts_with_predictions_dashed(tmp_path: Path) -> None:
    charts = {
        chart["title"]: chart
        for chart in curves.run_charts(with_own_columns(tmp_path / "run"), ("central", "stable"))
    }
    assert [*charts][-2:] == ["weight_norm (weight)", "alignment"]
    norm = charts["weight_norm (weight)"]
    assert norm["about"] == "norm of the weights ‖w‖ (weight)"
    assert norm["caption"] == "norm of the weights ‖w‖; dashed: the mean that a flow predicts"
    assert [(line["label"], bool(line["dash"])) for line in norm["lines"]] == [
        ("midpoints", False),
        ("central flow", False),
        ("central flow, predicted mean", True),
    ]
    assert [line["label"] for line in charts["alignment"]["lines"]] == ["optimizer"]
    assert charts["loss"]["about"] == "training loss L(w) (loss)" and "caption" not in charts["loss"]


def test_the_page_draws_a_run_s_own_columns(browser, tmp_path: Path) -> None:
    with_own_columns(tmp_path / "run")
    assert report.main([str(tmp_path / "run"), "--html", str(tmp_path / "report.html")]) == 0
    tab, wrong = opened(browser, tmp_path / "report.html")
    chart = tab.locator("#detail figure", has=tab.locator("h3", has_text="weight_norm (weight)"))
    chart.locator("> svg").wait_for()
    assert "dashed: the mean that a flow predicts" in chart.locator(".caption").inner_text()
    assert chart.locator("h3").get_attribute("title") == "norm of the weights ‖w‖ (weight)"
    assert chart.locator("path[style*='stroke-dasharray:5 2']").count() == 1 and not wrong
    tab.close()


def test_comparing_says_where_two_runs_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "a")
    fabricate(tmp_path / "b", lr=0.2)
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "the same at all 400 common steps" in out
    assert re.search(r"^ *lr +0\.1 +0\.2", out, re.MULTILINE)
    one = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2])
    two = pd.Series([2.0 + 1e-12, 3.1, 9.0], index=[1, 2, 3])
    assert comparison.first_difference(one, two) == (1, 2, 2)
    assert comparison.first_difference(one, one) == (None, None, 3)


def test_a_narrow_terminal_keeps_what_matters(tmp_path: Path) -> None:
    summaries = []
    for i in range(4):
        fabricate(tmp_path / str(i), lr=0.1 * (i + 1))
        summaries.append(summary.summarise_folder(tmp_path / str(i)))
    console = Console(width=80, file=io.StringIO())
    terminal.print_report(overview.build(summaries), console)
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
    assert tables.format_value(None, "number") == "–"


def test_the_burst_number_has_its_closed_form() -> None:
    """S_eff rises by 0.01 per step to 2, an oscillation from ε = 1e-4 to σ = 0.1: B = √(2 · 0.01 · 3 · ln 1000)."""
    t = np.arange(300)
    metrics = pd.DataFrame(
        {
            "step": t,
            "process": "central",
            "effective_sharpness": np.minimum(0.01 * t, 2),
            "sigma_trace": np.where(t < 198, 0, 0.01),
        }
    )
    number = bursts.burst_number(metrics, 198, growth=3.0, noise=1e-4)
    np.testing.assert_allclose(number, np.sqrt(0.06 * np.log(1000)), rtol=1e-12)
    assert np.isnan(bursts.burst_number(metrics, None, 3.0, 1e-4))


@pytest.mark.parametrize(("second_moments", "told"), [(False, True), (True, False)], ids=["momentum", "adam"])
def test_of_a_momentum_with_bursts_the_central_flow_is_not_to_be_believed(
    tmp_path: Path, second_moments: bool, told: bool
) -> None:
    oscillation = {"growth": 19.0, "noise": 1e-9, "second_moments": second_moments}
    fabricate(tmp_path / "run", sigma_trace=1e-2, oscillation=oscillation)
    got = summary.summarise(read_run(tmp_path / "run"))
    assert got.get("burst_number") > 0.5
    assert any("processes=[discrete,midpoint,stable,central,two_phase]" in note for note in got.notes) == told


def test_runs_that_differ_in_their_kicks_measure_what_a_flow_could_reach(tmp_path: Path) -> None:
    """On a line: runs at 1, 2 and 6 that swing by ±1, the stable flow at 0, the central flow at 4."""
    for k, w in enumerate((1.0, 2.0, 6.0)):
        fabricate(tmp_path / str(k), more=f"kick_seed: {k}\n")
        arrays = {
            "discrete.weights": np.array([w + 1]),
            "discrete.before": np.array([w - 1]),
            "stable.process.weights": np.array([0.0]),
            "central.process.weights": np.array([4.0]),
        }
        checkpoints.save(tmp_path / str(k), {"step": STEPS}, arrays, 1)
    first, _, last = gathering.gather([tmp_path]).begun
    assert (first.get("floor"), last.get("floor")) == (2 / 2, 5.5 / 7)
    assert (first.get("pair"), last.get("pair")) == (2 / 2, 5.5 / 7)
    assert first.get("ens_central") == pytest.approx(1 / 3)
    assert gathering.gather([tmp_path / "0", tmp_path / "1"]).begun[0].get("floor") is None
