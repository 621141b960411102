"""Damaged headers are refused, noticed or harmless; and the fuzzer finds bugs that are planted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.robustness import fuzz

SEED = 0


def test_no_damaged_header_is_read_wrongly():
    report = fuzz.fuzz(1000, SEED)
    assert not report.failures, "\n".join(map(str, report.failures))
    ids = [end for end in report.ends if end.startswith("NN-")]
    valid = sum(n for end, n in report.ends.items() if end.startswith("another valid value"))
    assert report.n_inputs == 1000
    assert len(ids) > 20
    assert 100 < report.ends["read"] < 400
    assert 0 < valid < 40


def test_the_same_seed_gives_the_same_input():
    for number in (5, 17):
        original = fuzz.originals()[0]
        one, two = (fuzz.damage(original, np.random.default_rng([SEED, number])) for _ in "12")
        assert one == two
        assert one.data != original.data


# --- planted bugs


def _fill_with_zeros(stream, n_bytes, path, warnings):
    from normnet.io.payload import read_up_to

    data = np.zeros(n_bytes, np.uint8)
    found = read_up_to(stream, n_bytes)
    data[: len(found)] = found
    return data


def _accept_short_data(patch):
    for name in ("nifti", "nrrd", "metaimage"):
        patch.setattr(f"normnet.io.formats.{name}.read_payload", _fill_with_zeros)


def _ignore_nan(patch):
    from normnet.io.geometry import geometry_from_axes

    def lenient(axes, origin, where):
        return geometry_from_axes(axes, np.nan_to_num(origin), where)

    for name in ("nrrd", "metaimage"):
        patch.setattr(f"normnet.io.formats.{name}.geometry_from_axes", lenient)


def _swap_axes(patch):
    """Only where the orientation is that of the qform, which is rarely the case."""
    from normnet.io.formats import nifti

    find = nifti._geometry

    def swapped(header, shape, where, warnings):
        geometry = find(header, shape, where, warnings)
        if header["sform_code"] > 0:
            return geometry
        z, y, x = geometry.spacing_mm
        return type(geometry)((z, x, y), geometry.origin_mm, geometry.direction)

    patch.setattr(nifti, "_geometry", swapped)


def _raise_at_infinity(patch):
    from normnet.io.formats import nifti

    check = nifti.check_spacing

    def broken(spacing, where):
        return check([int(value * 100) / 100 for value in spacing], where)

    patch.setattr(nifti, "check_spacing", broken)


def _hang_at_zero(patch):
    from normnet.io.formats import metaimage

    find = metaimage._shape

    def endless(fields, where):
        while fields.get("NDims") == "0":
            time.sleep(0.01)
        return find(fields, where)

    patch.setattr(metaimage, "_shape", endless)
    patch.setattr(fuzz, "MAX_SECONDS", 0.3)


@pytest.mark.parametrize(
    ("plant", "format_name", "found"),
    [
        (_accept_short_data, "NIfTI", "voxels changed without a word"),
        (_ignore_nan, "NRRD", "origin changed without a word"),
        (_swap_axes, "NIfTI", "spacing changed without a word"),
        (_raise_at_infinity, "NIfTI", "OverflowError"),
        (_hang_at_zero, "MetaImage", "no answer within 0.3 s"),
    ],
)
def test_planted_bugs_are_found(plant, format_name, found, monkeypatch, tmp_path):
    plant(monkeypatch)
    monkeypatch.setattr(fuzz, "SHARES", {**fuzz.SHARES, "DICOM": 0, "NRRD": 0.4})  # quicker
    report = fuzz.fuzz(600, SEED, save=tmp_path)
    right = [f for f in report.failures if f.format == format_name and found in f.found]
    assert right, "\n".join(map(str, report.failures))
    saved = {path.name for path in tmp_path.iterdir()}
    assert f"{right[0].number}.txt" in saved
    assert not [name for name in saved if name.startswith("now_")]
    # The number alone gives the same failure again.
    (again,) = fuzz.fuzz(0, SEED, only=right[0].number).failures
    assert (again.what, again.data) == (right[0].what, right[0].data)
