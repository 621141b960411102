"""report.html: its numbers, its pictures, its escaping, and how it joins a result."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from normnet.errors import OutputError
from normnet.report import charts
from normnet.report.pages import STATIC, TEMPLATES, render, write_number
from normnet.report.printing import print_page
from normnet.report.scan_report import PAGE, Maps, describe
from normnet.report.views import draw_views
from normnet.report.volumes import STEP_HU, average, box_weights, make_volumes
from normnet.results.folder import add_files, is_done, write_results
from normnet.results.preview import LESION
from normnet.results.schema import FILES, RESULT, read_result
from tests.phantoms import reorient
from tests.report.conftest import CHROMIUM, HOSTILE, MODEL, segmented, write_case


def text_of(page: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def page(reported):
    return (reported / "plain" / PAGE).read_text()


def test_the_sentence_and_the_tables_have_the_numbers_of_the_result(page, reported):
    result = read_result(reported / "plain")
    both, text = result["volumes"]["both"], text_of(page)
    assert f"lesions of {both['lesion_ml']:.1f} ml" in text
    assert f"{both['lesion_percent']:.1f} % of the lungs" in text
    assert "90.0 to 130.0 ml" in text
    assert "61 % of them are ground glass, 39 % consolidation" in text
    assert "Left lower zone 500 25.0 20.5 30.5 5.0" in text
    assert "B normal −950 −750 2 600 87.0 2.5" in text
    assert "1 80.00 52 left lower" in text or "1 80.00 51 left lower" in text
    assert "Severity by zones, 0 to 24 7" in text
    assert "Thick slices : the slices are more than 3 mm apart" in text
    assert "(−500 HU and more" in text
    assert "split for 12.5 %" in text
    assert "doi:10.1109/TMI.2021.3066161" in text and "Research use only" in text


def test_a_result_without_the_newer_keys_has_a_report(tmp_path):
    write_case(tmp_path / "old")
    text = text_of((tmp_path / "old" / PAGE).read_text())
    assert "Key slices" in text and "Density" not in text and "zone" not in text.lower()


def test_what_counts_as_bright_stands_in_the_result(tmp_path):
    """Another threshold is shown and used; a result that does not tell it has no such table."""
    scan, found = write_case(tmp_path / "case")
    result = read_result(tmp_path / "case")
    assert result["model"]["bright_hu"] == -500
    ml = {}
    for bright_hu in (-500, -900):
        model = {**result["model"], "bright_hu": bright_hu}
        values = describe(scan, Maps.of(found), {**result, "model": model})
        ml[bright_hu] = sum(values["votes_ml"])
        text = text_of(render("report.html", values).decode())
        assert f"(−{-bright_hu} HU and more" in text
    assert ml[-900] > 2 * ml[-500] > 0
    del result["model"]["bright_hu"]
    values = describe(scan, Maps.of(found), result)
    assert "Agreement" not in text_of(render("report.html", values).decode())


def test_votes_are_counted_by_members():
    hu = np.array([[[-600, -400, -400, 0, 0]]])
    lungs, votes = np.array([[[1, 1, 2, 1, 0]]]), np.array([[[0, 0, 3, 2, 0]]])
    assert charts.count_votes(hu, lungs, votes, 3, -500.0, 0.5) == [0.5, 0.0, 0.5, 0.5]


def test_hostile_texts_are_escaped(reported):
    for file in (reported / "hostile" / PAGE, reported / "index.html"):
        page = file.read_text()
        assert HOSTILE not in page and "<img src=x" not in page
        assert html.escape('<script>alert("x")', quote=False).split('"')[0] in page


def test_every_script_and_style_is_allowed_by_its_sum_and_nothing_else_is(reported):
    for file in (reported / "plain" / PAGE, reported / "index.html"):
        page = file.read_text()
        policy = html.unescape(re.search(r'Policy" content="([^"]+)"', page)[1])
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy and "http" not in policy
        parts = re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
        assert len(parts) == 2 + 2 * (file.name == PAGE)
        for _, text in parts:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        assert policy.count("'sha256-") == len(parts)
        markup = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
        assert not re.search(
            r'\b(style|on\w+)="|(src|href)="(?!data:|#|\w[\w%]*/|results\.csv)', markup
        )


def test_no_page_stands_in_python():
    for path in STATIC.parent.glob("*.py"):
        assert not re.search(r"</?(div|p|table|svg|span|td|li|style)\b", path.read_text()), path
    assert {path.suffix for path in TEMPLATES.iterdir()} == {".html"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_volumes_lie_where_the_scan_lies(order):
    scan, found = segmented()
    flips = (True, False, True)
    index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    turned = [
        a.transpose(order)[index]
        for a in (found.lung_labels, found.lesion_mask, found.anomaly_codes)
    ]
    made = make_volumes(reorient(scan, order, flips), *turned)
    images = {
        name: nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
        for name, data in made.files.items()
    }
    ct = images["ct"]
    affine = scan.geometry.affine[::-1, ::-1][np.ix_([1, 2, 3], [1, 2, 3])]
    assert affine.shape == (3, 3)
    # A voxel of the lesion lies at the same place of the patient and has the same density.
    z, y, x = np.argwhere(found.lesion_mask)[0]
    world = scan.geometry.affine @ [z, y, x, 1]
    ras = np.array([-world[2], -world[1], world[0], 1.0])
    i, j, k = np.rint(np.linalg.solve(ct.affine, ras)[:3]).astype(int)
    assert abs(ct.get_fdata()[i, j, k] - scan.volume_hu[z, y, x]) <= STEP_HU / 2
    assert images["lesions"].get_fdata()[i, j, k] == 1
    assert images["lungs"].get_fdata()[i, j, k] == found.lung_labels[z, y, x]
    assert abs(images["anomaly"].get_fdata()[i, j, k] - 0.75) < 0.01
    start = np.array([-made.start_mm[2], -made.start_mm[1], made.start_mm[0], 1.0])
    i, j, k = np.rint(np.linalg.solve(ct.affine, start)[:3]).astype(int)
    assert images["lesions"].get_fdata()[i, j, k] == 1


def test_averaging_keeps_the_mean_and_thick_slices():
    weights = box_weights(100, 0.7).toarray()
    assert weights.shape == (39, 100)
    assert np.allclose(weights.sum(axis=1), 1) and np.allclose(weights.sum(axis=0), 0.39)
    assert np.array_equal(box_weights(10, 5.0).toarray(), np.eye(10))
    array = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    halves = [np.kron(np.eye(n // 2), [[0.5, 0.5]]).astype(np.float32) for n in array.shape]
    expected = array.reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5))
    assert np.allclose(average(array, halves), expected)


def test_views_show_right_on_the_left_and_the_head_above():
    scan, found = segmented()
    bright = scan.volume_hu.copy()
    bright[:, :, :32][found.lung_labels[:, :, :32] == 1] = 100  # the right lung
    bright[24:][found.lung_labels[24:] == 2] = 100  # and the left apex
    from dataclasses import replace

    views = draw_views(replace(scan, volume_hu=bright), found.lung_labels, found.lesion_mask)
    assert [view.plane for view in views] == ["axial"] * 6 + ["coronal"] * 2
    axial, coronal = views[3], views[6]
    for view in (axial, coronal):
        assert abs(view.bar_px / view.width_px - 50 / (view.width_px * 50 / view.bar_px)) < 1e-6
    grey = np.asarray(Image.open(io.BytesIO(coronal.picture)), float)
    middle = grey[:, grey.shape[1] // 2 :]
    assert middle[: len(grey) // 3].mean() > middle[len(grey) // 3 : 2 * len(grey) // 3].mean()
    grey = np.asarray(Image.open(io.BytesIO(axial.picture)), float)
    marks = np.asarray(Image.open(io.BytesIO(axial.marks)))
    right = (marks[..., :3] == (70, 190, 255)).all(axis=-1)
    assert np.argwhere(right)[:, 1].max() < grey.shape[1] / 2 + 20
    assert (marks[..., :3] == LESION).all(axis=-1).any()


def test_views_have_the_aspect_of_the_patient():
    """Slices of 10 mm and pixels of 2.5 mm: a coronal view is as high as the lungs are long."""
    from tests.phantoms import thorax_phantom

    phantom = thorax_phantom((32, 128, 128), (10.0, 2.5, 2.5))
    views = draw_views(phantom.scan, phantom.lung_mask.astype(np.uint8), phantom.lesion_mask)
    coronal = next(view for view in views if view.plane == "coronal")
    px_per_mm = coronal.bar_px / coronal.bar_mm
    rows = np.flatnonzero(phantom.lung_mask.any(axis=(1, 2)))
    height_mm = min(32, rows[-1] + 2) * 10.0 - max(0, rows[0] - 1) * 10.0
    assert abs(coronal.height_px / px_per_mm - height_mm) < 11


def test_numbers_are_written_for_people():
    assert write_number(1234.56) == "1\u202f234.6" and write_number(-0.01) == "0.0"
    assert write_number(0.02) == "<0.1" and write_number(0) == "0.0"
    assert write_number(-873.4, 0) == "−873" and write_number(None) == "–"


@pytest.mark.parametrize(
    ("percent", "number"),
    [(None, -1), (0.0, 0), (0.1, 1), (5.0, 1), (5.1, 2), (25.0, 2), (60.0, 4), (100.0, 5)],
)
def test_classes_of_shares(percent, number):
    assert charts.share_class(percent) == number


def test_the_bars_of_a_chart_have_the_heights_of_their_values():
    chart = charts.draw_bars([0, 1, 2, 3], {"lung": [2.0, 0.0, 4.0]}, "HU", "ml")
    low, high = chart.series["lung"]
    assert high.height == 2 * low.height == chart.height and high.y == 0
    assert high.x == 2 * low.width and chart.y_ticks[-1].text == "4"
    assert charts.draw_density({"lung_density_histogram": {"edges_hu": [1]}}) is None


def test_a_report_belongs_to_its_result(tmp_path):
    """It is listed and replaced with it, and a changed one is the user's."""
    folder = tmp_path / "case"
    write_case(folder)
    key = read_result(folder)["key"]
    assert set(read_result(folder)["files"]) == {*FILES, PAGE}
    assert is_done(folder, key)
    add_files(folder, {PAGE: b"newer"})
    assert (folder / PAGE).read_bytes() == b"newer" and is_done(folder, key)
    assert {path.name for path in folder.iterdir()} == {*FILES, PAGE, RESULT}
    (folder / PAGE).write_text("mine")
    assert not is_done(folder, key)
    with pytest.raises(OutputError, match="NN-OUT-015"):
        add_files(folder, {PAGE: b"newest"})
    assert (folder / PAGE).read_text() == "mine"
    add = json.loads((folder / RESULT).read_text())
    assert set(add["files"]) == {*FILES, PAGE}


