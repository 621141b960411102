"""The shipped weights on real CTs: ``NORMNET_DATA`` is a folder with ``cases.csv`` and its CTs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from normnet.cli.main import main
from normnet.datasets.manifest import Case, read_cases
from normnet.evaluation.metrics import compute_overlap
from normnet.io.masks import read_labels, read_mask
from normnet.io.read import read_ct, read_stored
from normnet.pipeline import segment
from normnet.results.schema import RESULT
from tests.phantoms import write_nifti

DATA = os.environ.get("NORMNET_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA, reason="NORMNET_DATA names no folder of real CTs"),
]
BRIGHT_HU = -500


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {case.case_id: case for case in read_cases(Path(DATA) / "cases.csv")}


def test_better_than_a_threshold(cases, shipped_model):
    """Slices of 6 mm, about 16 per cent of the lung diseased; the rival has the same lungs."""
    case = cases["radiopaedia_1"]
    scan = read_ct(case.image)
    found = segment(scan, shipped_model)
    reference = read_mask(case.lesion_mask, scan)
    rival = compute_overlap((scan.volume_hu >= BRIGHT_HU) & (found.lung_labels > 0), reference)
    ours = compute_overlap(found.lesion_mask, reference)
    assert ours.dsc > 0.65
    assert ours.dsc > rival.dsc + 0.15
    assert ours.precision > rival.precision
    lungs = read_mask(case.lung_mask, scan)
    assert compute_overlap(found.lung_labels > 0, lungs).dsc > 0.93
    assert (found.lung_labels > 0)[reference].mean() > 0.9


def test_a_normal_ct_stays_clean(cases, shipped_model):
    scan = read_ct(cases["covidctmd_normal002"].image)
    found = segment(scan, shipped_model)
    assert 3000 < found.volumes["both"]["lung_ml"] < 7000
    assert found.volumes["both"]["lesion_percent"] < 0.5


def test_compressed_dicom_through_the_command_line(cases, tmp_path, capsys):
    """Masks on the very grid of the input; a coarse grid of the network keeps it short."""
    folder = cases["covidctmd_p001"].image
    settings = tmp_path / "coarse.toml"
    settings.write_text("[preparation]\nspacing_mm = [2.0, 1.6, 1.6]\n")
    arguments = [
        "segment",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(settings),
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    assert f"{folder.name}: ok; lesions" in capsys.readouterr().out
    scan, result = read_ct(folder), tmp_path / "out" / folder.name
    assert scan.shape == (148, 512, 512)
    masks = {}
    for name in ("lesions", "lungs", "anomaly", "votes"):
        stored = read_stored(result / f"{name}.nii.gz")
        assert stored.voxels.shape == scan.shape
        np.testing.assert_allclose(stored.geometry.affine, scan.geometry.affine, atol=1e-3)
        masks[name] = stored.voxels
    told = json.loads((result / RESULT).read_text())
    assert told["status"] == "ok"
    assert told["scan"]["shape_zyx"] == [148, 512, 512]
    assert 3000 < told["volumes"]["both"]["lung_ml"] < 7000
    assert not masks["lesions"][masks["lungs"] == 0].any()
    assert masks["lesions"].sum() * scan.geometry.voxel_ml == pytest.approx(
        told["volumes"]["both"]["lesion_ml"], abs=0.01
    )
    assert told["volumes"]["both"]["lesion_ml"] > 10
    lung_hu = np.median(scan.volume_hu[masks["lungs"] > 0])
    assert -950 < lung_hu < -700


def test_a_known_change_is_recovered(cases, tmp_path):
    """Pale disease in a normal CT; a coarse grid of the network keeps it short."""
    case = cases["covidctmd_normal002"]
    scan, settings = read_ct(case.image), tmp_path / "coarse.toml"
    settings.write_text("[preparation]\nspacing_mm = [2.0, 1.6, 1.6]\n")
    options = ["--out", str(tmp_path / "out"), "--config", str(settings), "--device", "cpu"]
    assert main(["segment", str(case.image), *options]) == 0
    (earlier,) = (tmp_path / "out").glob("*/")
    right = read_labels(earlier / "lungs.nii.gz", scan) == 1
    spacing_mm = scan.geometry.spacing_mm
    depth_mm = distance_transform_edt(right, sampling=spacing_mm)
    middle = np.unravel_index(depth_mm.argmax(), scan.shape)
    far_mm = np.sqrt(
        sum(
            ((along - at) * mm) ** 2
            for along, at, mm in zip(
                np.ogrid[tuple(map(slice, scan.shape))], middle, spacing_mm, strict=True
            )
        )
    )
    ball = right & (far_mm < 20)
    soft = np.clip((20 - far_mm) / 3 + 0.5, 0, 1) * right
    hu = scan.volume_hu + 0.35 * soft * np.maximum(30 - scan.volume_hu, 0)  # vessels stay
    write_nifti(replace(scan, volume_hu=np.rint(hu).astype(np.int16)), tmp_path / "later.nii.gz")
    assert main(["segment", str(tmp_path / "later.nii.gz"), *options]) == 0
    command = ["compare", str(earlier), str(tmp_path / "out/later"), "--out", str(tmp_path / "x")]
    assert main(command) == 0
    rows = json.loads((tmp_path / "x/comparison.json").read_text())["regions"]
    true_ml = np.count_nonzero(ball) * scan.geometry.voxel_ml
    assert true_ml > 20
    for region, ml in (("both", true_ml), ("right", true_ml), ("left", 0.0)):
        assert rows[region]["change_ml"] == pytest.approx(ml, abs=0.2 * true_ml)
        assert rows[region]["change_ml_low"] <= ml <= rows[region]["change_ml_high"]
    assert rows["right"]["change_ml_low"] > 0
