"""Erroneous edges of automatic lung masks (Sec. III-B); training only."""

from __future__ import annotations

import numpy as np

from normnet.config import PreparationConfig


def find_erroneous_edges(
    thorax: np.ndarray, lung_mask: np.ndarray, tau: float, config: PreparationConfig
) -> np.ndarray:
    """Bright components that lie mostly on the edge of the lung mask: chest wall, not lung.

    In a mask that is a voxel too wide everywhere, the chest wall and every vessel are one
    component, and the rule of the paper removes all of it or nothing. ``edge_cut_rim`` first cuts
    off what lies on the edge and away from bright tissue inside.

    Args:
        thorax: (z, y, x) float32 in [0, 1].
        lung_mask: Same shape, bool.
        tau: Bright threshold.
        config: Thickness of the edge, and the share that counts as "most".

    Returns:
        E of Sec. III-B: same shape, bool, to be removed from the lung mask.
    """
    import cc3d
    from scipy.ndimage import binary_dilation, binary_erosion

    bright = (thorax >= tau) & lung_mask
    edge = lung_mask & ~binary_erosion(lung_mask, iterations=config.edge_vox)
    rim = np.zeros_like(bright)
    if config.edge_cut_rim:
        rim = bright & edge & ~binary_dilation(bright & ~edge, iterations=config.edge_vox)
    labels, n = cc3d.connected_components(bright & ~rim, connectivity=26, return_N=True)
    size = np.bincount(labels.ravel(), minlength=n + 1)
    on_edge = np.bincount(labels[edge], minlength=n + 1)
    erroneous = on_edge > config.edge_share * size
    erroneous[0] = False
    edges: np.ndarray = erroneous[labels] | rim
    return edges
