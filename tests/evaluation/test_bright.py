"""Table II from counts: the same as from voxels, and pooled as if all cases were one."""

import math

import numpy as np
import pytest

from normnet.errors import GeometryError
from normnet.evaluation.bright import count_bright, pool_bright, score_bright


def _case(seed, shape=(4, 5, 6)):
    rng = np.random.default_rng(seed)
    lesion = rng.random(shape) < 0.3
    codes = np.clip(rng.normal(160 - 60 * lesion, 60), 0, 255).astype(np.uint8)
    return codes, lesion, rng.random(shape) < 0.7, codes > 128


@pytest.mark.parametrize("seed", range(3))
def test_counts_score_as_voxels_do(seed):
    codes, lesion, bright, normal = _case(seed)
    scores = score_bright(count_bright(codes, lesion, bright, normal))
    assert scores == score_bright(count_bright(codes / 255, lesion, bright, normal))
    assert 0.5 < scores.auc < 1
    called, is_lesion = normal[bright], lesion[bright]
    assert scores.precision == pytest.approx(1 - is_lesion[called].mean())
    assert scores.sensitivity == pytest.approx(called[~is_lesion].mean())
    assert scores.specificity == pytest.approx(1 - called[is_lesion].mean())
    pairs = codes[bright][~is_lesion][:, None] - codes[bright][is_lesion].astype(float)
    assert scores.auc == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_pooled_cases_are_one_large_case():
    cases = [_case(seed, shape=(seed + 2, 5, 6)) for seed in range(3)]
    pooled = pool_bright([count_bright(*case) for case in cases])
    together = count_bright(*(np.concatenate([case[part] for case in cases]) for part in range(4)))
    np.testing.assert_array_equal(pooled.healthy, together.healthy)
    assert score_bright(pooled) == score_bright(together)


def test_without_votes_there_is_the_auc_alone():
    known, unknown = count_bright(*_case(0)), count_bright(*_case(1)[:3])
    for counts in (unknown, pool_bright([known, unknown])):
        scores = score_bright(counts)
        assert math.isnan(scores.precision)
        assert scores.n_lesion == counts.lesion.sum() > 0
        assert scores.auc > 0.5


def test_no_bright_voxel_gives_no_score():
    codes, lesion, bright, normal = _case(0)
    for counts in (count_bright(codes, lesion, bright & False, normal), pool_bright([])):
        scores = score_bright(counts)
        undefined = [math.isnan(value) for value in scores.__dict__.values()]
        assert undefined == [True] * 3 + [False] * 2 + [True]


def test_shapes_must_agree():
    codes, lesion, bright, normal = _case(0)
    with pytest.raises(GeometryError, match="NN-GEO-030"):
        count_bright(codes, lesion, bright, normal[1:])
