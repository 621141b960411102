"""Memory and time of `normnet segment` over thousands of tiny CTs, and what more workers bring.

    python benchmarks/scale.py flat --n 10000
    python benchmarks/scale.py workers --ct ct.nii.gz --n 6

`flat` makes tiny NIfTI files with different bytes, each a CT of its own to normnet. One process
then runs the real census, plan, queue, reader, pipeline and writer over them. Only what networks
would say is a stub: lungs by density, no candidate of a lesion. Drawing `preview.png` takes most of
the time of such a tiny CT; `--no-picture` writes an empty one. It prints the resident memory and
the milliseconds per scan (by the clock, and of the CPU) after certain numbers of scans, and the
seconds of the census and the plan, of the table, and of a second run that finds everything done.
With `--workers` the memory is that of the driver, which has no networks, and that of the largest
worker. TMPDIR chooses the disk; on a slow one the writer waits for it.

`workers` runs copies of one real CT with different bytes with `--workers 1` and `--workers 2`, one
after the other, with the shipped networks. It prints seconds from the start of the process, and
their ratio.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE, SPACING_MM = (16, 24, 24), (10.0, 12.0, 12.0)
MARKS = (100, 1000, 2500, 5000, 7500, 10000)
NO_PICTURE = "NORMNET_BENCHMARK_NO_PICTURE"  # for the processes of the workers, too


def rss_mb(pid: int | str = "self") -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s() -> float:
    """CPU seconds of this process and of the workers; other work on the machine does not count."""
    used = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def memory() -> str:
    largest = max((rss_mb(child.pid) for child in multiprocessing.active_children()), default=None)
    return f"{rss_mb():.0f} MB" + ("" if largest is None else f", worker {largest:.0f} MB")


def make_phantoms(folder: Path, n: int) -> None:
    """One phantom many times; a voxel outside of the body tells the files apart."""
    import numpy as np
    from tests.phantoms import thorax_phantom

    from normnet.io.formats.nifti import write_image

    scan = thorax_phantom(SHAPE, SPACING_MM).scan
    volume = scan.volume_hu.copy()
    base = folder.parent / "phantom.nii.gz"
    write_image(base, volume, scan.geometry)
    data = bytearray(gzip.decompress(base.read_bytes()))
    start = len(data) - volume.nbytes
    for number in range(n):
        digits = np.array([-1000 + number % 100, -1000 + number // 100], np.int16)
        data[start : start + 4] = digits.tobytes()
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"ct{number:05d}.nii.gz").write_bytes(gzip.compress(data, 1, mtime=0))


class Recorder:
    """Memory of this process and seconds, whenever so many scans are done."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.n, self.rows = 0, []
        self.start = time.perf_counter()

    def count(self) -> None:
        self.n += 1
        if self.n in MARKS:
            self.rows.append((self.n, time.perf_counter(), cpu_s(), memory()))


def load_stub(*arguments):
    """The shipped models with networks that say one thing everywhere, and lungs by density."""
    from dataclasses import replace

    import torch
    from PIL import Image
    from tests.robustness.conftest import lungs_by_density

    import normnet.pipeline
    import normnet.results.preview
    from normnet.models import load_model

    class Constant(torch.nn.Module):
        def __init__(self, logit: float):
            super().__init__()
            self.logit = logit

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.full_like(image[:, :1], self.logit)

    normnet.pipeline.find_lungs = lungs_by_density
    if NO_PICTURE in os.environ:
        empty = Image.new("RGB", (64, 64))
        normnet.results.preview.draw_preview = lambda *arguments: empty
    model = load_model()
    model = replace(
        model,
        ensemble=replace(model.ensemble, networks=[Constant(-2.0)]),
        lesions=replace(model.lesions, networks=[Constant(-2.0)]),
    )
    return model, "cpu"


SETTINGS = f"""
[preparation]
spacing_mm = {list(SPACING_MM)}
[inference]
max_members = 1
"""


