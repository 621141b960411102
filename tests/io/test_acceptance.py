"""Python callers and readers pass one gate: the same fault ends in the same error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.io.acceptance import accept, accept_labels
from normnet.pipeline import segment
from normnet.scan import Geometry, Scan
from tests import phantoms

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def scan() -> Scan:
    return phantoms.thorax_phantom((20, 24, 28), (2.5, 2.0, 1.5), vessels=False).scan


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(NormNetError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.code


def with_value(volume: np.ndarray, value: float) -> np.ndarray:
    spoiled = volume.astype(np.float32)
    spoiled[0] = value
    return spoiled


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda hu: with_value(hu, NAN), "NN-VAL-005"),
        (lambda hu: with_value(hu, INF), "NN-VAL-005"),
        (lambda hu: with_value(hu, -INF).astype(np.float64), "NN-VAL-005"),
        (lambda hu: np.zeros_like(hu), "NN-VAL-006"),
        (lambda hu: np.full(hu.shape, -1000.0), "NN-VAL-006"),
        (lambda hu: hu + 1024, "NN-VAL-007"),
        (lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32), "NN-VAL-007"),
        (lambda hu: (hu + 1000).clip(0, 255).astype(np.uint8), "NN-VAL-007"),
        (lambda hu: np.where(hu > 45, 20000, hu), "NN-VAL-007"),
        (lambda hu: hu.astype(np.complex64), "NN-VAL-008"),
        (lambda hu: hu > -500, "NN-VAL-008"),
        (lambda hu: hu.astype(object), "NN-VAL-008"),
        (lambda hu: hu.tolist(), "NN-VAL-008"),
        (lambda hu: None, "NN-VAL-008"),
        (lambda hu: np.repeat(hu[..., None], 3, 3), "NN-GEO-013"),
        (lambda hu: hu[5], "NN-GEO-013"),
        (lambda hu: hu[:1], "NN-GEO-012"),
        (lambda hu: hu[:0], "NN-GEO-012"),
        (lambda hu: np.broadcast_to(hu[:1, :1, :1], (9000, 24, 28)), "NN-RES-001"),
    ],
)
def test_values_types_and_shapes(change, code, scan):
    spoiled = replace(scan, volume_hu=change(scan.volume_hu))
    assert code_of(segment, spoiled, None) == code


@pytest.mark.parametrize(
    ("geometry", "code"),
    [
        ({"spacing_mm": (2.5, 0.0, 1.5)}, "NN-GEO-011"),
        ({"spacing_mm": (2.5, -2.0, 1.5)}, "NN-GEO-011"),
        ({"spacing_mm": (NAN, 2.0, 1.5)}, "NN-GEO-011"),
        ({"spacing_mm": (2500.0, 2.0, 1.5)}, "NN-GEO-011"),
        ({"spacing_mm": (2.0, 1.5)}, "NN-GEO-009"),
        ({"spacing_mm": None}, "NN-GEO-009"),
        ({"spacing_mm": ("a", 2.0, 1.5)}, "NN-GEO-009"),
        ({"origin_mm": (0.0, INF, 0.0)}, "NN-GEO-010"),
        ({"origin_mm": (0.0, 0.0, 0.0, 1.0)}, "NN-GEO-009"),
        ({"direction": ((1.0, 0.5, 0.0), (0.0, 0.9, 0.0), (0.0, 0.0, 1.0))}, "NN-GEO-010"),
        ({"direction": ((2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "NN-GEO-010"),
        ({"direction": ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "NN-GEO-010"),
        ({"direction": ((NAN, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "NN-GEO-010"),
        ({"direction": ((1.0, 0.0, 0.0),)}, "NN-GEO-009"),
    ],
)
def test_geometries(geometry, code, scan):
    spoiled = replace(scan, geometry=replace(Geometry((2.5, 2.0, 1.5)), **geometry))
    assert code_of(segment, spoiled, None) == code


@pytest.mark.parametrize("dtype", ["int8", ">i2", "int32", "int64", "float64", ">f4"])
def test_other_number_types_become_those_of_a_reader(dtype, scan):
    hu = np.clip(scan.volume_hu, -128, 127) if dtype == "int8" else scan.volume_hu
    given = replace(scan, volume_hu=hu.astype(dtype))
    if dtype == "int8":
        assert code_of(accept, given) == "NN-VAL-007"
        return
    accepted = accept(given)
    assert accepted.volume_hu.dtype == np.int16
    np.testing.assert_array_equal(accepted.volume_hu, scan.volume_hu)


def test_what_a_reader_gave_is_not_changed(scan, tmp_path):
    read = read_ct(phantoms.write_nifti(scan, tmp_path / "ct.nii.gz"))
    assert accept(read).volume_hu is read.volume_hu and accept(read).warnings == read.warnings
    values = scan.volume_hu + np.float32(0.25)
    assert accept(replace(scan, volume_hu=values)).volume_hu is values


def test_warnings_are_given_once():
    phantom = phantoms.thorax_phantom((32, 96, 96), (5.0, 3.4, 3.4), vessels=False).scan
    volume = phantom.volume_hu.copy()
    volume[12, 30:48, 24:42] += 150
    doubtful = replace(phantom, volume_hu=volume, warnings=("seen before",))
    accepted = accept(doubtful)
    assert accepted.warnings[0] == "seen before" and "slice 13" in accepted.warnings[1]
    assert accept(accepted).warnings == accepted.warnings


def test_a_case_id_cannot_break_the_line(scan):
    spoiled = replace(scan, volume_hu=np.zeros_like(scan.volume_hu), case_id="a\nb")
    assert code_of(segment, spoiled, None) == "NN-VAL-006"


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        (lambda shape: np.ones((2, 3, 4), np.uint8), "NN-GEO-031"),
        (lambda shape: np.ones((*shape, 1), np.uint8), "NN-GEO-031"),
        (lambda shape: np.full(shape, NAN), "NN-VAL-005"),
        (lambda shape: np.full(shape, 0.5), "NN-VAL-009"),
        (lambda shape: np.full(shape, -1), "NN-VAL-009"),
        (lambda shape: np.full(shape, 256), "NN-VAL-009"),
        (lambda shape: np.full(shape, 1j), "NN-VAL-008"),
        (lambda shape: np.ones(shape).tolist(), "NN-VAL-008"),
        (lambda shape: np.full(shape, "lung"), "NN-VAL-008"),
    ],
)
def test_labels_that_are_none(labels, code, scan):
    assert code_of(accept_labels, labels(scan.shape), scan) == code


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_labels_of_any_number_type(dtype, scan):
    labels = (scan.volume_hu < -500).astype(dtype)
    accepted = accept_labels(labels, scan)
    assert accepted.dtype == np.uint8
    np.testing.assert_array_equal(accepted, labels)
