"""A page that is kept fresh while its runs go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cflow_cli.report import gathering, listing, overview, page
from cflow_cli.report.gathering import Gathered

# What may still write, or begin to; the rest has ended, be it well or not.
_GOING = ("running", "pending", "no_news")


def keep_fresh(
    paths: Sequence[Path], file: Path, every: float, say: Callable[[str], Any], **view: Any
) -> Gathered:
    """Write the page again whenever a run below some paths has written, until all have ended or at Ctrl-C.

    While it is kept fresh, the page reloads itself; the last page, also that of Ctrl-C, does not. A page is always
    complete: it takes its file's name by a rename.

    Parameters
    ----------
    paths
        Runs, sweeps, or folders that hold them; runs that begin there later are taken in.
    file
        The HTML file.
    every
        Seconds between two looks at the runs, and between two reloads of the page. After a page that took longer than
        that to make, at least as long is waited.
    say
        Takes the sentences on what goes on.
    **view
        See :func:`cflow_cli.report.page.render_page`.

    Returns
    -------
    Gathered
        What is on the last page.

    Raises
    ------
    UserError
        When a path does not exist or none holds a run, or the file cannot be written.
    """
    shown: Any = None
    try:
        while True:
            began = time.monotonic()
            cells = listing.cells(paths)
            going = sum(cell.status in _GOING for cell in cells)
            if not going:
                break
            # A run writes its manifest with every part; that one was killed shows in its status alone.
            now = [(cell.folder, cell.status, cell.manifest) for cell in cells]
            if now != shown:
                if shown is None:
                    runs = f"{len(cells)} run{'s' * (len(cells) > 1)}"
                    say(f"{file} follows {runs}, {going} still going on; Ctrl-C ends it")
                _write(paths, file, every, view)
                shown = now
            time.sleep(max(every, time.monotonic() - began))
        ended = "all runs have ended"
    except KeyboardInterrupt:
        ended = "not followed any longer"
    gathered = _write(paths, file, None, view)
    say(f"{ended}: {file} stays as it is")
    return gathered


def _write(paths: Sequence[Path], file: Path, every: float | None, view: dict[str, Any]) -> Gathered:
    gathered = gathering.gather(paths)
    view = view | {"swept": gathered.swept}
    overview.build(gathered.everything, **view)  # says which of the columns do not exist
    page.write_page(gathered.everything, file, reload_every=every, **view)
    return gathered
