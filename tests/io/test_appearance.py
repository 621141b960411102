"""A whole volume that is no chest CT in HU is refused; each spoiled in at least three ways."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from normnet.datasets.manifest import Case, read_cases
from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.io.appearance import check_appearance
from normnet.io.values import check_hu
from normnet.scan import Scan
from tests import phantoms

SHAPE, SPACING_MM = (32, 96, 96), (5.0, 3.4, 3.4)


@pytest.fixture(scope="module")
def scan() -> Scan:
    """A phantom with a layer of fat, blurred a little, as scanners do."""
    phantom = phantoms.thorax_phantom(SHAPE, SPACING_MM, noise_hu=0).scan
    body = ndimage.binary_fill_holes(phantom.volume_hu[16] > -400)
    fat = body & ~ndimage.binary_erosion(body, iterations=7)
    volume = np.where(fat & (phantom.volume_hu == phantoms.TISSUE_HU), -100.0, phantom.volume_hu)
    volume = ndimage.gaussian_filter(volume, 0.6)
    volume += np.random.default_rng(0).normal(0, 12, SHAPE)
    return replace(phantom, volume_hu=np.rint(volume).astype(np.int16))


def cropped(scan: Scan) -> Scan:
    """With hardly any air around the body."""
    return replace(scan, volume_hu=scan.volume_hu[:, 20:76, 9:87].copy())


def changed(scan: Scan, volume_hu: np.ndarray) -> Scan:
    return replace(scan, volume_hu=volume_hu.clip(-32768, 32767).astype(np.int16))


def refusal(scan: Scan) -> str:
    try:
        check_hu(scan.volume_hu, "ct")
        check_appearance(scan, "ct")
    except NormNetError as error:
        assert "\n" not in str(error) and "; ct; " in str(error)
        return error.code
    return ""


@pytest.mark.parametrize("offset_hu", [-80, -40, 0, 40, 80])
@pytest.mark.parametrize("view", [lambda scan: scan, cropped], ids=["whole", "cropped"])
def test_an_offset_is_not_refused_here(view, offset_hu, scan):
    seen = view(scan)
    assert check_appearance(changed(seen, seen.volume_hu + offset_hu), "ct") == ()


@pytest.mark.parametrize(("order", "flips"), phantoms.ORIENTATIONS[::7])
def test_any_orientation_is_taken(order, flips, scan):
    assert check_appearance(phantoms.reorient(scan, order, flips), "ct") == ()


@pytest.mark.parametrize("centre_hu", [-1000, -900, -700, 0, 1023])
@pytest.mark.parametrize("view", [lambda scan: scan, cropped], ids=["whole", "cropped"])
def test_an_inverted_scale_is_refused(view, centre_hu, scan):
    seen = view(scan)
    code = refusal(changed(seen, centre_hu - seen.volume_hu.astype(int)))
    assert code in ("NN-VAL-007", "NN-VAL-011", "NN-VAL-012")
    if centre_hu == -900:  # all values are as frequent as in a CT
        assert code == "NN-VAL-012"


@pytest.mark.parametrize("slope", [0.5, 1.5, 2, 4])
def test_a_slope_applied_twice_is_refused(slope, scan):
    stored = (scan.volume_hu.astype(float) + 1024) / slope
    once = stored * slope - 1024
    for twice in (once * slope - 1024, (once + 1024) * slope - 1024):
        code = refusal(changed(scan, np.rint(twice)))
        assert code in ("NN-VAL-007", "NN-VAL-011")


def test_an_intercept_applied_twice_is_refused(scan):
    assert refusal(changed(scan, scan.volume_hu.astype(int) - 1024)) in ("NN-VAL-007", "NN-VAL-011")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ends_hu", [(-1024, 3071), (-1000, 1000), (-1300, 600)])
def test_a_ramp_is_refused(axis, ends_hu, scan):
    ramp = np.linspace(*ends_hu, SHAPE[axis]).reshape([-1 if n == axis else 1 for n in range(3)])
    noise = np.random.default_rng(1).normal(0, 10, SHAPE)
    assert refusal(changed(scan, np.rint(ramp + noise))) in ("NN-VAL-007", "NN-VAL-011")


@pytest.mark.parametrize("factor", [0.1, 2.5, 4.0])
def test_a_body_of_no_persons_size_is_refused(factor, scan):
    spacing = tuple(factor * value for value in SPACING_MM)
    assert refusal(replace(scan, geometry=replace(scan.geometry, spacing_mm=spacing))) == (
        "NN-GEO-017"
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_a_flat_body_is_refused(axis, scan):
    spacing = [5.0, 3.4, 3.4]
    spacing[axis] *= 6
    geometry = replace(scan.geometry, spacing_mm=tuple(spacing))
    assert refusal(replace(scan, geometry=geometry)) == "NN-GEO-017"
    assert refusal(cropped(replace(scan, geometry=geometry))) == ""  # no outline in view


def shifted_run(plane: np.ndarray) -> np.ndarray:
    """As a damaged run-length code: from one pixel on, all lie 17 further."""
    flat = plane.ravel().copy()
    flat[3000:] = np.roll(flat[3000:], 17)
    return flat.reshape(plane.shape)


DAMAGE = {
    "wrong signedness": lambda plane: np.where(plane < 0, 32767, plane),
    "shifted run": shifted_run,
    "blank": lambda plane: np.full_like(plane, -1024),
    "upside down": lambda plane: plane[::-1],
    "noise": lambda plane: plane + np.random.default_rng(2).normal(0, 300, plane.shape),
    "double slope": lambda plane: 2 * plane.astype(int) + 1024,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("index", [0, 9, 16, 31])
def test_a_damaged_slice_is_refused_by_its_number(damage, index, scan):
    volume = scan.volume_hu.astype(int)
    volume[index] = DAMAGE[damage](scan.volume_hu[index])
    with pytest.raises(NormNetError, match=f"NN-VAL-013: slice {index + 1} of 32 ") as caught:
        check_appearance(changed(scan, volume), "ct")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("axis", [1, 2])
def test_only_axial_slices_are_compared(axis, scan):
    """Coronal or sagittal storage: a table may lie in one slice alone."""
    order = (axis, 0, 3 - axis)
    volume = scan.volume_hu.copy()
    volume[16] = volume[16, ::-1]
    for array, code in ((scan.volume_hu, ""), (volume, "NN-VAL-013")):
        turned = phantoms.reorient(replace(scan, volume_hu=array), order, (False,) * 3)
        assert refusal(turned) == code


def test_a_doubtful_slice_is_a_warning(scan):
    volume = scan.volume_hu.copy()
    volume[12, 30:48, 24:42] += 150
    (warning,) = check_appearance(replace(scan, volume_hu=volume), "ct")
    assert warning.flag == "motion"
    assert "slice 13 of 32" in warning


def test_few_small_or_far_slices_are_not_judged(scan):
    for part in (scan.volume_hu[12:20], scan.volume_hu[:, :90, :90]):
        volume = part.copy()
        volume[2] = volume[2, ::-1]
        assert "NN-VAL-013" not in refusal(replace(scan, volume_hu=volume))
    volume = scan.volume_hu.copy()
    volume[9] = volume[9, ::-1]
    far = replace(scan.geometry, spacing_mm=(12.0, 3.4, 3.4))
    assert refusal(replace(scan, volume_hu=volume, geometry=far)) == ""


def test_the_look_is_quick():
    phantom = phantoms.thorax_phantom((40, 128, 128), (4.0, 2.5, 2.5)).scan
    large = np.repeat(np.repeat(np.repeat(phantom.volume_hu, 8, 0)[:300], 4, 1), 4, 2)
    geometry = replace(phantom.geometry, spacing_mm=(0.5, 0.625, 0.625))
    started = time.process_time()
    check_appearance(Scan(large, geometry), "ct")
    assert time.process_time() - started < 1.0  # 0.2 s on an idle core


DATA = os.environ.get("NORMNET_DATA", "")


def real_cts() -> list[Case]:
    cases = read_cases(Path(DATA) / "cases.csv") if DATA else []
    return [case for case in cases if case.image.suffix != ".npz"]


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="NORMNET_DATA names no folder of real CTs")
@pytest.mark.parametrize("case", real_cts(), ids=lambda case: case.case_id)
def test_real_cts_pass_and_their_spoiled_copies_do_not(case):
    scan = read_ct(case.image)
    for offset_hu in (-40, 0, 40):
        assert check_appearance(changed(scan, scan.volume_hu + offset_hu), "ct") == ()
    hu = scan.volume_hu.astype(int)
    for spoiled in (-hu, -900 - hu, -1000 - hu, 2 * hu + 1024, 2 * hu - 1024, hu * 3 // 2 + 512):
        assert refusal(changed(scan, spoiled))
