"""Resampling gives what ITK gives, whatever the grid."""

import numpy as np
import pytest
import SimpleITK as sitk

from normnet.preparation.resample import Grid, resample, resample_mask


def by_itk(array, grid, nearest=False, outside=0.0):
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(
        sitk.GetImageFromArray(np.ascontiguousarray(array)),
        grid.shape[::-1],
        sitk.Transform(),
        interpolator,
        grid.start[::-1],
        grid.step[::-1],
        (),
        outside,
    )
    return sitk.GetArrayFromImage(moved)


def some_grid(rng):
    start, step = (tuple(map(float, rng.uniform(*ends, 3))) for ends in ((-3, 3), (0.3, 3)))
    return Grid(start, step, tuple(int(n) for n in rng.integers(1, 20, 3)))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", ["int16", "float32", "uint8"])
def test_as_itk(seed, kind):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 20, 3)
    image = rng.integers(0, 200, shape) if kind == "uint8" else rng.normal(0, 1000, shape)
    image, grid = image.astype(kind)[::-1], some_grid(rng)
    outside = 0.0 if kind == "uint8" else -1024.0
    assert (resample(image, grid, True, outside) == by_itk(image, grid, True, outside)).all()
    moved, expected = resample(image, grid, False, outside), by_itk(image, grid, False, outside)
    assert moved.dtype == image.dtype
    apart = np.abs(moved.astype(float) - expected)
    if kind == "float32":
        assert apart.max() < 1e-3
    else:  # whole numbers are cut off, so that a rounding error may count as one
        assert apart.max() <= 1
        assert np.count_nonzero(apart) <= 0.01 * apart.size


@pytest.mark.parametrize("seed", range(30))
def test_masks_as_itk(seed):
    """Only the part around the true voxels is computed, also where they touch the border."""
    rng = np.random.default_rng(seed)
    mask, grid = rng.random(rng.integers(1, 20, 3)) > 0.8, some_grid(rng)
    expected = by_itk(mask.astype(np.float64), grid) >= 0.5
    assert (resample_mask(mask, grid) == expected).all()


def test_no_voxel():
    assert not resample_mask(np.zeros((3, 4, 5), bool), Grid((0, 0, 0), (1, 1, 1), (2, 2, 2))).any()


def test_limits_come_before_the_interpolation():
    image = np.array([-5000, 1000], np.int16).reshape(1, 1, 2)
    middle = Grid((0, 0, 0.5), (1, 1, 1), (1, 1, 1))
    assert resample(image, middle, limits=(-1024.0, 100.0)).item() == -462.0


def test_half_precision_gives_single():
    image = np.array([0.25, 0.3], np.float16).reshape(1, 1, 2)
    moved = resample(image, Grid((0, 0, 0.5), (1, 1, 1), (1, 1, 1)))
    assert moved.dtype == np.float32
    assert moved.item() == pytest.approx(float(image.astype(np.float32).mean()), abs=1e-7)


def test_a_part_of_a_grid():
    grid = Grid((0.5, -1.0, 2.0), (0.7, 1.1, 0.9), (9, 8, 7))
    image = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    box = (slice(2, 5), slice(0, 8), slice(3, 6))
    np.testing.assert_allclose(
        resample(image, grid.part(box)), resample(image, grid)[box], atol=1e-5
    )
