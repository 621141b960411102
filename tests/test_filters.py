"""The filters give what those of scipy give."""

import numpy as np
import pytest
from scipy import ndimage

from normnet.filters import (
    block_means,
    bounding_box,
    box_mean,
    count_values,
    dilate,
    erode,
    gaussian,
)

RNG = np.random.default_rng(0)
SHAPES = [(1, 1, 1), (2, 9, 4), (13, 7, 21), (30, 20, 25)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [(9, 9, 9), (1, 5, 5), (2, 4, 3), (1, 1, 1)])
def test_box_mean(shape, sizes):
    image = RNG.random(shape, np.float32)
    expected = ndimage.uniform_filter(image.astype(float), sizes, mode="constant")
    np.testing.assert_allclose(box_mean(image, sizes), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.6, 2.0, 3.3])
def test_gaussian(shape, sigma):
    image = RNG.random(shape, np.float32)
    expected = ndimage.gaussian_filter(image.astype(float), sigma, truncate=3)
    np.testing.assert_allclose(gaussian(image, sigma, 3), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_growth_and_erosion(shape, steps):
    mask, within = RNG.random(shape) > 0.9, RNG.random(shape) > 0.3
    in_slice = ndimage.generate_binary_structure(2, 1)[None]
    if steps == 0:
        assert (dilate(mask, 0) == mask).all()
        assert (erode(mask, 0) == mask).all()
        return
    assert (dilate(mask, steps) == ndimage.binary_dilation(mask, iterations=steps)).all()
    limited = ndimage.binary_dilation(mask, iterations=steps, mask=within)
    assert (dilate(mask, steps, within) == limited).all()
    solid = RNG.random(shape) > 0.02
    assert (erode(solid, steps) == ndimage.binary_erosion(solid, iterations=steps)).all()
    expected = ndimage.binary_erosion(solid, in_slice, iterations=steps)
    assert (erode(solid, steps, in_slice=True) == expected).all()


def test_mirrored_views():
    """A scan is turned by views that run backwards, which torch itself refuses."""
    mask = RNG.random((6, 8, 10)) > 0.5
    turned, copy = mask[::-1, :, ::-1], mask[::-1, :, ::-1].copy()
    assert (erode(turned) == erode(copy)).all()
    assert (dilate(turned, 2, ~turned) == dilate(copy, 2, ~copy)).all()
    image = copy.astype(np.float32)
    assert (box_mean(image[::-1], (3, 3, 3)) == box_mean(image[::-1].copy(), (3, 3, 3))).all()


def test_nothing_grows_from_nothing():
    assert not dilate(np.zeros((3, 4, 5), bool), 2).any()


def test_the_smallest_box():
    mask = np.zeros((9, 10, 11), bool)
    mask[2, 3, 4] = mask[4, 8, 4] = True
    assert bounding_box(mask) == (slice(2, 5), slice(3, 9), slice(4, 5))
    assert bounding_box(mask, 3) == (slice(0, 8), slice(0, 10), slice(1, 8))
    assert bounding_box(mask, (0, 1, 2)) == (slice(2, 5), slice(2, 10), slice(2, 7))


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_means_of_blocks(kind):
    image = (100 * RNG.random((7, 9, 12))).astype(kind)
    means = block_means(image[::-1], (2, 3, 40))
    expected = image[::-1][:6].reshape(3, 2, 3, 3, 1, 12).mean((1, 3, 5), dtype=float)
    np.testing.assert_allclose(means, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_count_values(shape):
    labels = RNG.integers(0, 256, shape).astype(np.uint8)
    turned = labels.transpose(2, 0, 1)[::-1]
    for array in (labels, turned):
        np.testing.assert_array_equal(count_values(array), np.bincount(labels.ravel(), None, 256))
