"""Slabs that cover a volume once, halos that hide their seams, and the vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normnet.config import InferenceConfig, NetworkConfig
from normnet.inference.voting import Votes, predict_normal, slab_windows
from normnet.network.unet import build_unet


@pytest.mark.parametrize("slab", [4, 16, 32])
def test_every_slice_is_kept_once_from_the_middle_of_a_window(slab):
    for depth in range(1, 5 * slab + 2):
        times = np.zeros(depth, int)
        for seen, keep in slab_windows(depth, slab):
            assert seen.start % (slab // 2) == 0
            assert seen.stop - seen.start == slab
            assert seen.start <= keep.start < keep.stop <= min(depth, seen.stop)
            assert keep.start - seen.start >= slab // 4 or seen.start == 0
            assert seen.stop - keep.stop >= slab // 4 or keep.stop == depth
            times[keep] += 1
        assert (times == 1).all()


class Member(torch.nn.Module):
    """The same logit everywhere."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit = logit

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.full_like(image, self.logit)


def test_probabilities_and_votes():
    members = [Member(logit) for logit in (-2.0, 2.9, 3.0, 5.0)]  # 0.119, 0.948, 0.953, 0.993
    steps = []
    votes = predict_normal(
        np.ones((20, 9, 11), np.float32), members, 4, InferenceConfig(slab_vox=4),
        on_slab=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert votes.n_members == 4
    assert votes.n_normal.shape == votes.prob_normal.shape == (20, 9, 11)
    assert (votes.n_normal == 2).all()
    expected = np.mean([1 / (1 + np.exp(-m.logit)) for m in members])
    assert votes.prob_normal.astype(float) == pytest.approx(expected, abs=2e-3)
    assert steps == [(k + 1, len(steps)) for k in range(len(steps))]


def test_nothing_is_asked_beyond_the_lungs():
    """The box of the lungs of each slab is judged, with a margin for the interpolation after it."""
    thorax = np.zeros((24, 9, 11), np.float32)
    thorax[:10, 4:6, 3:8] = 0.5
    votes = predict_normal(thorax, [Member(5.0)], 4, InferenceConfig(slab_vox=4))
    expected = np.zeros(thorax.shape, bool)
    expected[:12, 2:8, 1:10] = True  # the slab of slices 10 and 11 begins at 9
    assert (votes.n_normal[:9] == expected[:9]).all()
    assert (votes.n_normal[thorax > 0] == 1).all()
    assert not votes.n_normal[14:].any()
    assert not votes.prob_normal[~expected].any()


@pytest.mark.parametrize(("n_members", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_majority(n_members, needed):
    n_normal = np.arange(n_members + 1, dtype=np.uint8)
    votes = Votes(n_normal, n_normal.astype(np.float16), n_members)
    assert votes.normal_mask(InferenceConfig()).tolist() == [
        n >= needed for n in range(n_members + 1)
    ]
    assert votes.normal_mask(InferenceConfig(min_votes=1)).tolist() == [False] + [True] * n_members


def test_the_mean_probability_as_the_rule():
    """Two of three members call the first voxel normal, but their mean does not reach 0.95."""
    votes = Votes(
        np.array([2, 1, 3], np.uint8), np.array([0.9, 0.96, 0.99], np.float16), n_members=3
    )
    assert votes.normal_mask(InferenceConfig()).tolist() == [True, False, True]
    assert votes.normal_mask(InferenceConfig(rule="mean")).tolist() == [False, True, True]
    lower = InferenceConfig(rule="mean", prob_normal=0.8)
    assert votes.normal_mask(lower).tolist() == [True, True, True]


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A small network with batch norm whose running statistics are not trivial."""
    torch.manual_seed(3)
    network = build_unet(NetworkConfig(channels=(4, 8), n_res_units=1))
    network.train()
    for _ in range(20):
        network(torch.rand(2, 1, 8, 16, 16))
    return network.eval()


def test_slabs_equal_the_whole(trained):
    """Receptive field below a quarter of the window: cutting along z changes nothing."""
    thorax = np.random.default_rng(0).random((72, 21, 18)).astype(np.float32)
    whole = predict_normal(thorax, [trained], 2, InferenceConfig(slab_vox=72 * 4, prob_normal=0.5))
    slabs = predict_normal(thorax, [trained], 2, InferenceConfig(slab_vox=48, prob_normal=0.5))
    assert len(slab_windows(72, 48)) == 3
    assert whole.prob_normal.std() > 0.01
    np.testing.assert_allclose(
        slabs.prob_normal.astype(float), whole.prob_normal.astype(float), atol=0.01
    )
    assert (slabs.n_normal != whole.n_normal).mean() < 0.01
    narrow = predict_normal(thorax, [trained], 2, InferenceConfig(slab_vox=4, prob_normal=0.5))
    assert np.abs(narrow.prob_normal.astype(float) - whole.prob_normal.astype(float)).max() > 0.01


def test_cropping_in_the_plane_changes_nothing_inside(trained):
    """With batch norm the result does not depend on how much empty space lies around the lungs."""
    thorax = np.zeros((16, 48, 48), np.float32)
    thorax[:, 16:32, 16:32] = np.random.default_rng(1).random((16, 16, 16))
    config = InferenceConfig(prob_normal=0.5)
    whole = predict_normal(thorax, [trained], 2, config).prob_normal[:, 16:32, 16:32]
    crop = predict_normal(thorax[:, 4:44, 6:42], [trained], 2, config).prob_normal[:, 12:28, 10:26]
    np.testing.assert_allclose(crop.astype(float), whole.astype(float), atol=0.01)
