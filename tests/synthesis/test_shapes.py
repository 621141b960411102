"""Shapes against Sec. III-C1: counts, sizes, merging, placement."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from normnet.config import SynthesisConfig
from normnet.synthesis import shapes
from normnet.synthesis.shapes import (
    Blob,
    merge,
    sample_centres,
    sample_count,
    sample_ellipsoid,
    sample_shapes,
    touching,
)

PLAIN = SynthesisConfig(elastic=(0, 0), rotate=False)


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, range(5, 11)), (0.6, range(3, 7)), (0.1, range(0, 2)), (0.0, [0])],
)
def test_counts_are_uniform_over_whole_numbers(factor, expected):
    rng = rng_of(0)
    draws = np.array([sample_count((5, 10), factor, rng) for _ in range(1200)])
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == list(expected)
    share = 1 / len(values)
    assert (
        np.abs(counts / len(draws) - share).max()
        < 5 * math.sqrt(share * (1 - share) / len(draws)) + 1e-9
    )


@pytest.mark.parametrize(
    ("lam", "counts", "share_large"), [(1.0, (5, 10), 0.2), (0.6, (3, 6), 0.12)]
)
def test_kinds_of_ellipsoids_follow_lambda(monkeypatch, lam, counts, share_large):
    drawn: list[tuple] = []

    def record(centre, axes_vox, slab, config, rng):
        drawn.append(axes_vox)
        return Blob((0, 0, 0), torch.ones((1, 1, 1), dtype=torch.bool))

    monkeypatch.setattr(shapes, "sample_ellipsoid", record)
    monkeypatch.setattr(shapes, "merge", lambda blobs: blobs)
    config, lung_mask, n_large, n_slabs = (
        SynthesisConfig(),
        torch.ones((4, 10, 10), dtype=torch.bool),
        0,
        1600,
    )
    rng = rng_of(0)
    for _ in range(n_slabs):
        drawn.clear()
        sample_shapes(lung_mask, round(400 / lam), config, rng)
        assert counts[0] <= drawn.count((3, 10)) <= counts[1]
        assert counts[0] <= drawn.count((10, 32)) <= counts[1]
        n_large += drawn.count((32, 64))
    sigma = math.sqrt(share_large * (1 - share_large) / n_slabs)
    assert abs(n_large / n_slabs - share_large) < 4 * sigma


@pytest.mark.parametrize("limits", [(3, 10), (10, 32)])
def test_volumes_follow_semi_axes(limits):
    """E[abc] = E[a]^3 for independent axes, and no ellipsoid beyond the largest ball."""
    reach = 2 * limits[1] + 3
    slab, centre = torch.Size([reach] * 3), [reach // 2] * 3
    config = SynthesisConfig(elastic=(0, 0))
    volumes = [
        int(sample_ellipsoid(centre, limits, slab, config, rng_of(s)).shape_mask.sum())
        for s in range(60)
    ]
    ball = [4 / 3 * math.pi * r**3 for r in limits]
    assert 0.85 * ball[0] <= min(volumes)
    assert max(volumes) <= 1.05 * ball[1]
    mean = 4 / 3 * math.pi * (sum(limits) / 2) ** 3
    assert np.mean(volumes) == pytest.approx(mean, rel=0.2)


def test_fixed_axes_give_a_ball():
    mask = sample_ellipsoid(
        [20, 20, 20], (12.3, 12.3), torch.Size([41] * 3), PLAIN, rng_of(0)
    ).shape_mask.numpy()
    z, y, x = np.ogrid[: mask.shape[0], : mask.shape[1], : mask.shape[2]]
    middle = (mask.shape[0] - 1) / 2
    assert np.array_equal(
        mask, (z - middle) ** 2 + (y - middle) ** 2 + (x - middle) ** 2 <= 12.3**2
    )


def test_rotation_turns_and_elastic_bends():
    slab, centre = torch.Size([121] * 3), [60] * 3

    def mirrored(config):
        mask = sample_ellipsoid(centre, (10, 40), slab, config, rng_of(5)).shape_mask
        return (
            torch.equal(mask, mask.flip(0)),
            torch.equal(mask, mask.flip(0, 1, 2)),
            int(mask.sum()),
        )

    assert mirrored(PLAIN)[:2] == (True, True)
    turned = mirrored(SynthesisConfig(elastic=(0, 0)))
    assert turned[:2] == (False, True)  # still symmetric about its centre
    bent = mirrored(SynthesisConfig(elastic=(0.3, 0.3)))
    assert bent[:2] == (False, False)
    assert 0.5 < bent[2] / turned[2] < 2


def test_ellipsoids_are_clipped_by_the_slab():
    slab = torch.Size([32, 60, 60])
    for seed, centre in enumerate(itertools.product((0, 31), (0, 59), (0, 59))):
        blob = sample_ellipsoid(list(centre), (32, 64), slab, SynthesisConfig(), rng_of(seed))
        assert all(
            part.start >= 0 and part.stop <= n for part, n in zip(blob.box, slab, strict=True)
        )
        assert blob.shape_mask.any()


def test_centres_lie_in_the_lung():
    lung_mask = torch.zeros((8, 50, 50), dtype=torch.bool)
    lung_mask[3, 10, 10] = lung_mask[5, 40, 41] = True  # hardly any draw hits: the second way
    assert {tuple(c) for c in sample_centres(lung_mask, 40, rng_of(0))} == {
        (3, 10, 10),
        (5, 40, 41),
    }
    lung_mask[:, :25] = True
    centres = np.array(sample_centres(lung_mask, 500, rng_of(1)))
    assert lung_mask[tuple(centres.T)].all()
    assert centres[centres[:, 1] < 25].mean(0) == pytest.approx([3.5, 12, 24.5], abs=2.5)


def cube(low, size) -> Blob:
    return Blob(low, torch.ones(size, dtype=torch.bool))


def test_touching_is_26_neighbourhood():
    first = cube((0, 0, 0), (2, 2, 2))
    assert touching(first, cube((2, 2, 2), (1, 1, 1)))  # corner to corner
    assert not touching(first, cube((0, 0, 3), (2, 2, 2)))  # one voxel between
    assert touching(first, cube((0, 0, 2), (2, 2, 2)))
    hollow = Blob((0, 0, 0), torch.zeros((9, 9, 9), dtype=torch.bool))
    assert not touching(hollow, cube((4, 4, 4), (2, 2, 2)))  # boxes overlap, voxels do not


def test_merging_joins_chains_only():
    chain = [
        cube((0, 0, 0), (1, 1, 3)),
        cube((0, 0, 6), (1, 1, 3)),
        cube((0, 0, 3), (1, 1, 3)),
        cube((0, 5, 0), (1, 1, 2)),
    ]
    merged = merge(chain)
    assert [(blob.low, tuple(blob.shape_mask.shape)) for blob in merged] == [
        ((0, 0, 0), (1, 1, 9)),
        ((0, 5, 0), (1, 1, 2)),
    ]
    assert all(blob.shape_mask.all() for blob in merged)


def test_blobs_of_a_slab_are_not_adjacent():
    lung_mask = torch.ones((24, 120, 120), dtype=torch.bool)
    config = SynthesisConfig(axes_medium_vox=(6, 14), prob_large=0)
    for seed in range(5):
        blobs = sample_shapes(lung_mask, lung_mask.numel(), config, rng_of(seed))
        owner = np.zeros(lung_mask.shape, int)
        for number, blob in enumerate(blobs, start=1):
            part = owner[blob.box]
            assert not part[blob.shape_mask.numpy()].any()
            part[blob.shape_mask.numpy()] = number
        for number in range(1, len(blobs) + 1):
            grown = ndimage.binary_dilation(owner == number, np.ones((3, 3, 3)))
            assert set(np.unique(owner[grown])) <= {0, number}
        assert len(blobs) < 20  # some did touch


def test_no_lung_no_shapes():
    assert (
        sample_shapes(torch.zeros((4, 8, 8), dtype=torch.bool), 100, SynthesisConfig(), rng_of(0))
        == []
    )
