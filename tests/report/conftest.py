"""Results of phantoms with their reports, and a browser to look at them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from normnet.config import Config
from normnet.models import Members, Model
from normnet.pipeline import Segmentation
from normnet.quantification import quantify
from normnet.report.scan_report import Maps, write_report
from normnet.results.folder import write_results
from normnet.results.schema import RESULT, read_result
from tests.phantoms import thorax_phantom

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
ZONES = {
    f"{side}_{third}": {"lung_ml": 500.0, "lesion_ml": 5.0 * n, "lesion_percent": 1.0 * n}
    for n, (side, third) in enumerate(
        (s, t) for s in ("right", "left") for t in ("upper", "middle", "lower")
    )
}
QUANTIFICATION = {
    "zones": ZONES,
    "hu_bands": {
        "low": {
            "low_hu": None,
            "high_hu": -950,
            "lung_ml": 90.0,
            "lung_percent": 3.0,
            "lesion_ml": 0,
        },
        "normal": {
            "low_hu": -950,
            "high_hu": -750,
            "lung_ml": 2600.0,
            "lung_percent": 87.0,
            "lesion_ml": 2.5,
        },
    },
    "ground_glass_percent": 61.0,
    "consolidation_percent": 39.0,
    "mean_lung_density_hu": -831.5,
    "lung_density_histogram": {
        "edges_hu": [-1050, -850, -650, -450],
        "lung_ml": [1000.0, 1500.0, 500.0],
        "lesion_ml": [0.0, 20.0, 80.0],
    },
    "lesions": {
        "count": 2,
        "largest": [
            {"label": 1, "ml": 80.0, "diameter_mm": 51.5, "zone": "left_lower", "mean_hu": -500.5}
        ],
    },
    "severity": {"zones_score": 7, "zones": {"right_upper": 0}},
    "split_votes_percent": 12.5,
}
MODEL = Model(
    Members([None] * 3, Config(), {"name": "tiny", "version": "1"}),
    Members([], Config(), {"name": "lungs"}),
    Members([], Config(), {"name": "lesions"}),
)


def segmented(case_id="phantom", warnings=(), **changes):
    """A phantom, its truth as a segmentation, and the phantom's lungs by sides."""
    from dataclasses import replace

    phantom = thorax_phantom((32, 64, 64), (5.0, 5.0, 5.0), **changes)
    lungs = np.where(np.arange(64) < 32, 1, 2).astype(np.uint8) * phantom.lung_mask
    votes = (phantom.lung_mask & ~phantom.lesion_mask & (phantom.scan.volume_hu >= -500)) * 3
    found = Segmentation(
        phantom.lesion_mask,
        lungs,
        np.where(phantom.lesion_mask, 191, 0).astype(np.uint8),
        votes.astype(np.uint8),
        quantify(phantom.lesion_mask, lungs, phantom.scan.geometry.voxel_ml),
        tuple(warnings),
        {"lungs": 0.1},
        "lungs",
        {"lesion_ml_range": [90.0, 130.0], "boundary_hu": -700.0, "share_range": [0.05, 0.25]},
    )
    return replace(phantom.scan, case_id=case_id), found


def write_case(folder: Path, case_id="phantom", warnings=(), extra=None, **changes):
    """A result folder with its report; ``extra`` goes into ``result.json``."""
    scan, found = segmented(case_id, warnings, **changes)
    write_results(found, scan, folder, MODEL, key={"input": "1", "place": "2"})
    result = {**read_result(folder), **(extra or {})}
    (folder / RESULT).write_text(json.dumps(result))
    write_report(folder, scan, Maps.of(found), result)
    return scan, found


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A folder of two results with reports, one with hostile texts, and one failure."""
    from normnet.errors import GeometryError
    from normnet.report.cohort import write_index
    from normnet.results.folder import write_failure
    from normnet.results.table import write_table

    out = tmp_path_factory.mktemp("cohort")
    edges = {"lesion_ml": [90.0, 130.0], "regions": {"left_lower": [20.5, 30.5]}}
    extra = {
        "quantification": QUANTIFICATION,
        "uncertainty": edges,
        "quality": {"flags": ["thick_slices"]},
    }
    write_case(out / "plain", extra=extra)
    flags = {"flags": [HOSTILE]}
    write_case(out / "hostile", HOSTILE, (HOSTILE, "dense"), {"quality": flags}, seed=1)
    write_failure(out / "broken", "broken", GeometryError("NN-GEO-002", HOSTILE, "x"))
    write_table(out)
    write_index(out)
    return out


@pytest.fixture(scope="module")  # Playwright's event loop must not outlive a file's tests
def browser():
    """Debian's Chromium with WebGL 2 in software."""
    if not Path(CHROMIUM).is_file():
        pytest.skip("no Chromium is installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = [
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--no-sandbox",
    ]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a page; what it asks the network for, logs or fails with must be nothing."""
    contexts, seen = [], []

    def open_page(path: Path, ready: str = ""):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        own = path.as_uri()
        page.on("request", lambda request: note_request(request.url, own))
        page.on("console", note_message)
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation',"
            " (event) => window.violations.push(event.violatedDirective + event.blockedURI))"
        )
        page.goto(own)
        if ready:
            page.wait_for_selector(ready)
        return page

    def note_message(message) -> None:
        if message.type == "error":
            seen.append(message.text)

    def note_request(url: str, own: str) -> None:
        if url.split("#")[0] != own and not url.startswith("data:"):
            seen.append(f"request: {url[:200]}")

    yield open_page
    for context in contexts:
        for page in context.pages:
            seen.extend(page.evaluate("window.violations"))
        context.close()
    assert seen == []
