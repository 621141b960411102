"""Every method on its own ground: bright disks on stripes, after some seconds of training."""

import numpy as np
import pytest
import torch
from benchmarks.baselines import compute_auc, compute_ssim, draw_stripes, find_disks

from normnet.baselines.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_disks_are_found(name):
    method = METHODS[name]
    assert (find_disks(method) > 0.9) == (method.misses == "")


def test_auc():
    """Of six pairs four are in order and one is a tie."""
    score, reference = np.array([3, 1, 2, 0, 1]), np.array([True, True, False, False, False])
    assert compute_auc(score, reference) == pytest.approx(4.5 / 6)


def test_ssim():
    """1 for the same image; less for another one; with black: the constants against the image."""
    stripes, others = draw_stripes(2, 32, torch.Generator().manual_seed(0)).split(1)
    assert np.allclose(compute_ssim(stripes, stripes), 1)
    assert compute_ssim(stripes, others).mean() < 0.5
    flat = stripes * 0 + 0.2
    assert np.allclose(compute_ssim(flat, flat * 0), 1e-4 / (0.04 + 1e-4), atol=1e-5)