def flat(n: int, work: Path, workers: int) -> None:
    """Run all phantoms in this process and print memory and time."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import normnet.cli.segment
    from normnet.cli.batch import driver
    from normnet.cli.main import main

    make_phantoms(work / "cts", n)
    (work / "tiny.toml").write_text(SETTINGS)
    recorder = Recorder()
    tell, write_table, mark_done = driver._Told.tell, driver.write_table, driver.mark_done
    seconds = {}

    def told(self, job, outcome):
        tell(self, job, outcome)
        recorder.count()

    def timed(name, function):
        def run(*arguments):
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                seconds[name] = time.perf_counter() - start

        return run

    def planned(*arguments):
        seconds["census and plan"] = time.perf_counter() - recorder.start
        return timed("looking for finished results", mark_done)(*arguments)

    normnet.cli.segment.load_networks = load_stub
    driver._Told.tell = told
    driver.write_table = timed("table", write_table)
    driver.mark_done = planned
    options = ["--out", str(work / "out"), "--config", str(work / "tiny.toml"), "--device", "cpu"]
    options += ["--parquet"] + (["--workers", str(workers)] if workers else [])
    for title in ("first run", "second run"):
        recorder.restart()
        seconds.clear()
        with Path(work / "log.txt").open("w") as log:
            out, sys.stdout = sys.stdout, log
            try:
                code = main(["segment", str(work / "cts"), *options])
            finally:
                sys.stdout = out
        last = (work / "log.txt").read_text().splitlines()[-1]
        print(f"{title}: exit code {code}; {last}; {memory()} at the end")
        for name, value in seconds.items():
            print(f"  {name}: {value:.1f} s")
        before = None
        for done, at, cpu, used in recorder.rows:
            if before:
                each, busy = (
                    1000 * (now - then) for now, then in ((at, before[1]), (cpu, before[2]))
                )
                n_scans = done - before[0]
                print(
                    f"  {before[0]} to {done} scans: {each / n_scans:.1f} ms per scan, "
                    f"{busy / n_scans:.1f} ms of CPU time"
                )
            print(f"  after {done} scans: {used}")
            before = (done, at, cpu)


def workers(ct: Path, n: int, work: Path) -> None:
    """Seconds of one and of two workers over copies of a CT, and their ratio."""
    import numpy as np

    from normnet.io import read_ct, write_image

    (work / "cts").mkdir()
    scan = read_ct(ct)
    volume = scan.volume_hu.copy()
    for number in range(n):
        volume[0, 0, 0] = -1000 + number
        write_image(work / "cts" / f"ct{number}.nii.gz", volume.astype(np.int16), scan.geometry)
    seconds = {}
    for count in (1, 2):
        command = [sys.executable, "-m", "normnet", "segment", str(work / "cts")]
        command += ["--workers", str(count), "--out", str(work / f"out{count}"), "--device", "cpu"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds[count] = time.perf_counter() - start
        print(f"{count} workers: {seconds[count]:.1f} s for {n} scans of {scan.shape}", flush=True)
    print(f"ratio {seconds[1] / seconds[2]:.2f}")
    names = ("lesions.nii.gz", "lungs.nii.gz", "anomaly.nii.gz", "votes.nii.gz")
    for number in range(n):
        one, two = (work / f"out{count}/ct{number}" for count in (1, 2))
        same = [name for name in names if (one / name).read_bytes() == (two / name).read_bytes()]
        print(f"ct{number}: {len(same)} of {len(names)} images have the same bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("flat", "workers"))
    parser.add_argument("--n", type=int, default=10000)
    parser.add_argument("--ct", type=Path, help="of 'workers'")
    parser.add_argument("--workers", type=int, default=0, help="of 'flat': 0 is without")
    parser.add_argument("--no-picture", action="store_true")
    given = parser.parse_args()
    if given.no_picture:
        os.environ[NO_PICTURE] = "1"
    with tempfile.TemporaryDirectory() as place:
        if given.what == "flat":
            flat(given.n, Path(place), given.workers)
        else:
            workers(given.ct, given.n, Path(place))


if __name__ == "__main__":
    main()
