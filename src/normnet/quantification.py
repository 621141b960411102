"""Volumes of lungs and lesions in millilitres, and the share of the lung that is lesion."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDES = {"right": 1, "left": 2}


def quantify(lesion_mask: np.ndarray, lung_labels: np.ndarray, voxel_ml: float) -> dict[str, Any]:
    """Volumes of lungs and lesions, of both sides together and of each.

    Args:
        lesion_mask: (z, y, x) bool, inside the lungs.
        lung_labels: Same shape, 1 right, 2 left.
        voxel_ml: Volume of a voxel in millilitres.

    Returns:
        ``{"both" | "right" | "left": {"lung_ml", "lesion_ml", "lesion_percent"}}``;
        ``lesion_percent`` is None where there is no lung.
    """
    inside = lung_labels[lesion_mask]
    lungs = [float(np.count_nonzero(lung_labels == label)) * voxel_ml for label in (1, 2)]
    lesions = [float(np.count_nonzero(inside == label)) * voxel_ml for label in (1, 2)]
    lungs, lesions = [sum(lungs), *lungs], [sum(lesions), *lesions]

    def row(label: int) -> dict[str, float | None]:
        share = round(100 * float(lesions[label] / lungs[label]), 3) if lungs[label] else None
        return {
            "lung_ml": round(float(lungs[label]), 2),
            "lesion_ml": round(float(lesions[label]), 3),
            "lesion_percent": share,
        }

    return {"both": row(0)} | {side: row(label) for side, label in SIDES.items()}
