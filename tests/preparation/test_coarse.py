"""Blocks of the prepared grid and back."""

from __future__ import annotations

import pytest
import torch

from normnet.preparation.coarse import pool_lungs, unpool


def test_only_lung_counts_where_a_block_is_mostly_lung():
    hu, lungs = torch.full((2, 2, 4), -800.0), torch.ones((2, 2, 4), dtype=torch.bool)
    lungs[0, 0, 0] = False
    hu[0, 0, 0] = 40
    lungs[:, :, 2:] = False
    lungs[0, 0, 2] = True
    hu[:, :, 2:] = 40
    hu[0, 0, 2] = -800
    pooled, inside = pool_lungs(hu, lungs, (2, 2, 2))
    assert inside.tolist() == [[[True, False]]]
    assert pooled[0, 0].tolist() == pytest.approx([-800, (7 * 40 - 800) / 8])


def test_odd_sizes_and_other_factors():
    hu = torch.arange(5 * 3 * 7, dtype=torch.float32).view(5, 3, 7)
    lungs = torch.ones(hu.shape, dtype=torch.bool)
    pooled, inside = pool_lungs(hu, lungs, (2, 1, 3))
    assert pooled.shape == inside.shape == (3, 3, 3)
    assert pooled[0, 0, 0] == pytest.approx(hu[:2, 0, :3].mean().item())
    assert pooled[2, 2, 2] == pytest.approx(hu[4, 2, 6].item())  # the last block is one voxel
    assert torch.equal(pool_lungs(hu, lungs, (1, 1, 1))[0], hu)


def test_spread_undoes_the_size_and_keeps_the_place():
    """A ramp pooled and spread is the ramp again, but for the ends."""
    ramp = torch.arange(12, dtype=torch.float32).expand(5, 7, 12)
    pooled, _ = pool_lungs(ramp, torch.ones(ramp.shape, dtype=torch.bool), (2, 2, 2))
    back = unpool(pooled, (2, 2, 2), ramp.shape)
    assert back.shape == ramp.shape
    torch.testing.assert_close(back[:, :, 1:-1], ramp[:, :, 1:-1])
