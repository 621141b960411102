"""Small masks for the metrics."""

import numpy as np


def box(shape, *slices) -> np.ndarray:
    """True inside the slices."""
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def blobs(seed: int, share: float = 0.15, shape=(14, 22, 26)) -> np.ndarray:
    """Smooth random blobs that reach the edge of the array."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.7)
    return field > np.quantile(field, 1 - share)
