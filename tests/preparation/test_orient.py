"""All 48 ways to store axes, there and back, without moving anything in the world."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.errors import GeometryError
from normnet.preparation.orient import Orientation, snap_spacing
from normnet.scan import Geometry, Scan
from tests.phantoms import ORIENTATIONS, reorient


@pytest.fixture(scope="module")
def head_back_left() -> Scan:
    """Already in the order that the network wants, every voxel with a value of its own."""
    volume = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    return Scan(volume, Geometry((5.0, 0.7, 0.8), (100.0, -20.0, 30.0)))


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_orientation_comes_back(head_back_left, order, flips):
    stored = reorient(head_back_left, order, flips)
    orientation = Orientation.of(stored.geometry)
    turned = orientation.apply(stored.volume_hu)
    np.testing.assert_array_equal(turned, head_back_left.volume_hu)
    np.testing.assert_array_equal(orientation.undo(turned), stored.volume_hu)
    geometry = orientation.geometry(stored.geometry, stored.shape)
    np.testing.assert_allclose(geometry.affine, head_back_left.geometry.affine, atol=1e-9)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::7])
def test_voxels_keep_their_place_in_the_world(order, flips):
    """Oblique by 15 degrees: the same voxel has the same position before and after."""
    angle = np.radians(15)
    tilt = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    geometry = Geometry((2.0, 0.7, 0.8), (10.0, 20.0, 30.0), tuple(map(tuple, tilt.tolist())))
    stored = reorient(Scan(np.arange(60, dtype=np.int16).reshape(3, 4, 5), geometry), order, flips)
    orientation = Orientation.of(stored.geometry)
    turned = orientation.apply(stored.volume_hu)
    turned_affine = orientation.geometry(stored.geometry, stored.shape).affine
    assert (np.diag(turned_affine)[:3] > 0).all()  # to head, back, left
    for value in (0, 17, 42, 59):
        at_file = [int(np.argwhere(stored.volume_hu == value)[0][k]) for k in range(3)]
        at_turned = [int(np.argwhere(turned == value)[0][k]) for k in range(3)]
        np.testing.assert_allclose(
            turned_affine @ [*at_turned, 1], stored.geometry.affine @ [*at_file, 1], atol=1e-9
        )


def test_axes_between_two_directions_are_refused():
    corner = np.linalg.qr(np.array([[1.0, 1, 0], [1, -1, 0], [0, 0, 1]]))[0]
    corner[:, 1] = corner[:, 0] + 1e-3
    with pytest.raises(GeometryError, match="NN-GEO-020"):
        Orientation.of(Geometry(direction=tuple(map(tuple, corner.tolist()))))


def spacings() -> list[float]:
    """Numbers that headers hold: few decimals, and fields of view divided by the matrix."""
    rng = np.random.default_rng(0)
    decimals = [round(float(mm), n) for n in range(1, 7) for mm in rng.uniform(0.3, 1, 300)]
    thick = [round(float(mm), n) for n in range(1, 4) for mm in rng.uniform(1, 8, 300)]
    return decimals + thick + [cm / n for n in (512, 768, 1024) for cm in range(200, 501, 3)]


@pytest.mark.parametrize(
    "stored",
    [
        lambda mm: mm * (1 - 1e-8),
        lambda mm: mm * (1 + 1e-8),
        lambda mm: float(np.float32(mm)),
        lambda mm: float(np.float32(mm * 1000)) / 1000,
        lambda mm: float(np.float32(mm / 1000)) * 1000,
        lambda mm: float(np.linalg.norm([mm * np.cos(0.3), mm * np.sin(0.3), 0])),
    ],
    ids=["smaller", "larger", "float32", "microns", "metres", "oblique"],
)
def test_spacings_are_snapped(stored):
    for mm in spacings():
        assert snap_spacing(stored(mm)) == snap_spacing(mm) == pytest.approx(mm, abs=5.5e-6)


@pytest.mark.parametrize("mm", [0.7, 0.79987, 350 / 512, 400 / 512, 1.25, 3.0])
def test_spacings_of_headers_are_kept(mm):
    """As float32; six decimals stand for a part of the field of view."""
    assert snap_spacing(mm) == snap_spacing(round(mm, 6)) == float(np.float32(mm))
