"""Stand-ins that other processes import: lungs by density, and scans whose process ends.

In the folder that ``NORMNET_TEST_FOLDER`` names: ``kill-NAME`` holds how often the process of this
scan is killed, ``gpu-NAME`` lets it lose its GPU once, ``wait`` makes each scan wait until that
file goes, ``done-NAME-*`` tells that the lungs of a scan were looked for.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from normnet.cli.segment import load_networks

FOLDER = "NORMNET_TEST_FOLDER"


def load(*arguments):
    """In place of ``load_networks``, with stand-ins for the lungs in this process."""
    import normnet.pipeline

    normnet.pipeline.find_lungs = find_lungs
    return load_networks(*arguments)


def find_lungs(scan, *arguments):
    """In place of ``normnet.pipeline.find_lungs``."""
    from tests.robustness.conftest import lungs_by_density

    folder = Path(os.environ[FOLDER])
    (folder / f"done-{scan.case_id}-{os.getpid()}-{time.monotonic_ns()}").touch()
    kills = folder / f"kill-{scan.case_id}"
    if kills.exists() and (n := int(kills.read_text())) > 0:
        kills.write_text(str(n - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    lost = folder / f"gpu-{scan.case_id}"
    if lost.exists():
        import normnet.cli.batch.worker

        lost.unlink()
        normnet.cli.batch.worker.is_lost = lambda device: True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    while (folder / "wait").exists():
        time.sleep(0.05)
    return lungs_by_density(scan)


def n_done(folder: Path, name: str) -> int:
    """How often a scan was worked on."""
    return len(list(folder.glob(f"done-{name}-*")))


def at_work(folder: Path) -> list[int]:
    """The processes that looked for the lungs of a scan."""
    return sorted({int(path.name.split("-")[2]) for path in folder.glob("done-*")})
