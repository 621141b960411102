"""A CT scan in memory: HU on the grid of its file, and the place of that grid in the patient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

    @property
    def body_axis(self) -> int:
        """The array axis that lies along the body."""
        return int(np.abs(np.asarray(self.direction)[0]).argmax())


@dataclass(frozen=True)
class Joined:
    """How an array with averaged slices and the file with all slices belong together.

    Slice n of the array stands for the slices n * ``size`` to (n + 1) * ``size`` - 1 of the file;
    the last slice of the array may stand for fewer.

    Attributes:
        axis: Array axis across which the slices lie.
        size: Number of neighbouring slices of the file that were averaged.
        n_slices: Of the file.
    """

    axis: int
    size: int
    n_slices: int

    @property
    def _middle(self) -> float:
        """How far the middle of a group lies from its first slice, in slices of the file."""
        return (self.size - 1) / 2

    def averaged_geometry(self, of_file: Geometry) -> Geometry:
        """The geometry of the array, from that of the file."""
        return self._scaled(of_file, self._middle, self.size)

    def file_geometry(self, averaged: Geometry) -> Geometry:
        """The geometry of the file, from that of the array."""
        return self._scaled(averaged, -self._middle / self.size, 1 / self.size)

    def _scaled(self, geometry: Geometry, first: float, factor: float) -> Geometry:
        index = tuple(first if axis == self.axis else 0.0 for axis in range(3))
        spacing_mm = tuple(
            mm * factor if axis == self.axis else mm for axis, mm in enumerate(geometry.spacing_mm)
        )
        return replace(geometry.moved_to(index), spacing_mm=spacing_mm)

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape in the file of an array of this shape."""
        z, y, x = (self.n_slices if axis == self.axis else n for axis, n in enumerate(shape))
        return z, y, x

    def repeated(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """The planes [0], [1], ... of the array with all slices of the file, one after the other.

        Args:
            array: (z, y, x), or with more axes behind.
        """
        for n, plane in enumerate(array):
            if self.axis == 0:
                for _ in range(min(self.size, self.n_slices - n * self.size)):
                    yield plane
            else:
                places = np.arange(self.n_slices) // self.size
                yield plane.take(places, self.axis - 1)

    def middle_of(self, n: int) -> int:
        """The slice of the file in the middle of the group that slice n of the array stands for."""
        return min(n * self.size + self.size // 2, self.n_slices - 1)

    def thinned(self, array: np.ndarray) -> np.ndarray:
        """One slice of each group, that in its middle; undoes ``repeated``.

        Args:
            array: With all slices of the file.
        """
        n_groups = -(-self.n_slices // self.size)
        return array.take([self.middle_of(n) for n in range(n_groups)], self.axis)


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
        joined: Which slices of the file were averaged; None for most scans, whose array has the
            slices of the file.
    """

    volume_hu: np.ndarray
    geometry: Geometry = field(default_factory=Geometry)
    case_id: str = "scan"
    warnings: tuple[str, ...] = ()
    thickness_mm: float | None = None
    kernel: str = ""
    joined: Joined | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        return self.volume_hu.shape

    @property
    def file_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the file."""
        return self.joined.file_shape(self.shape) if self.joined else self.shape

    @property
    def file_geometry(self) -> Geometry:
        """Where the voxels of the file lie in the patient."""
        return self.joined.file_geometry(self.geometry) if self.joined else self.geometry

    def holds_slices(self, axis: int, of_file: Iterable[int]) -> np.ndarray:
        """Which slices across an array axis are, or were averaged from, some slices of the file.

        Args:
            axis: Of the array.
            of_file: Indices along that axis in the file.

        Returns:
            (n,) bool.
        """
        found = np.isin(np.arange(self.file_shape[axis]), list(of_file))
        if self.joined is None or self.joined.axis != axis:
            return found
        groups = np.arange(0, len(found), self.joined.size)
        return np.logical_or.reduceat(found, groups)

    def file_slice(self, n: int, axis: int) -> int:
        """The slice of the file that slice n across an array axis shows."""
        if self.joined is None or self.joined.axis != axis:
            return n
        return self.joined.middle_of(n)

    def upright(self) -> tuple[np.ndarray, Triple]:
        """A view of the volume whose first axis lies along the body, and its spacing in mm."""
        first = self.geometry.body_axis
        order = [first, *(axis for axis in range(3) if axis != first)]
        return self.volume_hu.transpose(order), tuple(self.geometry.spacing_mm[n] for n in order)
