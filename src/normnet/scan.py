"""A CT scan in memory: HU on the grid of its file, and the place of that grid in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

# Patient axes: L, P, S are +x, +y, +z of DICOM; in (z, y, x) order.
_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

Triple = tuple[float, ...]  # always three values: z, y, x


class Doubt(str):
    """A line of warning about a scan, with the id of the quality flag that it raises.

    Attributes:
        flag: One of ``quality.FLAGS``.
    """

    __slots__ = ("flag",)
    flag: str

    def __new__(cls, text: str, flag: str = "") -> Doubt:
        """A str with an attribute."""
        doubt = super().__new__(cls, text)
        doubt.flag = flag
        return doubt


@dataclass(frozen=True)
class Geometry:
    """Where a (z, y, x) array lies in the patient.

    All values are in (z, y, x) order. World positions are LPS+ as in DICOM and ITK.

    Attributes:
        spacing_mm: Distance between voxel centres along each array axis.
        origin_mm: World position of voxel [0, 0, 0].
        direction: ``direction[i][j]`` is the component along world axis i of a step along array
            axis j.
    """

    spacing_mm: Triple = (1.0, 1.0, 1.0)
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[Triple, ...] = _IDENTITY

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64: from index (z, y, x, 1) to world position (z, y, x, 1) in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(self.direction) * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def moved_to(self, index_zyx: Triple) -> Geometry:
        """The same axes with the origin at a voxel index, which may be fractional."""
        origin = self.affine @ np.array([*index_zyx, 1.0])
        return replace(self, origin_mm=tuple(float(v) for v in origin[:3]))


@dataclass(frozen=True)
class Scan:
    """One CT volume.

    Attributes:
        volume_hu: (z, y, x) int16 or float32, Hounsfield units, in the order the file stores it.
        geometry: Where the array lies in the patient.
        case_id: Name of the input file or folder as the user named it, never a DICOM tag.
        warnings: What the reader noticed and accepted, one line each.
        thickness_mm: Of a slice, as the header states it; None where it states nothing. It may
            differ from the distance of the slices.
        kernel: Reconstruction kernel, as the header states it; empty where it states nothing.
    """

    volume_hu: np.ndarray
    geometry: Geometry = field(default_factory=Geometry)
    case_id: str = "scan"
    warnings: tuple[str, ...] = ()
    thickness_mm: float | None = None
    kernel: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        return self.volume_hu.shape

    def upright(self) -> tuple[np.ndarray, Triple]:
        """A view of the volume whose first axis lies along the body, and its spacing in mm."""
        first = int(np.abs(np.asarray(self.geometry.direction)[0]).argmax())
        order = [first, *(axis for axis in range(3) if axis != first)]
        return self.volume_hu.transpose(order), tuple(self.geometry.spacing_mm[n] for n in order)
