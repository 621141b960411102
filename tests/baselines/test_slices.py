"""The square that a method sees, and the way back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from normnet.baselines.methods import METHODS
from normnet.baselines.slices import SliceBank, find_slices, from_square, to_square
from normnet.errors import InputError
from normnet.preparation.cache import STEP_HU
from tests.baselines.conftest import CONFIG


@pytest.mark.parametrize("plane", [(5, 6), (12, 9), (8, 8)])
def test_pixels_of_the_same_size_stay(plane):
    """Padded, cut or both; the way back gives what was seen."""
    slices = torch.rand((2, *plane), generator=torch.Generator().manual_seed(0)) + 0.1
    square = to_square(slices, 8, 16.0, (1.0, 2.0, 2.0))
    assert square.shape == (2, 1, 8, 8)
    back = from_square(square, plane, 16.0, (1.0, 2.0, 2.0))
    seen = back != 0
    assert back.shape == slices.shape
    assert seen.sum() == 2 * min(plane[0], 8) * min(plane[1], 8)
    assert back[seen].equal(slices[seen])


def test_other_pixels_are_averaged():
    slices = torch.zeros(1, 8, 8)
    slices[:, 2:6, 2:6] = 1
    square = to_square(slices, 4, 8.0, (1.0, 1.0, 1.0))
    assert float(square.mean()) == pytest.approx(0.25, abs=0.02)
    assert square[0, 0].argmax() in (5, 6, 9, 10)
    back = from_square(square, (8, 8), 8.0, (1.0, 1.0, 1.0))[0]
    assert torch.allclose(back, back.flip(0)) and torch.allclose(
        back, back.flip(1)
    )  # still in the middle


def test_pixels_that_are_not_square():
    square = to_square(torch.ones(1, 8, 4), 8, 8.0, (1.0, 1.0, 2.0))
    assert torch.allclose(square, torch.ones(1, 1, 8, 8))


def test_sampler(cases):
    rng = torch.Generator().manual_seed(0)
    lungs = SliceBank.of(cases, CONFIG, METHODS["vae"], 32).sample(6, rng)
    rng.manual_seed(0)
    whole = SliceBank.of(cases, CONFIG, METHODS["vae-original"], 32).sample(6, rng)
    assert lungs.shape == whole.shape == (6, 1, 32, 32)
    assert lungs.min() >= 0 and lungs.max() <= 1
    assert (whole >= lungs - 1 / 255).all()
    assert (whole.flatten(1).sum(1) > 2 * lungs.flatten(1).sum(1)).all()  # the tissue around them


def test_only_usable_slices_with_lung(cases):
    case = cases[0]
    usable = np.zeros(len(case.usable), bool)
    usable[[0, 9, 10]] = True
    lung_mask = case.lung_mask.copy()
    lung_mask[0] = False
    one = replace(
        case, usable=usable, lung_mask=lung_mask, codes=np.full_like(case.codes, 255 // STEP_HU)
    )
    assert find_slices(one).tolist() == [9, 10]
    assert len(SliceBank.of([one], CONFIG, METHODS["vae"], 32).images) == 2
    with pytest.raises(InputError, match="NN-BAS-003"):
        SliceBank.of([replace(one, usable=usable & False)], CONFIG, METHODS["vae"], 32)
