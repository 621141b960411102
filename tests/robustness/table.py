"""Every kind of input that somebody may give, and how it must end: one row per kind.

``test_table.py`` runs every row in Python and on the command line. The page "What it accepts and
refuses" of the documentation is made from the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests import phantoms
from tests.robustness import inputs
from tests.robustness.inputs import INF, NAN, Maker, all_slices

GROUPS = {
    "file": "Files",
    "folder": "Folders and zip archives",
    "resource": "Size and resources",
    "geometry": "Geometry",
    "values": "Values and modality",
    "model": "Models",
    "settings": "Settings",
    "lungs": "Lung masks given by `--lungs`",
    "cases": "Lists of cases",
    "output": "Output",
}
EXIT_CODES = {"CFG": 2, "DAT": 3, "FILE": 3, "GEO": 4, "VAL": 5, "MOD": 6, "OUT": 7, "RES": 8}


@dataclass(frozen=True)
class Row:
    """One kind of input.

    Attributes:
        kind: What the input is, in plain words.
        group: A key of ``GROUPS``.
        make: Writes the input into a folder and returns the path that the user gives.
        error: Id of the error that it must end in, or its beginning where any id of that family
            will do; empty: it is accepted.
        warns: Whether a warning must be given; only where it is accepted.
        call: Python call that takes the path; that of the group where None.
        same_masks: Whether the masks of a segmentation must be those of the plain phantom.
        shipped_lungs: Whether it needs the shipped lung networks; the others get stand-ins.
    """

    kind: str
    group: str
    make: Maker
    error: str = ""
    warns: bool = False
    call: Callable[[Path], Any] | None = None
    same_masks: bool = False
    shipped_lungs: bool = False

    @property
    def name(self) -> str:
        """For the name of its test."""
        return f"{self.group}: {self.kind}"

    def run(self, path: Path) -> Any:
        """Do in Python what a user would do with the path; raises the error of the row."""
        return (self.call or _CALLS[self.group])(path)

    def arguments(self, path: Path, ct: Path) -> list[str]:
        """Command and its arguments, but for models and ``--out``; ``ct`` is a good CT."""
        if self.group == "cases":
            return ["prepare", str(path)]
        option = {"model": "--model", "settings": "--config", "lungs": "--lungs"}.get(self.group)
        return ["segment", str(ct), option, str(path)] if option else ["segment", str(path)]

    def fits(self, code: str) -> bool:
        """Whether an error id is the one that the row wants."""
        return code == self.error if self.error[-1:].isdigit() else code.startswith(self.error)


def exit_code_of(code: str) -> int:
    """The exit code of an error id, by its family."""
    return EXIT_CODES[code.split("-")[1]]


def _read(path: Path) -> Any:
    import normnet

    return normnet.read_ct(path)


def _read_found(path: Path) -> Any:
    """The only CT in a folder of other things."""
    from normnet.io.census import take_census
    from normnet.io.choice import choose_scans
    from normnet.io.read import read_item

    (item,) = choose_scans(take_census([path]))
    return read_item(item)


def _load_model(path: Path) -> Any:
    import normnet

    return normnet.load_model(path)


def _load_config(path: Path) -> Any:
    import normnet

    return normnet.load_config(path)


def _write(path: Path) -> Any:
    """Write a result as a user of the Python API does, into ``out`` beside the input."""
    from normnet.config import Config
    from normnet.io.output_folder import check_output, locked
    from normnet.io.read import case_id_of
    from normnet.models import Members, Model
    from normnet.pipeline import Segmentation
    from normnet.quantification import quantify
    from normnet.results.folder import write_results

    out = (
        path
        if path.name == "out"
        else next(parent / "out" for parent in path.parents if (parent / "out").exists())
    )
    check_output(out, [path])
    read = _read(path)
    nothing = np.zeros(read.shape, np.uint8)
    volumes = quantify(nothing > 0, nothing, read.geometry.voxel_ml)
    found = Segmentation(nothing > 0, nothing, nothing, nothing, volumes)
    name = {"name": "stand-in"}
    model = Model(*(Members([], Config(), name) for _ in range(3)))
    with locked(out):
        write_results(found, read, out / case_id_of(path), model)
    return read


def _find_no_lungs(path: Path) -> Any:
    from normnet.lungs.learned import find_lungs
    from normnet.models import load_lungs

    lungs = load_lungs()
    return find_lungs(_read(path), lungs.networks, lungs.config.lungs, "cpu", None)


def _sort_lungs(path: Path) -> Any:
    """The phantom, with the warnings that its lung mask gives."""
    from normnet.io.masks import read_labels
    from normnet.lungs.given import sort_lungs

    scan = inputs.scan()
    return replace(scan, warnings=sort_lungs(read_labels(path, scan), scan)[1])


def _read_cases(path: Path) -> Any:
    from normnet.datasets.manifest import read_cases

    return read_cases(path)


_CALLS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(("file", "folder", "resource", "geometry", "values"), _read),
    "model": _load_model,
    "settings": _load_config,
    "lungs": _sort_lungs,
    "cases": _read_cases,
    "output": _write,
}


TEXT = b"This is no image.\n" * 40


def _file_rows() -> Iterator[Row]:
    row = partial(Row, group="file")
    cut_gzip = inputs.gzipped(lambda data: data[: len(data) // 2])
    bad_crc = inputs.gzipped(lambda data: data[:-8] + bytes([data[-8] ^ 1]) + data[-7:])
    body = inputs.gzipped(lambda data: data[:-500] + bytes([data[-500] ^ 85]) + data[-499:])
    mha = inputs.deflated_mha(lambda d: d[:-200] + bytes([d[-200] ^ 85]) + d[-199:])
    half = inputs.nifti(edit=lambda data: data[: len(data) // 2])
    short_header = inputs.nifti(edit=lambda data: data[:200])
    bad_vr = inputs.spoiled_slice(lambda d: d.replace(b"\x28\x00\x52\x10DS", b"\x28\x00\x52\x10ZZ"))
    bad_number = inputs.spoiled_slice(lambda d: d.replace(b"-1024.0", b"-10x4.0"))
    yield row("A file of 0 bytes", make=inputs.file("ct.nii.gz", b""), error="NN-FILE-002")
    yield row("A path that does not exist", make=lambda f: f / "ct.nii", error="NN-FILE-001")
    yield row("Text named .nii", make=inputs.file("ct.nii", TEXT), error="NN-FILE-003")
    yield row("Text named .dcm", make=inputs.file("ct.dcm", TEXT), error="NN-FILE-003")
    yield row(
        "A DICOM series with text named .dcm",
        make=inputs.beside_series(lambda f: (f / "a.dcm").write_bytes(TEXT)),
        error="NN-FILE-003",
    )
    yield row(
        "A DICOM series with a .dcm file of 0 bytes",
        make=inputs.spoiled_slice(lambda _: b""),
        error="NN-FILE-002",
    )
    yield row("A NIfTI file that ends in its header", make=short_header, error="NN-FILE-005")
    yield row("A truncated .nii file", make=half, error="NN-FILE-005")
    yield row("A truncated .nii.gz file", make=cut_gzip, error="NN-FILE-005")
    yield row("A .nii.gz file with a wrong checksum", make=bad_crc, error="NN-FILE-006")
    yield row("A .nii.gz file with a damaged byte", make=body, error="NN-FILE-006")
    yield row("A compressed MetaImage with a damaged byte", make=mha, error="NN-FILE-006")
    yield row(
        "A truncated NRRD file",
        make=lambda f: _cut(inputs.text_image("ct.nrrd")(f), 1000),
        error="NN-FILE-005",
    )
    yield row(
        "A truncated MetaImage",
        make=lambda f: _cut(inputs.text_image("ct.mha")(f), 1),
        error="NN-FILE-005",
    )
    yield row(
        "A DICOM file that ends in its header",
        make=inputs.spoiled_slice(lambda data: data[:400]),
        error="NN-FILE-013",
    )
    yield row("Too few bytes in PixelData", **_fault("short_pixel_data"))
    yield row("No PixelData", **_fault("no_pixel_data"))
    yield row(
        "PixelData of twice the size that Rows and Columns say",
        make=inputs.series(all_slices(inputs.double_pixels)),
        error="NN-FILE-005",
    )
    yield row(
        "Columns that are one less than the rows are long",
        make=inputs.series(all_slices(inputs.drop_column)),
        error="NN-FILE-005",
    )
    yield row(
        "A slice that begins without preamble and group 2",
        make=inputs.spoiled_slice(inputs.without_preamble),
        error="NN-FILE-003",
    )
    yield row(
        "A slice without group 2 (meta header)",
        make=inputs.spoiled_slice(inputs.without_meta),
        error="NN-FILE-010",
    )
    yield row("No transfer syntax: it is never guessed", **_fault("no_transfer_syntax"))
    yield row("A codec without a decoder: its UID is named", **_fault("unknown_codec"))
    yield row("A JPEG 2000 series", make=inputs.jpeg_2000())
    yield row(
        "A truncated JPEG 2000 stream",
        make=inputs.jpeg_2000(lambda code: code[: len(code) // 2]),
        error="NN-FILE-012",
    )
    yield row(
        "A JPEG 2000 stream of random bytes",
        make=inputs.jpeg_2000(lambda code: code[:2] + np.random.default_rng(0).bytes(len(code))),
        error="NN-FILE-012",
    )
    yield row(
        "A JPEG 2000 stream with damaged bytes in its body",
        make=inputs.jpeg_2000(_flip_body, inputs.wide_scan),
        error="NN-VAL-013",
    )
    yield row("Sequences nested 2,000 deep", make=inputs.spoiled_slice(inputs.nest))
    yield row("A value representation that does not exist", make=bad_vr, error="NN-FILE-014")
    yield row("A number that is none in a tag", make=bad_number, error="NN-FILE-014")
    for target in ("/etc/hostname", "../voxels.raw", "sub/voxels.raw", "link.raw"):
        for name in ("ct.nhdr", "ct.mhd"):
            yield row(
                f"A {Path(name).suffix} header that points at `{target}`",
                make=inputs.detached(name, target),
                error="NN-FILE-007",
            )
    yield row(
        "A .mha header that points at a file",
        make=inputs.detached("ct.mha", "voxels.raw"),
        error="NN-FILE-007",
    )
    yield row(
        "A header that points at a LIST of files",
        make=inputs.detached("ct.mhd", "LIST"),
        error="NN-FILE-007",
    )
    yield row(
        "A header whose data file lies beside it", make=inputs.detached("ct.mhd", "voxels.raw")
    )
    for name in ("ct.nhdr", "ct.mhd"):
        yield row(
            f"A {Path(name).suffix} header that points at `./voxels.raw`",
            make=inputs.detached(name, "./voxels.raw"),
        )
    yield row(
        "A .hdr and .img pair (Analyze)",
        make=inputs.nifti((344, "4s", b"ni1")),
        error="NN-FILE-009",
    )
    yield row(
        "NRRD with voxels as text",
        make=inputs.text_image("ct.nrrd", "encoding: raw", "encoding: ascii"),
        error="NN-FILE-009",
    )
    yield row(
        "A control character in a field of a text header",
        make=inputs.text_image("ct.nrrd", "-23.75", "\r23.75"),
        error="NN-FILE-004",
    )
    yield row(
        "An impossible number of dimensions",
        make=inputs.text_image("ct.mha", "NDims = 3", "NDims = -1"),
        error="NN-FILE-004",
    )


def _flip_body(code: bytes) -> bytes:
    spoiled = bytearray(code)
    for at in range(len(code) // 2, len(code) - 2, 3):
        spoiled[at] ^= 0x55
    return bytes(spoiled)


def _cut(path: Path, n_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:-n_bytes])
    return path


def _fault(name: str) -> dict[str, Any]:
    edit, code = phantoms.DICOM_FAULTS[name]
    return {"make": inputs.series(edit), "error": code}


def _harmless(name: str) -> dict[str, Any]:
    edit, warns = phantoms.DICOM_HARMLESS[name]
    return {"make": inputs.series(edit), "warns": warns}


def _folder_rows() -> Iterator[Row]:
    row = partial(Row, group="folder")
    yield row("An empty folder", make=inputs.empty_folder, error="NN-FILE-008")
    yield row("Two series: their UIDs are listed", **_fault("two_series"))
    yield row("Slices of two patients", **_fault("two_patients"))
    yield row(
        "A README among the slices: ignored and counted",
        make=inputs.beside_series(lambda f: (f / "README.txt").write_bytes(TEXT)),
        warns=True,
    )
    yield row(
        "A DICOMDIR beside the slices, whose entry leads to `../`: never followed",
        make=inputs.beside_series(inputs.add_dicomdir),
    )
    yield row("A DICOMDIR alone", make=inputs.dicomdir_alone, error="NN-FILE-008")
    yield row(
        "Slices of 0 bytes without a suffix",
        make=inputs.lost_slices(inputs.empty),
        error="NN-FILE-002",
    )
    yield row(
        "Slices that are broken links",
        make=inputs.lost_slices(inputs.break_link),
        error="NN-FILE-001",
    )
    yield row(
        "A named pipe among images",
        make=inputs.fifo_in("ct.nii"),
        error="NN-FILE-008",
        call=_read_found,
    )
    yield row(
        "A CT with a folder of organ masks beside it: the masks are not taken for CTs",
        make=inputs.organ_masks,
        call=_read_found,
    )
    yield row(
        "A tree with a CT and series of other modalities",
        make=inputs.other_series,
        call=_read_found,
    )
    yield row("A zip archive of a series", make=inputs.zipped())
    yield row("A zip member named `../x.dcm`", make=inputs.zipped("../x.dcm"), error="NN-FILE-031")
    yield row("A zip member named `/x.dcm`", make=inputs.zipped("/x.dcm"), error="NN-FILE-031")
    yield row(
        "A zip member named `..\\x.dcm`", make=inputs.zipped("..\\x.dcm"), error="NN-FILE-031"
    )
    yield row("A zip archive with a symbolic link", make=inputs.zip_with_link, error="NN-FILE-031")
    yield row(
        "An encrypted zip archive",
        make=inputs.zipped(spoil=inputs.say_encrypted),
        error="NN-FILE-032",
    )
    yield row(
        "A zip archive with two members of one name",
        make=inputs.zipped("ct/0003.dcm"),
        error="NN-FILE-033",
    )
    yield row(
        "A truncated zip archive",
        make=inputs.zipped(spoil=lambda data: data[: len(data) // 2]),
        error="NN-FILE-003",
    )


def _resource_rows() -> Iterator[Row]:
    row = partial(Row, group="resource")
    frames = lambda n: phantoms._set("NumberOfFrames", n)  # noqa: E731
    yield row("A zip bomb", make=inputs.zip_bomb, error="NN-RES-031")
    yield row(
        "A zip archive with overlapping members",
        make=inputs.zipped("ct/x.dcm", spoil=inputs.overlap),
        error="NN-RES-031",
    )
    yield row(
        "A zip archive with a forged size",
        make=inputs.zipped("ct/x.dcm", spoil=inputs.forge_size),
        error="NN-RES-031",
    )
    yield row(
        "A .nii.gz file that inflates to more than its header says",
        make=inputs.gzip_bomb,
        error="NN-FILE-005",
    )
    yield row("A .nii.gz bomb: 4 GiB of one value", make=inputs.claim_4_gib, error="NN-RES-041")
    yield row("A deflated DICOM bomb", make=inputs.series(inputs.deflate_bomb), error="NN-RES-003")
    yield row(
        "Dimensions of 60,000 × 60,000 × 60,000",
        make=inputs.text_image("ct.nrrd", "28 24 20", "60000 60000 60000"),
        error="NN-RES-001",
    )
    yield row(
        "Dimensions of 32,000 × 32,000 × 32,000 in NIfTI",
        make=inputs.nifti((40, "8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)),
        error="NN-RES-001",
    )
    yield row("NumberOfFrames of 2,000,000,000", **_fault("two_billion_frames"))
    yield row("Rows of 65,535", **_fault("rows_65535"))
    yield row(
        "More than 5,000 slices",
        make=inputs.nifti((40, "8h", 3, 28, 24, 5001, 1, 1, 1, 1)),
        error="NN-RES-001",
    )
    yield row("More than 5,000 frames", make=inputs.series(frames(5001)), error="NN-RES-001")


def _geometry_rows() -> Iterator[Row]:
    row = partial(Row, group="geometry")
    turned = inputs.stored
    # (kind, name of a fault)
    for kind, name in (
        ("A missing middle slice: its z is named", "missing_middle_slice"),
        ("Two different slices at one place", "duplicate_position"),
        ("Two stacks side by side in one series", "two_stacks_side_by_side"),
        ("Variable spacing", "variable_spacing"),
        ("Slices off an even grid by more than 5 % of their spacing", "jitter_8_percent"),
        ("One slice far away", "one_slice_far_away"),
        ("Gantry tilt", "gantry_tilt"),
        ("One slice shifted sideways", "one_slice_shifted"),
        ("Slices of different orientation", "mixed_orientation"),
        ("Slices of different Rows", "rows_differ"),
        ("Slices of different PixelSpacing", "pixel_spacing_differs"),
        ("A slice without a position", "position_missing"),
        ("No orientation", "orientation_missing"),
        ("An orientation of zeros", "orientation_zero"),
        ("An orientation that is not orthonormal", "orientation_skewed"),
        ("A spacing of zero", "spacing_zero"),
        ("A negative spacing", "spacing_negative"),
        ("A spacing of NaN", "spacing_nan"),
        ("A spacing of more than 20 mm", "spacing_30_mm"),
        ("Slices of different frames of reference", "frame_of_reference_differs"),
        ("A single slice", "single_slice"),
    ):
        yield row(kind, **_fault(name))
    for kind, name in (
        ("A duplicate file with the same pixels: dropped", "identical_duplicate"),
        ("Slices off an even grid by less than 1 % of their spacing", "jitter_below_1_percent"),
        ("Slices off an even grid by 2 % of their spacing", "jitter_2_percent"),
        ("InstanceNumber in another order", "instance_numbers_shuffled"),
    ):
        yield row(kind, **_harmless(name), same_masks=name == "instance_numbers_shuffled")
    yield row(
        "Slices of 0.625 mm with positions rounded to 0.1 mm",
        make=inputs.series(inputs.round_positions),
        warns=True,
    )
    for kind, change in (("NaN", NAN), ("infinity", INF)):
        yield row(
            f"A NIfTI sform with {kind}",
            make=inputs.nifti((280, "f", change)),
            error="NN-GEO-010",
        )
    yield row(
        "A NIfTI sform of zeros", make=inputs.nifti((280, "12f", *[0] * 12)), error="NN-GEO-011"
    )
    yield row(
        "A NIfTI sform whose axes are parallel",
        make=inputs.nifti((280, "12f", -1.5, 0, 0, 0, 0, -2, 0, 0, 1.5, 0, 0, 0)),
        error="NN-GEO-011",
    )
    yield row("A sheared NIfTI sform", make=inputs.nifti((284, "f", 0.7)), error="NN-GEO-010")
    yield row(
        "A slightly sheared sform beside a good qform: the qform is used",
        make=inputs.nifti((284, "f", 0.004)),
        warns=True,
    )
    yield row(
        "sform and qform that differ: the sform is used",
        make=inputs.nifti((268, "f", 999.0)),
        warns=True,
    )
    yield row("Neither sform nor qform", make=inputs.nifti((252, "2h", 0, 0)), error="NN-GEO-015")
    yield row("Lengths in microns: converted", make=_in_microns, warns=True)
    yield row("An unknown unit of length", make=inputs.nifti((123, "B", 5)), error="NN-GEO-011")
    yield row(
        "Four dimensions",
        make=inputs.nifti((40, "8h", 4, 28, 24, 10, 2, 1, 1, 1)),
        error="NN-GEO-013",
    )
    yield row(
        "Four dimensions with one point in time",
        make=inputs.nifti((40, "8h", 4, 28, 24, 20, 1, 1, 1, 1)),
    )
    yield row("A multi-frame (enhanced) CT", make=inputs.multi_frame)
    yield row(
        "NRRD without orientation",
        make=inputs.text_image("ct.nrrd", "space: left-posterior-superior\n"),
        error="NN-GEO-015",
    )
    yield row(
        "NRRD without an origin: 0, 0, 0 is used",
        make=inputs.text_image("ct.nrrd", "space origin: (-20.25,-23,-23.75)\n"),
        warns=True,
    )
    yield row(
        "MetaImage without an origin: 0, 0, 0 is used",
        make=inputs.text_image("ct.mha", "Offset = -20.25 -23 -23.75\n"),
        warns=True,
    )
    yield row(
        "MetaImage without orientation: its default is used",
        make=inputs.text_image("ct.mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"),
        warns=True,
    )
    yield row(
        "MetaImage without spacing",
        make=inputs.text_image("ct.mha", "ElementSpacing = 1.5 2 2.5\n"),
        error="NN-GEO-009",
    )
    yield row(
        "A spacing in NRRD that is a vector of zeros",
        make=inputs.text_image("ct.nrrd", "(0,2,0)", "(0,0,0)"),
        error="NN-GEO-011",
    )
    yield row(
        "A field of more than 1 m: centimetres taken for millimetres",
        make=inputs.coarse,
        error="NN-GEO-041",
    )
    yield row(
        "Slices stored from head to feet",
        make=turned((0, 1, 2), (True, False, False)),
        same_masks=True,
    )
    yield row(
        "Feet first, in DICOM",
        make=turned((0, 1, 2), (True, False, True), dicom=True),
        same_masks=True,
    )
    yield row("Sagittal slices", make=turned((2, 0, 1), (False, True, True)), same_masks=True)
    yield row(
        "Coronal slices, in DICOM",
        make=turned((1, 0, 2), (False, True, False), dicom=True),
        same_masks=True,
    )
    yield row("Axes stored as RAS", make=turned((0, 1, 2), (False, True, True)), same_masks=True)
    yield row("Axes stored as LPS", make=inputs.text_image("ct.mha"), same_masks=True)
    yield row("Anisotropic pixels", **_harmless("plain"), same_masks=True)


def _in_microns(folder: Path) -> Path:
    import struct

    axes = [v * 1000 for v in struct.unpack_from("<12f", inputs.nifti_bytes(), 280)]
    return inputs.nifti(
        (280, "12f", *axes),
        (80, "3f", 1500, 2000, 2500),
        (268, "3f", *axes[3::4]),
        (123, "B", 3),
    )(folder)


def _values_rows() -> Iterator[Row]:
    row = partial(Row, group="values")
    ramp = np.linspace(-1000, 1000, inputs.SHAPE[0])[:, None, None].astype(np.int16)
    for kind, name in (
        ("RescaleSlope missing", "slope_missing"),
        ("RescaleSlope of zero", "slope_zero"),
        ("MONOCHROME1", "monochrome1"),
        ("Signed HU that are said to be unsigned", "wrong_signedness"),
        ("Modality MR", "modality_mr"),
        ("A constant volume", "constant"),
    ):
        yield row(kind, **_fault(name))
    yield row("RescaleSlope that varies: applied slice by slice", **_harmless("slope_varies"))
    yield row(
        "One slice that is said to be unsigned, in a signed series",
        make=inputs.series(inputs.unsigned_slice, inputs.wide_scan),
        error="NN-VAL-013",
    )
    yield row(
        "Grey scale inverted",
        make=inputs.series(all_slices(inputs.invert_grey)),
        error="NN-VAL-012",
    )
    yield row(
        "Rescale applied twice",
        make=inputs.series(all_slices(inputs.scale_twice)),
        error="NN-VAL-007",
    )
    yield row(
        "HU of twice their size",
        make=inputs.values(lambda hu: (hu.clip(-1000, 1500) * 2).astype(np.int16)),
        error="NN-VAL-007",
    )
    yield row(
        "HU of half their size",
        make=inputs.values(lambda hu: (hu // 2).astype(np.int16)),
        error="NN-VAL-011",
    )
    yield row(
        "A ramp of HU",
        make=inputs.values(lambda hu: np.broadcast_to(ramp, hu.shape).copy()),
        error="NN-VAL-011",
    )
    yield row(
        "An overlay in the bits above BitsStored: ignored",
        make=inputs.series(all_slices(inputs.overlay_bits)),
    )
    yield row(
        "No Modality, but the SOP class of a CT",
        make=inputs.series(phantoms._set("Modality", None)),
        warns=True,
    )
    yield row(
        "Voxels of NaN",
        make=inputs.values(lambda hu: np.where(hu == hu.max(), np.float32(NAN), hu)),
        error="NN-VAL-005",
    )
    yield row(
        "Infinite voxels",
        make=inputs.values(lambda hu: np.where(hu == hu.max(), np.float32(-INF), hu)),
        error="NN-VAL-005",
    )
    yield row("Colour (RGB) voxels", make=inputs.nifti((70, "h", 128)), error="NN-VAL-008")
    yield row("Complex voxels", make=inputs.nifti((70, "h", 32)), error="NN-VAL-008")
    yield row(
        "Several channels",
        make=inputs.text_image("ct.mha", "MET_SHORT", "MET_SHORT\nElementNumberOfChannels = 3"),
        error="NN-VAL-008",
    )
    yield row(
        "A picture of 0 to 255",
        make=inputs.values(lambda hu: np.clip((hu + 1000) / 4, 0, 255).astype(np.uint8)),
        error="NN-VAL-007",
    )
    yield row(
        "HU normalised to mean 0 and standard deviation 1",
        make=inputs.values(lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32)),
        error="NN-VAL-007",
    )
    yield row("HU + 1024", make=inputs.values(lambda hu: hu + np.int16(1024)), error="NN-VAL-007")
    yield row(
        "scl_slope of NaN in NIfTI: not scaled",
        make=inputs.nifti((112, "f", NAN)),
    )
    yield row(
        "scl_inter that is infinite in NIfTI",
        make=inputs.nifti((116, "f", INF)),
        error="NN-VAL-001",
    )
    yield row(
        "No lung in the volume: status `no_lung`, never an empty mask",
        make=inputs.body_without_lungs,
        error="NN-VAL-020",
        call=_find_no_lungs,
        shipped_lungs=True,
    )


def _model_rows() -> Iterator[Row]:
    row = partial(Row, group="model")
    flipped = inputs.model(lambda path: _flip_last(path / "member-1.safetensors"))
    yield row("No such folder", make=lambda folder: folder / "model", error="NN-MOD-001")
    yield row("A pickle (.pt), which is never loaded", make=inputs.pickle_file, error="NN-MOD-001")
    yield row(
        "A pickle in place of safetensors", make=inputs.model(inputs.pickled), error="NN-MOD-006"
    )
    yield row("Weights that differ from their sha256", make=flipped, error="NN-MOD-005")
    yield row(
        "A truncated safetensors file", make=inputs.model(inputs.cut_member), error="NN-MOD-005"
    )
    yield row(
        "A truncated safetensors file with the sha256 of its half",
        make=inputs.model(inputs.half_member),
        error="NN-MOD-006",
    )
    yield row(
        "A member that is missing",
        make=inputs.model(lambda path: (path / "member-2.safetensors").unlink()),
        error="NN-MOD-004",
    )
    yield row(
        "A tensor that is missing",
        make=inputs.member(inputs.drop_tensor),
        error="NN-MOD-006",
    )
    yield row(
        "Tensors of another shape",
        make=inputs.network(channels=[2, 6]),
        error="NN-MOD-006",
    )
    yield row(
        "Members of different networks",
        make=inputs.model(_widen_first),
        error="NN-MOD-006",
    )
    yield row(
        "A weight of NaN", make=inputs.member(inputs.with_value("weight", NAN)), error="NN-MOD-007"
    )
    yield row(
        "A negative running variance",
        make=inputs.member(inputs.with_value("running_var", -1.0)),
        error="NN-MOD-012",
    )
    yield row("A manifest of another kind", make=inputs.manifest(kind="lungs"), error="NN-MOD-002")
    yield row("A manifest of a newer format", make=inputs.manifest(format=99), error="NN-MOD-009")
    yield row(
        "A manifest without a network", make=inputs.manifest(network=None), error="NN-MOD-003"
    )
    yield row(
        "A manifest without settings", make=inputs.manifest(inference=None), error="NN-MOD-003"
    )
    yield row(
        "A manifest without channels",
        make=inputs.network(channels=[]),
        error="NN-MOD-003",
    )
    yield row(
        "Negative channels",
        make=inputs.network(channels=[-2, 4]),
        error="NN-MOD-003",
    )
    yield row(
        "A manifest that claims 1,000,000 residual units",
        make=inputs.network(n_res_units=10**6),
        error="NN-MOD-003",
    )
    yield row(
        "A manifest nested 100,000 deep",
        make=inputs.model(inputs.nest_manifest),
        error="NN-MOD-001",
    )


def _flip_last(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _widen_first(path: Path) -> None:
    from safetensors.torch import save

    from normnet.config import NetworkConfig
    from normnet.network.unet import build_unet

    state = build_unet(NetworkConfig(channels=(2, 6), n_res_units=0)).state_dict()
    inputs.store_member(path, save({key: value.contiguous() for key, value in state.items()}))


def _settings_rows() -> Iterator[Row]:
    row = partial(Row, group="settings")
    for kind, text, error in (
        (
            "An unknown key: the nearest one is named",
            "[postprocessing]\ndilation = 2",
            "NN-CFG-001",
        ),
        ("An unknown section", "[posprocessing]\ndilation_vox = 2", "NN-CFG-001"),
        ("A value of a wrong type", "[postprocessing]\ndilation_vox = 'two'", "NN-CFG-002"),
        ("A file that is no TOML", "[postprocessing", "NN-CFG-004"),
        ("A file that extends another that is not there", "extends = 'nowhere'", "NN-CFG-005"),
        ("A file that extends itself", "extends = 'mine.toml'", "NN-CFG-006"),
    ):
        yield row(kind, make=inputs.settings(text), error=error)
    yield row("No such file", make=lambda folder: folder / "mine.toml", error="NN-CFG-003")
    for kind, text in (
        ("A probability of 7", "[inference]\nprob_normal = 7"),
        ("A probability of NaN", "[inference]\nprob_normal = nan"),
        ("A size of 0", "[inference]\nslab_vox = 0"),
        ("A negative size", "[inference]\nslab_vox = -32"),
    ):
        yield row(kind, make=inputs.settings(text), error="NN-CFG-002")


def _lungs_rows() -> Iterator[Row]:
    row = partial(Row, group="lungs")
    yield row("1 for the right lung and 2 for the left", make=inputs.lung_mask(1, 2))
    yield row("One value for both lungs", make=inputs.lung_mask(255, 255))
    yield row(
        "1 for the left lung and 2 for the right: the place in the body decides",
        make=inputs.lung_mask(2, 1),
        warns=True,
    )
    yield row(
        "Labels of lungs and other organs: the other organs are left out",
        make=inputs.lung_mask(13, 10, 51),
        warns=True,
    )
    yield row("Labels of other organs only", make=inputs.lung_mask(spine=51), error="NN-VAL-022")
    yield row("An empty mask", make=inputs.lung_mask(), error="NN-VAL-021")
    yield row("A mask on another grid", make=inputs.mask_of_another_grid, error="NN-GEO-016")
    yield row("A mask of fractions", make=inputs.mask_of_fractions, error="NN-VAL-009")


def _cases_rows() -> Iterator[Row]:
    row = partial(Row, group="cases")
    for kind, case_id in (
        ("A `case_id` that leads out of the output (`../../x`)", "../../x"),
        ("A `case_id` that is a whole path (`/x`)", "/x"),
        ("A `case_id` with a backslash", "a\\b"),
        ("An empty `case_id`", ""),
        ("A `case_id` of 300 letters", "x" * 300),
    ):
        yield row(kind, make=inputs.case_list("case_id,file", case_id), error="NN-DAT-006")
    yield row(
        "A list that is no text", make=inputs.file("cases.csv", b"\xff\xfe\0"), error="NN-DAT-001"
    )
    yield row(
        "A list without the column `file`",
        make=inputs.case_list("case_id,image", "a"),
        error="NN-DAT-002",
    )


def _output_rows() -> Iterator[Row]:
    row = partial(Row, group="output")
    yield row("An output that is the input", make=inputs.output_is_input, error="NN-OUT-011")
    yield row(
        "A file in place of the output folder", make=inputs.output_is_file, error="NN-OUT-010"
    )
    for name in ("lesions.nii.gz", "lungs.nii.gz", "preview.png", "result.json"):
        yield row(
            f"A `{name}` of the user in the result folder: never overwritten",
            make=inputs.own_file(name),
            error="NN-OUT-015",
        )
    yield row(
        "A CT where its own lung mask would be written",
        make=inputs.ct_in_output,
        error="NN-OUT",
    )
    yield row(
        "A lock of the output that is a link to another file",
        make=inputs.linked_lock,
        error="NN-OUT-015",
    )
    yield row(
        "`<script>`, `=cmd|` and control characters in names and tags: shown harmlessly",
        make=inputs.hostile_names,
    )


ROWS: tuple[Row, ...] = (
    *_file_rows(),
    *_folder_rows(),
    *_resource_rows(),
    *_geometry_rows(),
    *_values_rows(),
    *_model_rows(),
    *_settings_rows(),
    *_lungs_rows(),
    *_cases_rows(),
    *_output_rows(),
)
