"""How long a report on hundreds of runs takes, and how large its page is: ``python -m benchmarks.report outputs/RUN``.

One real run is copied with other settings: optimizers, rates, sizes of the data, seeds. Seconds are those of the
commands as processes of their own, imports included; with Playwright and Chromium also those of the page.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROGRAM = [sys.executable, "-c", "import sys; from cflow_cli.cli import main; sys.exit(main())"]


def copies(run: Path, folder: Path, number: int) -> None:
    """Copy a run so many times, with settings like those of a sweep."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    optimizers = ("gd", "momentum", "rmsprop", "adam", "nadam")
    axes = itertools.product(
        range(-(-number // 100)), optimizers, (0.01, 0.02, 0.05, 0.1, 0.2), (50, 100, 200, 400)
    )
    for place, (seed, optimizer, lr, n) in enumerate(itertools.islice(axes, number)):
        copy = folder / str(place)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
        settings = {**config, "lr": lr, "seed": seed, "data": {**config["data"], "n": n}}
        (copy / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        changed = {
            **manifest,
            "lr": lr,
            "seed": seed,
            "choices": {**manifest["choices"], "optimizer": optimizer},
        }
        (copy / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")


def timed(*arguments: str) -> str:
    """Seconds of a command, on the clock and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*PROGRAM, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{time.perf_counter() - began:.1f} s, {spent:.1f} s of the processor"


def in_browser(page: Path) -> None:
    """Open the page and say how long it and its controls take."""
    from playwright.sync_api import sync_playwright

    actions = {
        "sort": "document.querySelector('#runs thead button').click()",
        "filter": "setFilter('optimizer', '=gd')",
        "open a run": "open('7')",
    }
    with sync_playwright() as playwright:
        chromium = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri())
        ready = tab.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
        print(f"page shown after {ready / 1000:.2f} s")
        for name, action in actions.items():
            spent = tab.evaluate(
                f"() => {{ const a = performance.now(); {action}; return performance.now() - a; }}"
            )
            print(f"{name}: {spent:.0f} ms")
        browser.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--number", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copies(arguments.run, Path(folder) / "runs", arguments.number)
        page = Path(folder) / "report.html"
        print(f"{arguments.number} runs")
        print(f"table as CSV: {timed('report', f'{folder}/runs', '--format', 'csv')}")
        print(
            f"page: {timed('report', f'{folder}/runs', '--html', str(page))}, {page.stat().st_size / 1e6:.2f} MB"
        )
        with contextlib.suppress(ImportError):
            in_browser(page)


if __name__ == "__main__":
    main()
