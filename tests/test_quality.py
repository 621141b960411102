"""Flags of a scan: those of warnings, and those that are measured."""

from __future__ import annotations

import ast
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import normnet
from normnet.quality import FLAGS, describe_quality
from normnet.scan import Doubt, Scan
from tests.phantoms import reorient, thorax_phantom

PHANTOM = thorax_phantom((40, 128, 128), (3.0, 2.5, 2.5), vessels=False)
LABELS = np.where(PHANTOM.lung_mask, np.where(np.arange(128) >= 64, 2, 1), 0).astype(np.uint8)


def scan_of(noise_hu: float, blood_hu: float = 40.0) -> Scan:
    """So much noise, and tissue between the lungs of so many HU."""
    hu = np.where(PHANTOM.scan.volume_hu > -100, 40.0, -900.0)
    hu[:, 40:75, 58:70] = blood_hu
    hu += np.random.default_rng(0).normal(0, noise_hu, hu.shape)
    return replace(PHANTOM.scan, volume_hu=np.rint(hu).astype(np.int16))


@pytest.mark.parametrize("noise_hu", [10, 30, 60])
def test_noise_is_measured(noise_hu):
    told = describe_quality(scan_of(noise_hu), LABELS, ())
    assert told["noise_hu"] == pytest.approx(noise_hu, rel=0.2)
    assert ("noise" in told["flags"]) == (noise_hu > 45)


@pytest.mark.parametrize(("blood_hu", "flagged"), [(40, False), (80, False), (180, True)])
def test_contrast_medium_is_seen(blood_hu, flagged):
    told = describe_quality(scan_of(15, blood_hu), LABELS, ())
    assert ("contrast_medium" in told["flags"]) == flagged
    assert (told["contrast_percent"] > 25) == flagged


def test_storage_is_no_matter():
    scan, order, flips = scan_of(20, 180), (2, 0, 1), (True, False, True)
    labels = reorient(replace(scan, volume_hu=LABELS.astype(np.int16)), order, flips).volume_hu
    told = describe_quality(reorient(scan, order, flips), labels, ())
    assert told == describe_quality(scan, LABELS, ())


def test_thick_slices():
    scan = scan_of(10)
    assert describe_quality(scan, LABELS, ())["flags"] == []
    thick = replace(scan, geometry=replace(scan.geometry, spacing_mm=(3.01, 2.5, 2.5)))
    told = describe_quality(thick, LABELS, ())
    assert (told["flags"], told["slice_mm"]) == (["thick_slices"], 3.01)


def test_nothing_to_measure_in_a_small_scan():
    labels = np.ones((4, 6, 6), np.uint8)
    scan = Scan(np.full(labels.shape, -900, np.int16))
    told = describe_quality(scan, labels, ())
    assert told["noise_hu"] is told["contrast_percent"] is None


def test_flags_of_warnings_in_the_order_of_the_list():
    doubts = (
        "plain",
        Doubt("cut", "lungs_cut"),
        Doubt("out", "breath_out"),
        Doubt("x", "lungs_cut"),
    )
    assert describe_quality(scan_of(10), LABELS, doubts)["flags"] == ["breath_out", "lungs_cut"]


def test_a_doubt_is_a_text():
    doubt = Doubt("the scan cuts the lungs", "lungs_cut")
    assert doubt == "the scan cuts the lungs"
    assert pickle.loads(pickle.dumps(doubt)).flag == "lungs_cut"
    assert Doubt("without").flag == ""


def test_every_flag_is_raised_somewhere_and_listed():
    raised = set()
    for path in Path(normnet.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Doubt":
                raised.add(node.args[1].value)
    measured = {"thick_slices", "noise", "contrast_medium"}
    assert raised | measured == set(FLAGS)
    assert not raised & measured
