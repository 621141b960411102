"""Sec. III-B: bright components mostly on the mask's edge go, vessels stay."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.config import PreparationConfig
from normnet.preparation.edges import find_erroneous_edges

TAU = 1 / 3


@pytest.fixture
def lung() -> tuple[np.ndarray, np.ndarray]:
    """Dark thorax (20, 40, 40) and a box of lung, [2, 18) x [4, 36) x [4, 36)."""
    lung_mask = np.zeros((20, 40, 40), bool)
    lung_mask[2:18, 4:36, 4:36] = True
    return np.where(lung_mask, 0.1, 0.0).astype(np.float32), lung_mask


def test_wall_goes_vessel_stays(lung):
    thorax, lung_mask = lung
    thorax[5:15, 10:30, 4] = 0.9  # a plate on the wall
    thorax[8:11, 15:18, 10:30] = 0.9  # a vessel
    edges = find_erroneous_edges(thorax, lung_mask, TAU, PreparationConfig(edge_vox=2))
    expected = np.zeros_like(lung_mask)
    expected[5:15, 10:30, 4] = True
    np.testing.assert_array_equal(edges, expected)


@pytest.mark.parametrize(("inside", "dropped"), [(3, True), (4, False), (5, False)])
def test_most_means_more_than_half(lung, inside, dropped):
    """Four voxels on the edge and a few inside."""
    thorax, lung_mask = lung
    thorax[10, 20, 4:8] = 0.9
    thorax[10, 20, 8 : 8 + inside] = 0.9
    edges = find_erroneous_edges(thorax, lung_mask, TAU, PreparationConfig(edge_vox=4))
    assert edges.sum() == (4 + inside if dropped else 0)


def test_diagonal_voxels_are_connected(lung):
    thorax, lung_mask = lung
    for step in range(8):  # a diagonal thread from the edge: two of eight voxels on it
        thorax[5 + step, 10 + step, 4 + step] = 0.9
    assert not find_erroneous_edges(thorax, lung_mask, TAU, PreparationConfig(edge_vox=2)).any()


def test_dark_and_outside_voxels_are_no_edges(lung):
    thorax, lung_mask = lung
    thorax[:, :, 4] = TAU - 0.01
    thorax[0] = 0.9
    assert not find_erroneous_edges(thorax, lung_mask, TAU, PreparationConfig()).any()


def test_cutting_the_rim_frees_the_vessels(lung):
    """A rim that touches a thick vessel is one component: the paper's rule removes both."""
    thorax, lung_mask = lung
    core = np.zeros_like(lung_mask)
    core[3:17, 5:35, 5:35] = True
    rim = lung_mask & ~core
    thorax[rim] = 0.9
    vessel = np.zeros_like(lung_mask)
    vessel[8:12, 18:22, 4:30] = True
    thorax[vessel] = 0.9
    whole = find_erroneous_edges(
        thorax, lung_mask, TAU, PreparationConfig(edge_vox=2, edge_cut_rim=False)
    )
    np.testing.assert_array_equal(whole, rim | vessel)
    cut = find_erroneous_edges(
        thorax, lung_mask, TAU, PreparationConfig(edge_vox=2, edge_cut_rim=True)
    )
    assert not cut[8:12, 18:22, 6:30].any()
    assert cut[rim].mean() > 0.95
