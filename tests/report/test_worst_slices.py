"""The picture of errors: the right slices, the right colours."""

from __future__ import annotations

import numpy as np

from normnet.report.worst_slices import EXTRA, FOUND, MISSED, choose_worst, draw_worst_slices
from tests.phantoms import reorient, thorax_phantom


def test_worst_first_and_apart():
    wrong = np.array([0, 5, 9, 8, 0, 3, 0])
    assert choose_worst(wrong, 2, 3) == [2, 5]
    assert choose_worst(wrong, 1, 3) == [2, 3, 1]
    assert choose_worst(np.zeros(4), 2, 3) == [0]


def test_colours_tell_found_missed_and_too_much():
    """One lesion is found, one is missed, and healthy lung is marked; storage is no matter."""
    phantom = thorax_phantom((32, 64, 64), (5.0, 5.0, 5.0))
    lungs = phantom.lung_mask.astype(np.uint8)
    right = np.arange(64) < 32
    found = phantom.lesion_mask & right
    found[16, 30:36, 14:18] = True
    picture = draw_worst_slices(phantom.scan, lungs, found, phantom.lesion_mask, 32)
    seen = {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3)}
    assert {FOUND, MISSED, EXTRA} <= seen
    perfect = draw_worst_slices(phantom.scan, lungs, phantom.lesion_mask, phantom.lesion_mask)
    legend = np.asarray(perfect)[-40:]
    above = {tuple(colour) for colour in np.asarray(perfect)[:-40].reshape(-1, 3)}
    assert not {MISSED, EXTRA} & above
    assert MISSED in {tuple(colour) for colour in legend.reshape(-1, 3)}
    order, flips = (2, 0, 1), (True, False, True)
    index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    turned = [array.transpose(order)[index] for array in (lungs, found, phantom.lesion_mask)]
    again = np.asarray(draw_worst_slices(reorient(phantom.scan, order, flips), *turned, 32))
    assert (again != np.asarray(picture)).mean() < 0.02  # the slices' numbers are the file's
