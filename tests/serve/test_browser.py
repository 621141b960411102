"""The app in Debian's Chromium: upload, progress, viewer, slider, lesions, save, download."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.report.test_browser import pixels, serious

READY = "[data-viewer][data-ready=yes]"
EDITED = "[data-now-ml]"


@pytest.fixture
def visit(browser, server):
    """Open a page of the app; errors and requests to any other host must be none."""
    contexts, seen = [], []

    def open_page(path=""):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.on("request", lambda request: note(request.url))
        page.on("console", lambda message: message.type == "error" and seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(server.url)
        assert page.url == f"{server.base}/"  # the token has left the address
        if path:
            page.goto(server.base + path)
        return page

    def note(url):
        if not url.startswith((f"{server.base}/", "data:", f"blob:{server.base}")):
            seen.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert seen == []


def ml(page):
    return float(page.locator(EDITED).get_attribute("data-now-ml"))


def change(page, act):
    """Do something that changes the numbers, and wait for them."""
    with page.expect_response(lambda answer: answer.url.endswith("/preview")):
        act()
    page.wait_for_selector("[data-now]:not(.busy)")
    return ml(page)


def test_from_the_upload_to_the_download(visit, server, ct, tmp_path):
    page = visit()
    hostile = tmp_path / "<img src=x onerror=alert(1)>.nii.gz"
    hostile.write_bytes(ct.read_bytes())
    row = page.locator("[data-jobs] li").filter(has_text="onerror")
    with server.held():
        page.locator("[data-file]").set_input_files(hostile)
        row.wait_for()
        row.locator("progress[value]").wait_for()
    row.get_by_role("link", name="Look at it").click()
    page.wait_for_selector(READY)
    page.wait_for_selector(EDITED)
    job = page.url.rsplit("/", 1)[1]
    assert "onerror" in page.locator("h1").inner_text()
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert len(np.unique(pixels(page)[..., 0])) > 50
    assert serious(page) == []

    first = server.json("GET", f"/api/jobs/{job}/result/result.json")["volumes"]["both"]
    assert ml(page) == first["lesion_ml"]
    slider = page.locator("[data-share]")
    assert slider.input_value() == "12"
    before = pixels(page)
    less = change(page, lambda: slider.fill("90"))
    assert less < first["lesion_ml"]
    assert np.abs(pixels(page) - before).max() > 50
    slider.focus()
    assert change(page, lambda: page.keyboard.press("ArrowLeft")) >= less
    assert (
        change(page, lambda: page.get_by_role("button", name="Back to").click())
        == (first["lesion_ml"])
    )

    place = page.locator("[data-place]").inner_text()
    page.get_by_role("button", name="Show 2").click()
    assert page.locator("[data-place]").inner_text() != place
    largest = float(page.locator("[data-lesions] tr").first.locator("td").nth(1).inner_text())
    left = change(page, lambda: page.get_by_label("Accept lesion 1", exact=True).uncheck())
    assert left == pytest.approx(first["lesion_ml"] - largest, abs=0.01)
    page.get_by_role("button", name="Save as a new result").click()
    page.get_by_text("saved as edited 1").wait_for()
    with page.expect_download() as download:
        page.locator(".saved").nth(1).get_by_role("link", name="result.json").click()
    saved = json.loads(download.value.path().read_text())
    assert saved["volumes"]["both"]["lesion_ml"] == left
    assert saved["edited"]["removed"][0]["label"] == 1
    assert download.value.suggested_filename == f"normnet-{job[:6]}-edited-1-result.json"
    with page.expect_download() as download:
        page.locator(".saved").first.get_by_role("link", name="All files").click()
    assert download.value.path().stat().st_size > 10_000


def test_a_folder_is_taken(visit, server, series):
    page = visit()
    page.locator("[data-folder]").set_input_files(series)
    row = page.locator("[data-jobs] li").filter(has_text="series")
    row.get_by_role("link", name="Look at it").wait_for()
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Delete").click()
    row.wait_for(state="detached")


@pytest.mark.parametrize("ready", ["[data-jobs] li", READY])
def test_pages_are_accessible_and_fit(visit, done, ready):
    page = visit(f"/jobs/{done}" if ready == READY else "")
    page.wait_for_selector(ready)
    if ready == READY:
        page.wait_for_selector(EDITED)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tables = page.locator(".scroll").evaluate_all("all => all.map((one) => one.scrollWidth)")
        assert all(each < width for each in tables)  # no column is out of sight


def test_without_the_token_there_is_nothing(browser, server):
    context = browser.new_context()
    page = context.new_page()
    for url in (server.base, f"{server.base}/?token=wrong"):
        assert page.goto(url).status == 403
        assert "NN-APP-008" in page.locator("body").inner_text()
    context.close()
