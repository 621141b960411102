"""Analytic thorax CTs with known millilitres; writers for any orientation and any fault."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path

import numpy as np

from normnet.io.formats.nifti import write_image
from normnet.scan import Geometry, Scan

AIR_HU, LUNG_HU, TISSUE_HU, BONE_HU = -1000, -850, 40, 400
GROUND_GLASS_HU, CONSOLIDATION_HU = -500, 0
# All sizes below are millimetres in a field of 160 x 320 x 320 and scale with it; (z, y, x), centre
# at zero.
FIELD_MM = np.array([160.0, 320.0, 320.0])
LUNG_SEMI_AXES_MM = np.array([70.0, 68.0, 48.0])
LUNG_CENTRES_MM = {"right": np.array([0.0, 0.0, -66.0]), "left": np.array([0.0, 0.0, 66.0])}

ORIENTATIONS = [
    (order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)
]


@dataclass(frozen=True)
class Phantom:
    """A scan and the truth about it; masks are (z, y, x) bool."""

    scan: Scan
    lung_mask: np.ndarray  # with vessels and lesions
    lesion_mask: np.ndarray
    lung_ml: float  # of the shapes, not of the voxels
    lesion_ml: float


def thorax_phantom(
    shape: tuple[int, int, int] = (64, 128, 128),
    spacing_mm: tuple[float, float, float] = (2.5, 2.5, 2.5),
    lesions: bool = True,
    seed: int = 0,
    noise_hu: float = 15.0,
    vessels: bool = True,
) -> Phantom:
    """Body, two lungs with vessels, trachea, spine, table; ground glass and consolidation."""
    rng = np.random.default_rng(seed)
    scale = np.array(shape) * spacing_mm / FIELD_MM
    axes = [
        (np.arange(n) - (n - 1) / 2) * s / f
        for n, s, f in zip(shape, spacing_mm, scale, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)

    volume = np.full(shape, AIR_HU, np.float32)
    volume[np.broadcast_to((y / 105) ** 2 + (x / 145) ** 2 <= 1, shape)] = TISSUE_HU
    volume[np.broadcast_to((y > 115) & (y < 121) & (np.abs(x) < 140), shape)] = 100  # table
    volume[np.broadcast_to((y - 78) ** 2 + x**2 <= 15**2, shape)] = BONE_HU
    volume[(y + 8) ** 2 + x**2 + 0 * z <= 8**2 + np.where(z > 0, 0, -np.inf)] = (
        AIR_HU  # trachea, upper half
    )
    lung_mask = np.zeros(shape, bool)
    for centre in LUNG_CENTRES_MM.values():
        lung_mask |= _ellipsoid((z, y, x), centre, LUNG_SEMI_AXES_MM)
    volume[lung_mask] = LUNG_HU
    if vessels:
        for centre in LUNG_CENTRES_MM.values():
            hilum = centre * [1, 1, 0.45]
            for _ in range(16):
                _grow_vessel(volume, lung_mask, (z, y, x), hilum, rng)

    lesion_mask = np.zeros(shape, bool)
    lesion_ml = 0.0
    spheres = [
        ((-20.0, 25.0, -62.0), 16.0, GROUND_GLASS_HU),
        ((15.0, -15.0, 70.0), 12.0, CONSOLIDATION_HU),
    ]
    for centre, radius, hu in spheres if lesions else ():
        sphere = _ellipsoid((z, y, x), np.array(centre), np.full(3, radius))
        volume[sphere] = np.maximum(volume[sphere], hu)
        lesion_mask |= sphere
        lesion_ml += 4 / 3 * np.pi * radius**3 * float(np.prod(scale)) / 1000

    volume += rng.normal(0, noise_hu, shape).astype(np.float32)
    geometry = Geometry(
        spacing_mm, tuple(float(-(n - 1) / 2 * s) for n, s in zip(shape, spacing_mm, strict=True))
    )
    lung_ml = 2 * 4 / 3 * np.pi * float(np.prod(LUNG_SEMI_AXES_MM * scale)) / 1000
    scan = Scan(np.clip(np.rint(volume), -1024, 3071).astype(np.int16), geometry, "phantom")
    return Phantom(scan, lung_mask, lesion_mask, lung_ml, lesion_ml)


def phantom_lungs(scan, networks, config, device="cpu"):
    """In place of ``segment_lungs``: the phantom's own lungs, 1 right, 2 left."""
    lungs = thorax_phantom(scan.shape, scan.geometry.spacing_mm, vessels=False).lung_mask
    left = np.arange(scan.shape[2]) >= scan.shape[2] // 2
    return np.where(lungs, np.where(left, 2, 1), 0).astype(np.uint8)


