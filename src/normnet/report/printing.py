"""Pages as PDF, printed by Chromium or Chrome, whichever is installed.

A browser prints what it shows: one style sheet serves screen and paper, and nothing more is to be
installed with the package. The page that is printed holds no scripts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from normnet.errors import OutputError, ResourceError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAX_SECONDS = 120.0


def find_browser() -> str:
    """The path of a browser that prints.

    Raises:
        OutputError: NN-RPT-002 if there is none.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise OutputError(
        "NN-RPT-002",
        "no browser that prints",
        "--report-pdf",
        "install Chromium, or print report.html from your browser",
    )


def print_page(page: bytes) -> bytes:
    """A self-contained page as PDF.

    Raises:
        OutputError: NN-RPT-002 if no browser is installed, 003 if it fails.
        ResourceError: NN-RPT-004 if it takes too long.
    """
    browser = find_browser()
    # nobody else can read a temporary directory
    with tempfile.TemporaryDirectory(prefix="normnet-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source, printed = folder / "report.html", folder / "report.pdf"
        source.write_bytes(page)
        # Chromium refuses its sandbox to root, as in most containers; the page holds no scripts.
        as_root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        command = [
            browser,
            "--headless",
            *as_root,
            "--disable-gpu",
            "--no-pdf-header-footer",
            "--disable-background-networking",
            f"--user-data-dir={folder / 'profile'}",
            f"--print-to-pdf={printed}",
            source.as_uri(),
        ]
        try:
            subprocess.run(command, capture_output=True, timeout=MAX_SECONDS, check=True)
            return printed.read_bytes()
        except subprocess.TimeoutExpired as error:
            found = f"the browser printed nothing in {MAX_SECONDS:.0f} seconds"
            raise ResourceError(
                "NN-RPT-004", found, "report.pdf", "print report.html from your browser"
            ) from error
        except (OSError, subprocess.CalledProcessError) as error:
            raise OutputError(
                "NN-RPT-003",
                "the browser did not print",
                "report.pdf",
                "print report.html from your browser",
            ) from error
