"""index.html: every result and every failure, and nothing of the user's replaced."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from normnet.errors import OutputError
from normnet.report.charts import draw_distribution
from normnet.report.cohort import INDEX, draw_thumbnail, make_index, write_index
from normnet.results.schema import RESULT
from tests.report.test_scan_report import text_of


def test_results_and_failures_have_their_rows(reported):
    text = text_of((reported / INDEX).read_text())
    assert "2 lung CTs segmented, 1 without a result" in text
    assert "broken error NN-GEO-002" in text
    assert "Thick slices : the slices are more than 3 mm apart" in text
    assert 'href="plain/report.html"' in (reported / INDEX).read_text()


def test_the_thumbnail_is_a_coronal_slice(reported, tmp_path):
    data = draw_thumbnail(reported / "plain" / "preview.png")
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as image:
        assert max(image.size) == 264
        pixels = np.asarray(image.convert("RGB"), int)
    assert (pixels.std(axis=(0, 1)) > 20).all()
    assert len(data) < 20_000
    assert draw_thumbnail(tmp_path / "missing.png") is None
    (tmp_path / "text.png").write_text("no picture")
    assert draw_thumbnail(tmp_path / "text.png") is None


def test_a_page_of_the_user_stays(tmp_path):
    (tmp_path / INDEX).write_text("<!doctype html><p>mine")
    with pytest.raises(OutputError, match="NN-OUT-015"):
        write_index(tmp_path)
    assert (tmp_path / INDEX).read_text() == "<!doctype html><p>mine"
    (tmp_path / INDEX).unlink()
    write_index(tmp_path)
    assert "No result in this folder" in text_of((tmp_path / INDEX).read_text())
    write_index(tmp_path)


def test_distributions():
    chart = draw_distribution([0.0, 1.0, 1.0, 9.0], "scans", "ml")
    heights = sorted(round(bar.height) for bar in chart.series["scans"])
    assert len(heights) == 3 and heights[-1] == 2 * heights[0]
    assert draw_distribution([1.0], "scans", "ml") is None
    assert draw_distribution([0.0, 0.0], "scans", "ml") is not None


def many(out, n):
    for number in range(n):
        folder = out / f"case_{number}"
        folder.mkdir()
        row = {"lung_ml": 4000.0 + number, "lesion_ml": number * 1.5, "lesion_percent": number / 30}
        result = {
            "normnet": "0",
            "status": "ok",
            "case_id": folder.name,
            "volumes": {side: row for side in ("both", "right", "left")},
            "warnings": ["a"],
        }
        (folder / RESULT).write_text(json.dumps(result))


def test_a_thousand_rows(tmp_path):
    many(tmp_path, 1000)
    start = time.perf_counter()
    page = make_index(tmp_path)
    assert page.count(b'<th scope="row">case_') == 1000
    assert len(page) < 3_000_000 and time.perf_counter() - start < 20
