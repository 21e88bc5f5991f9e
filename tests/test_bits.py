"""Files that come to harm: the short form of ``python -m benchmarks.bits``, and what it does not reach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import bits
from cflow_cli.cli import main
from cflow_cli.errors import UserError
from cflow_cli.runs import branching, resuming
from cflow_cli.storage import checkpoints, manifests, mending, read_run


def test_no_harm_to_a_file_goes_unsaid_or_hides_another_run() -> None:
    found = list(bits.outcomes(seed=0, flips=4))
    assert len(found) == 15 and not [out.lost for out in found if out.lost]
    assert sum(out.told for out in found) > 20


def test_harm_without_a_word_would_be_noticed(tmp_path: Path) -> None:
    bits.make_tree(tmp_path / "whole")

    def look(number: int) -> dict[tuple[str, str], object]:
        return bits.look(shutil.copytree(tmp_path / "whole", tmp_path / str(number)))

    wanted = look(0)
    run = tmp_path / "whole/run"
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 7"))
    assert bits.judge(look(1), wanted, {}, "sweep")[0].startswith("('report', 'run') says 'cannot use")
    manifests.write(run, {key: v for key, v in manifests.read(run).items() if key != "config_sha256"})
    assert bits.judge(look(2), wanted, {}, "run")[0] == "('report', 'run') differs"


def test_a_changed_config_is_taken_from_the_checkpoint(tmp_path: Path) -> None:
    bits.make_run(tmp_path / "run", 0)
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("lr: 0.25", "lr: 0.35"))
    with pytest.raises(UserError, match=r"config\.yaml: it was changed after it was written"):
        read_run(tmp_path / "run")
    (note,) = resuming.mend(tmp_path / "run")
    assert "was damaged or changed; taking the one in" in note
    assert read_run(tmp_path / "run").config["lr"] == 0.25 and not mending.is_needed(tmp_path / "run")
    config.unlink()
    for path in checkpoints.paths(tmp_path / "run"):
        path.unlink()
    with pytest.raises(UserError, match="no checkpoint can be read that has that"):
        resuming.mend(tmp_path / "run")


def test_a_manifest_is_made_again_without_a_checkpoint_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    bits.make_run(run, 0)
    rows = read_run(run).metrics
    for path in checkpoints.paths(run):
        path.unlink()
    (run / "manifest.json").write_text("{")
    (note,) = resuming.mend(run)
    assert "made again from" in note and "config.yaml and its tables" in note
    found = read_run(run)
    assert found.status == "interrupted" and found.manifest["lr"] == 0.25 and found.metrics.equals(rows)
    assert resuming.last_point(run).notes == ["no checkpoint yet: starting from step 0"]


def test_verify_says_what_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bits.make_tree(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 runs, 1 sweep: 3 whole\n"
    part = tmp_path / "sweep/0/metrics/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    checkpoints.paths(tmp_path / "run")[0].write_bytes(b"PK")
    sweep = tmp_path / "sweep/sweep.json"
    sweep.write_text(sweep.read_text().replace("seed=0", "seed=1"))
    assert main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "sweep.json is damaged" in said and "part-00001.parquet is damaged" in said
    assert "step-00000016.npz is damaged" in said and said.endswith("2 runs, 1 sweep: 0 whole, 3 not\n")
    assert main(["verify", str(tmp_path / "run/metrics")]) == 2


def test_the_list_follows_links_once_and_knows_no_time_before_now(tmp_path: Path) -> None:
    bits.make_run(tmp_path / "elsewhere/run", 0)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "outputs")
    content = json.loads((tmp_path / "elsewhere/run/manifest.json").read_text())
    content.pop("sha256")
    content["started"] = "2999-01-01T00:00:00+00:00"
    (tmp_path / "elsewhere/run/manifest.json").write_text(json.dumps(content))
    (row,) = bits.listing.list_runs([tmp_path / "outputs"])
    assert row.run == str(tmp_path / "outputs/link/run") and row.age_seconds == 0


def test_a_run_keeps_where_it_branched_off(tmp_path: Path) -> None:
    bits.make_run(tmp_path / "source", 0)
    init = branching.InitSettings(tmp_path / "source", "discrete", None, None)
    point, notes = branching.point(init, tmp_path / "child")
    assert point is not None and not notes
    (tmp_path / "child").mkdir()
    branching.keep(point, init, tmp_path / "child")
    newest = checkpoints.paths(tmp_path / "source")[-1]
    newest.unlink()  # the other run is not what it was, and the child does not ask it
    again, _ = branching.point(init, tmp_path / "child")
    assert (
        again is not None and (again.weights == point.weights).all() and (again.before == point.before).all()
    )
    other, _ = branching.point(init, None)
    assert other is not None and (other.weights != point.weights).any()
    (tmp_path / "child" / checkpoints.START).write_bytes(b"PK")
    _, (note,) = branching.point(init, tmp_path / "child")
    assert "start.npz is damaged" in note and "again" in note
