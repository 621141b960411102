"""The three segments of a result as DICOM SEG and 3D Slicer know them: names, codes, colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Code = tuple[str, str, str]  # value, coding scheme, meaning

LUNG: Code = ("39607008", "SCT", "Lung")
RIGHT: Code = ("24028007", "SCT", "Right")
LEFT: Code = ("7771000", "SCT", "Left")
BOTH: Code = ("51440002", "SCT", "Right and left")
_STRUCTURE: Code = ("91723000", "SCT", "Anatomical Structure")
_ALTERED: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
_LESION: Code = ("52988006", "SCT", "Lesion")


class Segment(NamedTuple):
    """A segment.

    Attributes:
        name: For people.
        category: SegmentedPropertyCategory, a code.
        kind: SegmentedPropertyType, a code.
        laterality: Side of the lung, a code.
        rgb: Recommended colour, 0 to 255.
    """

    name: str
    category: Code
    kind: Code
    laterality: Code
    rgb: tuple[int, int, int]


SEGMENTS = (
    Segment("Right lung", _STRUCTURE, LUNG, RIGHT, (86, 180, 233)),
    Segment("Left lung", _STRUCTURE, LUNG, LEFT, (0, 114, 178)),
    Segment("Lesions", _ALTERED, _LESION, BOTH, (255, 122, 0)),
)
PROBABILITY = Segment("Probability of anomaly", _ALTERED, _LESION, BOTH, (213, 94, 0))


def segment_masks(lung_labels: np.ndarray, lesion_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """(z, y, x) bool masks in the order of ``SEGMENTS``; lungs and lesions overlap."""
    return lung_labels == 1, lung_labels == 2, lesion_mask.astype(bool, copy=False)