def test_a_new_result_removes_the_report_of_the_old_one(tmp_path):
    folder = tmp_path / "case"
    scan, found = write_case(folder)
    write_results(found, scan, folder, MODEL, key={"input": "3", "place": "2"})
    assert not (folder / PAGE).exists()


def test_the_same_result_gives_the_same_page(tmp_path):
    for name in "ab":
        write_case(tmp_path / name)
    assert (tmp_path / "a" / PAGE).read_bytes() == (tmp_path / "b" / PAGE).read_bytes()


def test_maps_are_read_as_they_were_found(tmp_path):
    scan, found = write_case(tmp_path / "case")
    again = Maps.read(tmp_path / "case", scan)
    assert np.array_equal(again.lesion_mask, found.lesion_mask)
    assert np.array_equal(again.lung_labels, found.lung_labels)
    assert np.array_equal(again.anomaly_codes, found.anomaly_codes)


@pytest.mark.skipif(not shutil.which(CHROMIUM), reason="no Chromium is installed")
def test_a_page_is_printed(reported, monkeypatch):
    scan, found = segmented()
    values = describe(scan, Maps.of(found), read_result(reported / "plain"))
    pdf = print_page(render("report.html", values))
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(OutputError, match="NN-RPT-002"):
        print_page(b"")
