"""The pages in a browser: no request, no error, a canvas with a picture, controls that work."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.report.conftest import HOSTILE
from tests.report.test_cohort import many

READY = "[data-viewer][data-ready=yes]"


def pixels(page, name="planes"):
    """The canvas as an array, after what was just asked for has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = page.locator(f"canvas[data-{name}]").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)


def orange(picture):
    red, green, blue = (picture[..., n] for n in range(3))
    return int(((red > green + 40) & (green > blue + 20)).sum())


def serious(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    found = axe.Axe().run(page).response["violations"]
    return [
        (rule["id"], [node["html"][:150] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def test_the_viewer_shows_the_ct_and_its_controls_change_it(visit, reported):
    page = visit(reported / "plain" / "report.html", ready=READY)
    first = pixels(page)
    assert len(np.unique(first[..., 0])) > 50
    assert orange(first) > 100
    assert len(np.unique(pixels(page, "solid"))) > 20

    page.locator("[data-opacity]").fill("0")
    assert orange(pixels(page)) < orange(first) / 4
    assert page.locator("[data-opacity-text]").inner_text() == "0 %"
    page.locator("[data-opacity]").fill("100")
    assert orange(pixels(page)) > orange(first) / 2

    before = pixels(page)
    page.get_by_label("Mediastinum (40 / 400 HU)").check()
    assert np.abs(pixels(page) - before).mean() > 2
    page.get_by_label("Lung (−600 / 1500 HU)").check()
    page.locator("[data-opacity]").fill("0")
    before = pixels(page)
    page.get_by_label("Map of anomaly").check()
    assert (np.abs(pixels(page) - before).max(axis=-1) > 30).sum() > 50

    bar = page.locator("[data-scale]").bounding_box()["width"]
    slices = page.evaluate("normnetReport.viewer.planes.screenSlices")
    width = slices[0]["leftTopWidthHeight"][2]
    assert abs(bar - 50 * width / abs(slices[0]["fovMM"][0])) < 2  # one device pixel per CSS pixel

    place = page.locator("[data-place]")
    text = place.inner_text()
    assert "HU" in text
    page.locator("canvas[data-planes]").focus()
    for key in ("PageUp", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert place.inner_text() != text
    page.locator("[data-slice]").fill("3")
    assert place.inner_text().count("mm") == 1
    before = pixels(page, "solid")
    page.locator("canvas[data-solid]").focus()
    page.keyboard.press("ArrowLeft")
    assert np.abs(pixels(page, "solid") - before).mean() > 0.2


def test_the_crosshair_moves_as_the_patient_lies(visit, reported):
    """An arrow to the right of the picture goes to the patient's left, x grows (LPS)."""
    page = visit(reported / "plain" / "report.html", ready=READY)

    position = (
        "Object.values(normnetReport.viewer.planes.frac2mm("
        "normnetReport.viewer.planes.scene.crosshairPos))"
    )
    start = page.evaluate(position)
    page.locator("canvas[data-planes]").focus()
    for key in ("ArrowRight", "ArrowUp", "PageUp"):
        page.keyboard.press(key)
    moved = page.evaluate(position)
    right, front, up = (b - a for a, b in zip(start[:3], moved[:3], strict=True))
    assert right < 0 < front and up > 0


def test_another_mask_can_be_shown(visit, reported):
    """As the local app does it."""
    page = visit(reported / "plain" / "report.html", ready=READY)
    full = orange(pixels(page))
    page.evaluate(
        """async () => {
          const viewer = normnetReport.viewer;
          const file = viewer.planes.volumes[1].toUint8Array();
          window.first = file.slice();
          file.fill(0, 352);
          await viewer.setLesions(file.buffer);
        }"""
    )
    assert orange(pixels(page)) < full / 4
    page.evaluate("normnetReport.viewer.setLesions(first.buffer)")
    assert orange(pixels(page)) == pytest.approx(full, rel=0.01)


@pytest.mark.parametrize("name", ["plain/report.html", "hostile/report.html", "index.html"])
def test_pages_are_accessible_and_fit(visit, reported, name):
    page = visit(reported / name, ready=READY if "report" in name else "")
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_are_shown_as_text(visit, reported):
    page = visit(reported / "hostile/report.html", ready=READY)
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.title().startswith(HOSTILE)


def test_marks_can_be_hidden(visit, reported):
    page = visit(reported / "plain/report.html")
    marks = page.locator(".views .marks").first
    assert marks.is_visible()
    page.get_by_label("Show the marks").uncheck()
    assert not marks.is_visible()


def test_without_webgl_the_page_says_so(visit, reported):
    page = visit(reported / "plain/report.html")
    page.context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.reload()
    page.wait_for_selector("[data-viewer][data-ready=failed]")
    assert "WebGL" in page.locator("[data-message]").inner_text()


def test_the_table_is_sorted_and_searched_by_keyboard(visit, tmp_path):
    from normnet.report.cohort import write_index

    many(tmp_path, 1000)
    write_index(tmp_path)
    page = visit(tmp_path / "index.html")
    names = page.locator("#scans tbody th")
    page.get_by_role("button", name="Lesion, ml").focus()
    page.keyboard.press("Enter")
    assert names.first.inner_text() == "case_999"
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Lesion, ml")
    page.keyboard.press("Enter")
    assert names.first.inner_text() == "case_0"
    page.get_by_role("button", name="Scan").click()
    assert [names.nth(n).inner_text() for n in (1, 2, 10)] == ["case_1", "case_2", "case_10"]
    page.get_by_label("Find").fill("case_99")
    assert page.locator("#scans tbody tr:visible").count() == 11
    assert page.locator("#shown").inner_text() == "11 of 1000"