def _ellipsoid(
    grid: tuple[np.ndarray, ...], centre: np.ndarray, semi_axes: np.ndarray
) -> np.ndarray:
    return sum(((g - c) / a) ** 2 for g, c, a in zip(grid, centre, semi_axes, strict=True)) <= 1


def _grow_vessel(
    volume: np.ndarray,
    lung_mask: np.ndarray,
    grid: tuple[np.ndarray, ...],
    start: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Three generations of ever thinner straight branches, away from the midline."""
    radius, length = 3.5, 30.0
    heading = rng.normal((0, 0, 1.5 * np.sign(start[2])), 1, 3)
    for _ in range(3):
        heading = heading / np.linalg.norm(heading)
        for t in np.linspace(0, length, int(length / 2.0)):
            at = start + t * heading
            low = [
                int(np.searchsorted(g.ravel(), c - radius)) for g, c in zip(grid, at, strict=True)
            ]
            high = [
                int(np.searchsorted(g.ravel(), c + radius)) for g, c in zip(grid, at, strict=True)
            ]
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            part = [g.ravel()[s].reshape([-1 if n == m else 1 for m in range(3)]) for n, (g, s) in
                    enumerate(zip(grid, box, strict=True))]  # fmt: skip
            ball = _ellipsoid(tuple(part), at, np.full(3, radius)) & lung_mask[box]
            volume[box][ball] = TISSUE_HU
        start = start + length * heading
        heading = heading + rng.normal(0, 0.5, 3)
        radius, length = radius * 0.7, length * 0.8


def reorient(scan: Scan, order: tuple[int, ...], flips: tuple[bool, ...]) -> Scan:
    """The same scan with its array axes permuted, then flipped; the world stays where it is."""
    direction = np.array(scan.geometry.direction)[:, list(order)]
    volume = scan.volume_hu.transpose(order)
    index = np.zeros(3)
    for axis, flip in enumerate(flips):
        if flip:
            volume = np.flip(volume, axis)
            direction[:, axis] *= -1
            index[order[axis]] = scan.shape[order[axis]] - 1
    geometry = replace(
        scan.geometry.moved_to(tuple(index)),
        spacing_mm=tuple(scan.geometry.spacing_mm[axis] for axis in order),
        direction=tuple(tuple(float(v) for v in row) for row in direction),
    )
    return replace(scan, volume_hu=np.ascontiguousarray(volume), geometry=geometry)


def canonical(scan: Scan) -> Scan:
    """The scan with its array axes along world z, y, x, all ascending."""
    direction = np.array(scan.geometry.direction)
    order = tuple(int(axis) for axis in np.argmax(np.abs(direction), axis=1))
    turned = reorient(scan, order, (False,) * 3)
    flips = tuple(bool(turned.geometry.direction[axis][axis] < 0) for axis in range(3))
    return reorient(turned, (0, 1, 2), flips)


def assert_same_world(scan: Scan, expected: Scan, atol_mm: float = 1e-3) -> None:
    """Both scans show the same HU at the same place, whatever their order in memory."""
    one, other = canonical(scan), canonical(expected)
    np.testing.assert_allclose(one.geometry.affine, other.geometry.affine, rtol=0, atol=atol_mm)
    np.testing.assert_array_equal(one.volume_hu, other.volume_hu)


def write_nifti(scan: Scan, path: Path) -> Path:
    """Store a scan with our own writer, in its order."""
    write_image(path, scan.volume_hu, scan.geometry)
    return path


# Headers of the phantom of 20 x 24 x 28 voxels of 2.5 x 2.0 x 1.5 mm, with the voxels behind them.
NRRD = (
    "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 28 24 20\n"
    "encoding: raw\nendian: little\nspace directions: (1.5,0,0) (0,2,0) (0,0,2.5)\n"
    "space origin: (-20.25,-23,-23.75)\n"
)
MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -20.25 -23 -23.75\n"
    "ElementSpacing = 1.5 2 2.5\nDimSize = 28 24 20\nElementType = MET_SHORT\n"
)


def write_text(path: Path, header: str, scan, local: str = "ElementDataFile = LOCAL\n") -> Path:
    """Store a scan behind a header of NRRD or MetaImage."""
    path.write_bytes(
        header.encode()
        + (b"\n" if header.startswith("NRRD") else local.encode())
        + scan.volume_hu.tobytes()
    )
    return path


def poke(path: Path, offset: int, code: str, *values: object) -> None:
    """Change a number in a file, little-endian, by its place and its code of ``struct``."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(data)


def dicom_datasets(scan: Scan) -> list:
    """One uncompressed CT dataset per slice along the first axis; the patient is "phantom"."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    study, series, frame = (generate_uid() for _ in range(3))
    columns_xyz = np.array(scan.geometry.direction)[::-1]  # (x, y, z) of each array axis
    datasets = []
    for index, image in enumerate(scan.volume_hu):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
            study,
            series,
            frame,
        )
        data.PatientID, data.PatientName = "phantom", "Phantom^Secret"
        data.Modality, data.ImageType, data.InstanceNumber = (
            "CT",
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            index + 1,
        )
        position = scan.geometry.moved_to((index, 0, 0)).origin_mm[::-1]
        data.ImagePositionPatient = [f"{v:.6f}" for v in position]
        data.ImageOrientationPatient = [
            f"{v:.8f}" for v in (*columns_xyz[:, 2], *columns_xyz[:, 1])
        ]
        data.PixelSpacing = [f"{v:.6f}" for v in scan.geometry.spacing_mm[1:]]
        data.SliceThickness = f"{scan.geometry.spacing_mm[0]:.6f}"
        data.Rows, data.Columns = image.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
        data.PixelData = (image.astype(np.int32) + 1024).astype("<u2").tobytes()
        datasets.append(data)
    return datasets


def write_dicom(
    scan: Scan, folder: Path, edit: Callable[[list], None] | None = None, seed: int = 0
) -> Path:
    """Store a scan as a DICOM series under shuffled names; ``edit`` may spoil the datasets."""
    datasets = dicom_datasets(scan)
    if edit is not None:
        edit(datasets)
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in zip(
        np.random.default_rng(seed).permutation(len(datasets)), datasets, strict=True
    ):
        data.preamble = bytes(128)
        known = "TransferSyntaxUID" in data.file_meta
        encoding = {} if known else {"implicit_vr": False, "little_endian": True}
        data.save_as(folder / f"{number:04d}.dcm", enforce_file_format=False, **encoding)
    return folder


def _set(keyword: str, value: object, which: slice = slice(None)) -> Callable[[list], None]:
    """An edit that sets one tag, or removes it if the value is None."""

    def edit(datasets: list) -> None:
        for data in datasets[which]:
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)

    return edit


def _move(offsets_mm: Callable[[int], tuple[float, float, float]]) -> Callable[[list], None]:
    """An edit that moves slice n by an LPS+ (x, y, z) offset."""

    def edit(datasets: list) -> None:
        for index, data in enumerate(datasets):
            old = [float(v) for v in data.ImagePositionPatient]
            data.ImagePositionPatient = [
                f"{a + b:.6f}" for a, b in zip(old, offsets_mm(index), strict=True)
            ]

    return edit


def _duplicate(change: int) -> Callable[[list], None]:
    """Add a copy of the sixth slice with one pixel changed by so much."""

    def edit(datasets: list) -> None:
        extra = copy.deepcopy(datasets[5])
        first = int.from_bytes(extra.PixelData[:2], "little") + change
        extra.PixelData = first.to_bytes(2, "little") + extra.PixelData[2:]
        datasets.append(extra)

    return edit


def _fewer_rows(datasets: list) -> None:
    data = datasets[5]
    data.Rows //= 2
    data.PixelData = data.PixelData[: len(data.PixelData) // 2]


def _short_pixels(datasets: list) -> None:
    datasets[5].PixelData = datasets[5].PixelData[:1000]


def _wrong_sign(datasets: list) -> None:
    """Signed HU said to be unsigned."""
    for data in datasets:
        stored = np.frombuffer(data.PixelData, "<u2").astype(np.int32) - 1024
        data.PixelData, data.RescaleIntercept = stored.astype("<i2").tobytes(), 0


def _all_one_value(datasets: list) -> None:
    for data in datasets:
        data.PixelData = bytes(len(data.PixelData))


def _no_syntax(datasets: list) -> None:
    del datasets[5].file_meta.TransferSyntaxUID


def _unknown_syntax(datasets: list) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import MPEG2MPML

    for data in datasets:
        data.file_meta.TransferSyntaxUID = MPEG2MPML
        data.PixelData = encapsulate([b"\x00" * 64])


ONE = slice(5, 6)
# name: (edit of the datasets, id of the error it must end in)
DICOM_FAULTS: dict[str, tuple[Callable[[list], None], str]] = {
    "missing_middle_slice": (lambda datasets: datasets.pop(7), "NN-GEO-002"),
    "duplicate_position": (_duplicate(change=1), "NN-GEO-003"),
    "variable_spacing": (_move(lambda n: (0, 0, 0.4 * max(0, n - 8) ** 1.5)), "NN-GEO-004"),
    "jitter_8_percent": (_move(lambda n: (0, 0, 0.2 * (n % 2))), "NN-GEO-004"),
    "gantry_tilt": (_move(lambda n: (0, 0.5 * n, 0)), "NN-GEO-005"),
    "one_slice_shifted": (_move(lambda n: (3.0 * (n == 6), 0, 0)), "NN-GEO-005"),
    "mixed_orientation": (_set("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], ONE), "NN-GEO-006"),
    "rows_differ": (_fewer_rows, "NN-GEO-007"),
    "pixel_spacing_differs": (_set("PixelSpacing", [0.9, 0.9], ONE), "NN-GEO-008"),
    "position_missing": (_set("ImagePositionPatient", None, ONE), "NN-GEO-009"),
    "orientation_missing": (_set("ImageOrientationPatient", None), "NN-GEO-009"),
    "orientation_zero": (_set("ImageOrientationPatient", [0] * 6), "NN-GEO-010"),
    "orientation_skewed": (_set("ImageOrientationPatient", [1, 0, 0, 0.5, 0.8, 0]), "NN-GEO-010"),
    "spacing_zero": (_set("PixelSpacing", [0, 0]), "NN-GEO-011"),
    "spacing_negative": (_set("PixelSpacing", [-0.7, 0.7]), "NN-GEO-011"),
    "spacing_nan": (_set("PixelSpacing", ["nan", "nan"]), "NN-GEO-011"),
    "spacing_30_mm": (_move(lambda n: (0, 0, 27.5 * n)), "NN-GEO-011"),
    "single_slice": (lambda datasets: datasets.__delitem__(slice(1, None)), "NN-GEO-012"),
    "frame_of_reference_differs": (_set("FrameOfReferenceUID", "1.2.3", ONE), "NN-GEO-014"),
    "one_slice_far_away": (_move(lambda n: (0, 0, 1e9 * (n == 6))), "NN-GEO-004"),
    "two_stacks_side_by_side": (_move(lambda n: (90.0 * (n % 2), 0, -2.5 * (n % 2))), "NN-GEO-003"),
    "two_series": (_set("SeriesInstanceUID", "1.2.3.4", slice(8, None)), "NN-GEO-001"),
    "two_patients": (_set("PatientID", "other", ONE), "NN-VAL-004"),
    "slope_missing": (_set("RescaleSlope", None), "NN-VAL-001"),
    "slope_zero": (_set("RescaleSlope", 0), "NN-VAL-001"),
    "monochrome1": (_set("PhotometricInterpretation", "MONOCHROME1"), "NN-VAL-002"),
    "modality_mr": (_set("Modality", "MR"), "NN-VAL-003"),
    "wrong_signedness": (_wrong_sign, "NN-VAL-007"),
    "constant": (_all_one_value, "NN-VAL-006"),
    "short_pixel_data": (_short_pixels, "NN-FILE-005"),
    "no_pixel_data": (_set("PixelData", None, ONE), "NN-FILE-013"),
    "no_transfer_syntax": (_no_syntax, "NN-FILE-010"),
    "unknown_codec": (_unknown_syntax, "NN-FILE-011"),
    "rows_65535": (_set("Rows", 65535), "NN-RES-001"),
    "two_billion_frames": (_set("NumberOfFrames", 2_000_000_000), "NN-RES-001"),
    "multi_frame": (_set("NumberOfFrames", 20), "NN-FILE-015"),
}
# name: (edit, whether a warning must be given); all must give the same volume
DICOM_HARMLESS: dict[str, tuple[Callable[[list], None], bool]] = {
    "plain": (lambda datasets: None, False),
    "instance_numbers_shuffled": (
        lambda datasets: [
            setattr(d, "InstanceNumber", 1 + 7 * n % len(datasets)) for n, d in enumerate(datasets)
        ],
        False,
    ),
    "identical_duplicate": (_duplicate(change=0), True),
    "jitter_below_1_percent": (_move(lambda n: (0, 0, 0.01 * (n % 2))), False),
    "jitter_2_percent": (_move(lambda n: (0, 0, 0.04 * (n % 2))), True),
    "slope_varies": (
        lambda datasets: [
            (
                setattr(d, "RescaleSlope", 0.5),
                setattr(d, "PixelData", (np.frombuffer(d.PixelData, "<u2") * 2).tobytes()),
            )
            for d in datasets[5:6]
        ],
        True,
    ),
}
