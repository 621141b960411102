"""The registry of scores."""

import numpy as np

from normnet.evaluation.scores import SCORES, TABLES, Comparison, compute_scores
from normnet.scan import Geometry

GEOMETRY = Geometry((2.0, 1.0, 1.0))


def masks(*on):
    mask = np.zeros((3, 3, 3), bool)
    mask.ravel()[list(on)] = True
    return mask


def test_every_score_is_complete():
    assert all(name == score.name for name, score in SCORES.items())
    assert all(score.table in ("", *TABLES) for score in SCORES.values())
    assert all(score.label and score.meaning for score in SCORES.values())
    headings = [(score.table, score.heading) for score in SCORES.values() if score.table]
    assert len(set(headings)) == len(headings)


def test_cutting_the_masks_changes_no_score():
    """Two voxels far apart in a large array, and the same two in an array that ends beside them."""
    cases = [
        Comparison(np.pad(masks(0, 1), n), np.pad(masks(0, 26), n), GEOMETRY, min_lesion_ml=0)
        for n in (0, 4)
    ]
    scores = [compute_scores(case, SCORES.values()) for case in cases]
    np.testing.assert_equal(scores[0], scores[1])
    assert scores[0]["dsc"] == 0.5
