"""To the network's grid and back: positions, window, masks on thick and thin slices."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.config import PreparationConfig, WindowConfig
from normnet.filters import bounding_box
from normnet.preparation.prepare import prepare
from normnet.preparation.resample import Grid, resample
from normnet.scan import Geometry, Scan
from tests.phantoms import ORIENTATIONS, reorient

CONFIG, WINDOW = PreparationConfig(), WindowConfig()


def world(scan_shape, geometry: Geometry) -> np.ndarray:
    """(3, z, y, x) positions in mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan_shape), indexing="ij"))
    affine = geometry.affine
    return np.einsum("ij,jzyx->izyx", affine[:3, :3], index) + affine[:3, 3][:, None, None, None]


def ball_scan(
    spacing_mm, radius_mm: float = 25.0, half_mm: float = 40.0
) -> tuple[Scan, np.ndarray]:
    """A ball in the middle of a cube, and its mask."""
    shape = tuple(int(2 * half_mm / s) + 1 for s in spacing_mm)
    geometry = Geometry(
        spacing_mm, tuple(-(n - 1) / 2 * s for n, s in zip(shape, spacing_mm, strict=True))
    )
    ball = (world(shape, geometry) ** 2).sum(0) <= radius_mm**2
    return Scan(np.where(ball, -700, 40).astype(np.int16), geometry), ball


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize(
    "spacing_mm",
    [(0.6, 0.7, 0.7), (1.0, 0.8, 0.8), (2.5, 0.9, 0.9), (5.0, 0.7, 0.7), (6.0, 0.98, 0.98)],
)
def test_a_ball_comes_back(spacing_mm):
    scan, ball = ball_scan(spacing_mm)
    prepared = prepare(scan, ball.astype(np.uint8), CONFIG, WINDOW)
    restored = prepared.restore_mask(prepared.lung_mask)
    assert restored.shape == scan.shape
    assert dice(restored, ball) > 0.98
    analytic = 4 / 3 * np.pi * 25**3
    # linear interpolation between thick slices cannot follow the curve of the ball
    assert prepared.lung_mask.sum() * 0.64 == pytest.approx(
        analytic, rel=0.02 if spacing_mm[0] < 5 else 0.05
    )


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_any_orientation_is_prepared_alike(order, flips):
    scan, ball = ball_scan((3.0, 1.1, 0.9))
    ball[:, : ball.shape[1] // 2, : ball.shape[2] // 3] = False  # not symmetric
    expected = prepare(scan, ball, CONFIG, WINDOW)
    turned_ball = reorient(Scan(ball.astype(np.uint8), scan.geometry), order, flips).volume_hu
    prepared = prepare(reorient(scan, order, flips), turned_ball, CONFIG, WINDOW)
    np.testing.assert_array_equal(prepared.lung_mask, expected.lung_mask)
    np.testing.assert_allclose(prepared.thorax, expected.thorax, atol=1e-6)
    restored = prepared.restore_mask(prepared.lung_mask)
    assert restored.shape == turned_ball.shape
    assert dice(restored, turned_ball > 0) > 0.98


@pytest.mark.parametrize("pad_to", ["crop", (160, 150)])
@pytest.mark.parametrize("spacing_mm", [(0.6, 0.75, 0.7), (4.0, 0.7, 0.95)])
def test_voxels_lie_where_they_say(spacing_mm, pad_to):
    """HU is a linear function of the place, so linear resampling must meet it exactly."""
    config = PreparationConfig(pad_to=pad_to)
    scan, ball = ball_scan(spacing_mm)
    for axis in range(3):
        hu = -350 + 8 * world(scan.shape, scan.geometry)[axis]
        prepared = prepare(
            Scan(hu.astype(np.float32), scan.geometry), ball.astype(np.uint8), config, WINDOW
        )
        parent = scan.geometry.moved_to(tuple(part.start for part in prepared.box))
        start = parent.moved_to(prepared.grid.start).origin_mm
        grid_mm = world(prepared.thorax.shape, Geometry(CONFIG.spacing_mm, start))
        expected = (-350 + 8 * grid_mm[axis] + 800) / 900
        np.testing.assert_allclose(
            prepared.thorax[prepared.lung_mask], expected[prepared.lung_mask], atol=2e-4
        )
        assert (prepared.thorax[~prepared.lung_mask] == 0).all()
    if pad_to != "crop":
        assert prepared.thorax.shape[1:] == pad_to
        hits = np.argwhere(prepared.lung_mask)
        middle = (hits.min(0) + hits.max(0)) / 2
        assert middle[1:] == pytest.approx([80, 75], abs=1.5)
        assert dice(prepared.restore_mask(prepared.lung_mask), ball) > 0.98


def test_window():
    values = np.array([-3000, -900, -800, -500, -350, 100, 400, 3000])
    volume = np.broadcast_to(values[:, None, None].repeat(8, axis=0), (64, 10, 10)).astype(np.int16)
    scan = Scan(volume, Geometry((1.0, 0.8, 0.8)))
    prepared = prepare(scan, np.ones(volume.shape, np.uint8), CONFIG, WINDOW)
    assert prepared.thorax.dtype == np.float32
    assert prepared.thorax[4::8, 5, 5] == pytest.approx([0, 0, 0, 1 / 3, 0.5, 1, 1, 1], abs=1e-6)
    assert pytest.approx(1 / 3) == WINDOW.tau


def test_labels_come_back_unmixed():
    scan, ball = ball_scan((2.0, 0.7, 0.7))
    prepared = prepare(scan, ball.astype(np.uint8), CONFIG, WINDOW)
    votes = np.where(np.arange(prepared.thorax.shape[2]) % 7 < 3, 5, 2) * np.ones(
        prepared.thorax.shape
    )
    restored = prepared.restore(votes.astype(np.uint8), nearest=True)
    assert restored.dtype == np.uint8
    assert set(np.unique(restored)) <= {0, 2, 5}
    assert restored[ball].min() == 2


def test_inside_of_the_box_is_never_lost():
    """A lung that fills the whole scan: every voxel of it comes back."""
    scan = Scan(np.full((7, 33, 29), -800, np.int16), Geometry((5.0, 0.77, 0.77)))
    prepared = prepare(scan, np.ones(scan.shape, np.uint8), CONFIG, WINDOW)
    assert prepared.restore_mask(prepared.lung_mask).all()


def test_bounding_box_is_clipped():
    mask = np.zeros((10, 10, 10), bool)
    mask[2:4, 5, 0:9] = True
    assert bounding_box(mask, 0) == (slice(2, 4), slice(5, 6), slice(0, 9))
    assert bounding_box(mask, 3) == (slice(0, 7), slice(2, 9), slice(0, 10))


def test_resample_and_its_inverse():
    ramp = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((10, 4, 4), np.float32)
    grid = Grid((0.5, 0.0, 0.0), (0.5, 1.0, 1.0), (17, 4, 4))
    fine = resample(ramp, grid)
    np.testing.assert_allclose(fine[:, 0, 0], 0.5 + 0.5 * np.arange(17), atol=1e-6)
    back = resample(fine, grid.inverse(ramp.shape))
    np.testing.assert_allclose(back[1:9], ramp[1:9], atol=1e-6)
    assert resample(ramp, Grid((20.0, 0, 0), (1.0, 1.0, 1.0), (2, 4, 4)), outside=-7).max() == -7
