"""What is said while a run goes on."""

from __future__ import annotations

from cflow_cli.runs.progress import Pace


def test_the_time_left_does_not_count_compilation() -> None:
    pace, now, said = Pace(1000), 0.0, []
    for step in range(0, 1010, 10):
        # Ten seconds for ten steps; the first chunk and two others compile for minutes.
        now += 300 if step in (0, 200, 400) else 10
        said.append(pace.left(now, step))
    assert said[0] == said[-1] == ""
    assert (said[1], said[20], said[41], said[90]) == (
        "about 16 min left",
        "about 13 min left",
        "about 10 min left",
        "about 2 min left",
    )
