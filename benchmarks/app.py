"""The local app beside the plain command, and how long a move of its slider takes.

    python benchmarks/app.py demo/lidc0001.nii.gz $NORMNET_DATA/covid_dev/coronacases_004_ct.nii.gz

It prints the tables of docs/results.md, section "The app". Each CT is segmented by the command and
dropped into the app twice: the first job loads the networks. "The same files" is the command with
the options that write what the app writes. Then the page of the result is opened in Debian's
Chromium, which draws without a graphics card, and the slider is moved. ``--folder`` keeps the jobs;
``--page`` measures the pages of such jobs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from normnet.evaluation.tables import markdown_head, markdown_row

CHROMIUM = "/usr/bin/chromium"
DRAW_WITHOUT_CARD = (
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
)
POSITIONS = (30, 5, 60, 15, 25, 50, 10, 40)  # of the slider, %
SAME_FILES = ("--report", "--seg-nrrd")
OF_RUNS = (
    "command, s",
    "command, the same files, s",
    "app, first CT, s",
    "app, next CT, s",
    "first / command",
    "first / same files",
    "next / same files",
)
OF_PAGE = (
    "page to viewer, s",
    "page to slider, s",
    "move to picture, median, s",
    "move to picture, longest, s",
    "move to numbers, median, s",
    "move to numbers, longest, s",
)
# Notes when a new mask has been drawn.
WATCH = """() => {
  const { viewer } = normnetApp;
  const draw = viewer.setLesions;
  viewer.setLesions = async (mask) => {
    await draw(mask);
    await new Promise(requestAnimationFrame);
    window.drawn = performance.now();
  };
}"""
MOVE = """async (position) => {
  const slider = document.querySelector("[data-share]");
  window.drawn = null;
  const start = performance.now();
  slider.value = position;
  slider.dispatchEvent(new Event("input"));
  while (document.querySelector("[data-now].busy") || window.drawn === null) {
    await new Promise((next) => setTimeout(next, 5));
  }
  return [window.drawn - start, performance.now() - start];
}"""


class App:
    """A running ``normnet serve``.

    Args:
        url: As it printed it.
    """

    def __init__(self, url: str):
        self.url = url
        self.base, self.token = url.split("/?token=")

    def ask(self, method: str, path: str, body: bytes) -> Any:
        """The JSON of an answer."""
        port = self.base.rsplit(":", 1)[1]
        headers = {
            "Cookie": f"normnet_{port}={self.token}",
            "Origin": self.base,
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(self.base + path, body, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def drop(self, ct: Path) -> float:
        """Seconds from the upload of a CT to its result."""
        start = time.perf_counter()
        job = self.ask("POST", "/api/jobs", json.dumps({"title": ct.name}).encode())["id"]
        self.ask("PUT", f"/api/jobs/{job}/files?name={ct.name}", ct.read_bytes())
        self.ask("POST", f"/api/jobs/{job}/start", b"{}")
        while True:
            jobs = self.ask("GET", "/api/jobs", b"")["jobs"]
            state = next(each["state"] for each in jobs if each["id"] == job)
            if state == "done":
                return time.perf_counter() - start
            if state == "failed":
                raise SystemExit(f"{ct.name}: {jobs}")
            time.sleep(0.1)


@contextmanager
def running_app(folder: Path) -> Iterator[App]:
    """The app on any free port."""
    options = ("--no-browser", "--port=0", "--keep-days=0", f"--folder={folder}")
    command = [sys.executable, "-m", "normnet", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield App(process.stdout.readline().split()[1])
        finally:
            process.terminate()


def time_command(ct: Path, *options: str) -> float:
    """Seconds from the start of ``normnet segment`` to its end."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "normnet", "segment", str(ct), "--out", out, *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def look(page: Page, app: App, job: str) -> tuple[float, float, list[list[float]]]:
    """Seconds to the viewer, to the slider, and (to the picture, to the numbers) of each move."""
    start = time.perf_counter()
    page.goto(f"{app.base}/jobs/{job}", wait_until="commit")
    page.wait_for_selector("[data-viewer][data-ready=yes]")
    viewer = time.perf_counter() - start
    page.wait_for_selector("[data-now-ml]")
    while not page.evaluate("Boolean(window.normnetApp)"):  # the policy forbids wait_for_function
        page.wait_for_timeout(10)
    ready = time.perf_counter() - start
    page.evaluate(WATCH)
    moves = [page.evaluate(MOVE, position) for position in POSITIONS]
    return viewer, ready, [[ms / 1000 for ms in move] for move in moves]


def main() -> None:
    """Read the options and measure every CT."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cts", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, help="for the jobs of the app")
    parser.add_argument("--page", action="store_true", help="only open the jobs that it has")
    options = parser.parse_args()
    if options.page and not options.folder:
        parser.error("--page needs --folder")

    runs, views = [], []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=DRAW_WITHOUT_CARD)
        for ct in options.cts:
            name = ct.name.removesuffix(".gz").removesuffix(".nii")
            commands = [] if options.page else [time_command(ct), time_command(ct, *SAME_FILES)]
            with running_app((options.folder or Path(place)) / name) as app:
                if commands:
                    plain, same, first, next_one = *commands, app.drop(ct), app.drop(ct)
                    ratios = (first / plain, first / same, next_one / same)
                    seconds = (f"{s:.1f}" for s in (plain, same, first, next_one))
                    runs.append((name, *seconds, *(f"{ratio:.2f}" for ratio in ratios)))
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.set_default_timeout(300_000)
                page.goto(app.url)
                job = app.ask("GET", "/api/jobs", b"")["jobs"][0]["id"]
                viewer, ready, moves = look(page, app, job)
                page.close()
            drawn, numbers = zip(*moves, strict=True)
            each = (statistics.median(drawn), max(drawn), statistics.median(numbers), max(numbers))
            views.append((name, f"{viewer:.1f}", f"{ready:.1f}", *(f"{s:.2f}" for s in each)))
        browser.close()

    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    load = os.getloadavg()[1]
    print(f"{os.cpu_count()} CPUs, OMP_NUM_THREADS={threads}, mean load of 5 minutes {load:.1f}")
    if runs:
        print(markdown_head(("CT", *OF_RUNS)))
        print("\n".join(markdown_row(row) for row in runs) + "\n")
    print(markdown_head(("CT", *OF_PAGE)))
    print("\n".join(markdown_row(row) for row in views))


if __name__ == "__main__":
    main()
