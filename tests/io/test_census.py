"""The census: what is a scan, what is left out, and which faults are errors."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io import read_ct, write_image
from normnet.io.census import take_census
from normnet.io.choice import choose_scans, is_sharp, left_out_notes, proposed
from normnet.io.formats.nifti import read_nifti
from normnet.io.read import read_item
from tests import phantoms

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


@pytest.fixture(scope="module")
def phantom():
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False)


@pytest.fixture(scope="module")
def scan(phantom):
    return phantom.scan


def tags(**values):
    """An edit that sets tags of all slices."""

    def edit(datasets):
        for data in datasets:
            for keyword, value in values.items():
                setattr(data, keyword, value)

    return edit


def write_named(scan, folder, names, edit=None):
    """A series with given file names, in the order of the slices."""
    datasets = phantoms.dicom_datasets(scan)
    if edit is not None:
        edit(datasets)
    folder.mkdir(parents=True, exist_ok=True)
    for data, name in zip(datasets, names, strict=True):
        data.save_as(folder / name, enforce_file_format=True)
    return folder


def chosen(*paths, series=None):
    census = take_census(paths)
    items = choose_scans(census, series)
    return items, left_out_notes(census, items)


def sources(items):
    return [item.source.as_posix() for item in items]


# --- unreadable slices

NAMES = {
    "letters": [f"IM{n:05d}" for n in range(20)],
    "numbers": [f"{n}" for n in range(20)],
    "uids": [f"1.2.840.1.{n}" for n in range(20)],
    "dcm": [f"{n:03d}.dcm" for n in range(20)],
}


def _empty(path):
    path.write_bytes(b"")


def _dangling(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def _zeros(path):
    path.write_bytes(bytes(5000))


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize(
    ("spoil", "code"),
    [(_empty, "NN-FILE-002"), (_dangling, "NN-FILE-001"), (_zeros, "NN-FILE-003")],
)
@pytest.mark.parametrize("place", [0, 9, 19])
def test_an_unreadable_slice_is_no_stranger(scan, tmp_path, names, spoil, code, place):
    folder = write_named(scan, tmp_path / "ct", NAMES[names])
    spoil(folder / NAMES[names][place])
    with pytest.raises(NormNetError) as caught:
        read_ct(folder)
    assert caught.value.code == code
    assert NAMES[names][place] in str(caught.value)
    assert caught.value.exit_code == 3


def test_slices_without_permission(scan, tmp_path, monkeypatch):
    folder = write_named(scan, tmp_path / "ct", NAMES["letters"])
    real = Path.open

    def denied(self, *arguments, **options):
        if self.name in ("IM00007", "IM00008"):
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(NormNetError, match=r"NN-FILE-001.*Permission denied.*IM00007, IM00008"):
        read_ct(folder)


@pytest.mark.parametrize("name", ["README", "LOCKFILE", "report.txt", "notes.pdf"])
def test_strangers_may_be_empty(scan, tmp_path, name):
    folder = write_named(scan, tmp_path / "ct", NAMES["letters"])
    (folder / name).write_bytes(b"")
    assert any("1 files that are not DICOM" in line for line in read_ct(folder).warnings)


@pytest.mark.parametrize("where", ["ct/more", "ct", "other"])
def test_unreadable_folders_are_named(scan, tmp_path, monkeypatch, where):
    write_named(scan, tmp_path / "ct", NAMES["letters"])
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    real = os.scandir

    def denied(path):
        if Path(path) == tmp_path / where:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    items, _ = chosen(tmp_path)
    failing = [item for item in items if item.error is not None]
    assert [item.error.where for item in failing] == [Path(where).name]
    # A folder below the slices may hold more of them; any other is a failure of its own.
    assert len(items) == (2 if where == "other" else 1)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_special_files_do_not_hang(scan, tmp_path, kind, monkeypatch):
    folder = write_named(scan, tmp_path / "ct", NAMES["letters"])
    special = folder / "IM00020"
    if kind == "fifo":
        os.mkfifo(special)
    elif kind == "device":
        special.symlink_to("/dev/zero")
    else:
        listener = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(folder)  # the path of a socket must be short
        listener.bind(special.name)
    items, notes = chosen(folder)
    assert [item.error for item in items] == [None]
    assert any("IM00020" in note for note in notes)
    with pytest.raises(NormNetError, match=r"NN-FILE-001: not a regular file"):
        take_census([special])
    with pytest.raises(NormNetError, match=r"NN-FILE-001"):
        read_ct(special)


def test_a_file_far_larger_than_its_header(scan, tmp_path):
    from normnet.io.fingerprint import fingerprint

    image = tmp_path / "ct.nii"
    write_image(tmp_path / "ct.nii.gz", scan.volume_hu, scan.geometry)
    import gzip

    image.write_bytes(gzip.decompress((tmp_path / "ct.nii.gz").read_bytes()))
    os.truncate(image, 12 * 2**30)
    folder = write_named(scan, tmp_path / "dicom", NAMES["letters"])
    os.truncate(folder / "IM00003", 12 * 2**30)
    start = time.perf_counter()
    fingerprint(image)
    for path in (image, folder):
        (item,), _ = chosen(path)
        assert item.error.code == "NN-FILE-005"
        with pytest.raises(NormNetError, match="NN-FILE-005"):
            read_ct(path)
    assert time.perf_counter() - start < 5


# --- links


def test_linked_folders_are_followed_once(scan, tmp_path):
    store, cohort = tmp_path / "store", tmp_path / "cohort"
    for name in ("P1", "P2"):
        write_named(scan, store / name, NAMES["letters"])
    write_named(scan, cohort / "P3", NAMES["letters"])
    for name in ("P1", "P2"):
        (cohort / name).symlink_to(store / name)
    (cohort / "again").symlink_to(store / "P1")
    (cohort / "P3" / "loop").symlink_to(cohort)
    (cohort / "up").symlink_to(tmp_path)
    items, notes = chosen(cohort)
    assert sources(items) == ["cohort/P1", "cohort/P2", "cohort/P3"] or sources(items) == [
        "cohort/P3",
        "cohort/P1",
        "cohort/P2",
    ]
    (line,) = [note for note in notes if "links" in note]
    assert {name for name in ("again", "loop", "up") if name in line} == {"again", "loop", "up"}


def test_links_that_lead_nowhere_are_named(scan, tmp_path):
    write_named(scan, tmp_path / "P1", NAMES["letters"])
    (tmp_path / "P2").symlink_to("/gone/P2")
    (tmp_path / "P3.nii.gz").symlink_to("/gone/P3.nii.gz")
    items, notes = chosen(tmp_path)
    assert {item.path.name: item.error and item.error.code for item in items} == {
        "P1": None,
        "P3.nii.gz": "NN-FILE-001",
    }
    assert any("P2" in note for note in notes)


# --- labels


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "u2", "i4"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_masks_are_no_scans(phantom, tmp_path, dtype, suffix):
    sitk = pytest.importorskip("SimpleITK")
    lungs = phantom.lung_mask.astype(dtype) * 3
    for name, array in (("heart", lungs), ("ct", phantom.scan.volume_hu)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING_MM[::-1])
        sitk.WriteImage(image, str(tmp_path / f"{name}{suffix}"))
    items, notes = chosen(tmp_path)
    assert sources(items) == [f"{tmp_path.name}/ct{suffix}"]
    assert "1 files hold labels, not HU; left out" in notes


@pytest.mark.parametrize("n_labels", [1, 40, 104])
def test_many_labels_are_labels(tmp_path, scan, n_labels):
    labels = np.arange(20 * 24 * 28).reshape(20, 24, 28) // 130 % (n_labels + 1)
    write_image(tmp_path / "all.nii.gz", labels.astype(np.uint8), scan.geometry)
    write_image(tmp_path / "ct.nii.gz", scan.volume_hu, scan.geometry)
    assert sources(chosen(tmp_path)[0]) == [f"{tmp_path.name}/ct.nii.gz"]


def test_a_picture_is_no_label_map(tmp_path, scan):
    """It was meant as a CT: it fails, and is not passed over."""
    windowed = np.clip((scan.volume_hu + 1000) / 6, 0, 255).astype(np.uint8)
    write_image(tmp_path / "picture.nii.gz", windowed, scan.geometry)
    write_image(tmp_path / "scaled.nii.gz", windowed, scan.geometry, slope=6, intercept=-1000)
    assert len(chosen(tmp_path)[0]) == 2


def test_a_given_file_is_a_scan(phantom, tmp_path):
    path = tmp_path / "mask.nii.gz"
    write_image(path, phantom.lung_mask, phantom.scan.geometry)
    with pytest.raises(NormNetError, match="NN-VAL-007"):
        read_item(chosen(path)[0][0])
    with pytest.raises(NormNetError, match=r"NN-FILE-008.*1 files hold labels"):
        chosen(tmp_path)


# --- what lies beside a CT


@pytest.mark.parametrize("modality", ["SEG", "SR", "DX", "PR", "RTSTRUCT", "PT"])
def test_other_modalities_are_left_out(scan, tmp_path, modality):
    write_named(scan, tmp_path / "P1" / "ct", NAMES["letters"])
    one = replace(scan, volume_hu=scan.volume_hu[:1])
    for name in ("other", "another"):
        write_named(one, tmp_path / "P1" / name, ["1-1.dcm"], tags(Modality=modality))
    items, notes = chosen(tmp_path)
    assert [item.path.name for item in items] == ["ct"]
    assert notes == [f"2 series left out: 2 {modality}"]


@pytest.mark.parametrize("kind", ["colour", "localizer", "no image"])
def test_what_is_no_volume_is_left_out(scan, tmp_path, kind):
    folder = write_named(scan, tmp_path / "ct", NAMES["letters"])
    edits = {
        "colour": tags(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
        "localizer": tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "no image": lambda datasets: [delattr(data, "Rows") for data in datasets],
    }
    one = replace(scan, volume_hu=scan.volume_hu[:1])
    write_named(one, folder, ["report.dcm"], edits[kind])
    items, notes = chosen(tmp_path)
    assert [item.error for item in items] == [None]
    assert notes[0].startswith("1 series left out: 1 CT (")
    phantoms.assert_same_world(read_ct(folder), scan)
    phantoms.assert_same_world(read_item(items[0]), scan)


@pytest.mark.parametrize("stray", ["report.dcm", "DICOMDIR", "scout"])
def test_a_stray_file_at_the_top_joins_nothing(scan, tmp_path, stray):
    for name in ("P1", "P2", "P3"):
        write_named(scan, tmp_path / name / "CT", NAMES["letters"])
    one = replace(scan, volume_hu=scan.volume_hu[:1])
    edit = tags(Modality="SR") if stray == "report.dcm" else tags(ImageType=["", "", "LOCALIZER"])
    if stray == "DICOMDIR":

        def edit(datasets):
            datasets[0].file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
            datasets[0].SOPClassUID = "1.2.840.10008.1.3.10"

    write_named(one, tmp_path, [stray], edit)
    items, _ = chosen(tmp_path)
    assert sources(items) == [f"{tmp_path.name}/{name}/CT" for name in ("P1", "P2", "P3")]


def test_parts_of_a_series_are_one_scan_and_copies_are_two(scan, tmp_path):
    whole = write_named(scan, tmp_path / "parts", NAMES["letters"])
    for n, name in enumerate(NAMES["letters"]):
        part = whole / f"part{n // 8}"
        part.mkdir(exist_ok=True)
        (whole / name).rename(part / name)
    (item,), _ = chosen(whole)
    phantoms.assert_same_world(read_item(item), scan)
    phantoms.assert_same_world(read_ct(whole), scan)
    other = tmp_path / "copies"
    write_named(scan, other / "one", NAMES["letters"], tags(SeriesInstanceUID="1.2.3"))
    write_named(scan, other / "two", NAMES["letters"], tags(SeriesInstanceUID="1.2.3"))
    assert len(chosen(other)[0]) == 2


# --- several series


def two_kernels(scan, folder, names=("a", "b")):
    thick = replace(
        scan,
        volume_hu=scan.volume_hu[::2],
        geometry=replace(scan.geometry, spacing_mm=(5.0, 2.0, 1.5)),
    )
    series = [
        (scan, "1.2.1", "B70f", "Lung 2.5"),
        (scan, "1.2.2", "B30f", "Phantom chest"),
        (thick, "1.2.3", "B30f", "Thick"),
    ]
    for volume, uid, kernel, text in series:
        names = [f"{uid[-1]}-{n}" for n in range(len(volume.volume_hu))]
        edit = tags(
            SeriesInstanceUID=uid,
            StudyInstanceUID="1.2",
            FrameOfReferenceUID="1.9",
            ConvolutionKernel=kernel,
            SeriesDescription=text,
        )
        write_named(volume, folder, names, edit)
    return folder


def test_several_series_are_listed_and_one_is_proposed(scan, tmp_path):
    folder = two_kernels(scan, tmp_path / "ct")
    with pytest.raises(NormNetError) as caught:
        read_ct(folder)
    told = str(caught.value)
    assert caught.value.code == "NN-GEO-001" and caught.value.exit_code == 4
    for part in ("1.2.1", "1.2.2", "1.2.3", "B70f", "20 slices of 2.5 mm", "10 slices of 5 mm"):
        assert part in told
    assert "--series auto takes 1.2.2" in told
    assert "Phantom" not in told and "*** chest" in told  # a word of the patient's name
    (item,), _ = chosen(folder, series="auto")
    assert item.series_uid == "1.2.2"
    phantoms.assert_same_world(read_ct(folder, "auto"), scan)
    assert read_ct(folder, "1.2.3").shape[0] == 10
    assert [item.error.code for item in chosen(folder)[0]] == ["NN-GEO-001"]


def test_auto_takes_one_series_per_study(scan, tmp_path):
    for n, subject in enumerate(("S1", "S2")):
        for name, kernel in (("2", "FC51"), ("3", "FC12")):
            write_named(
                scan,
                tmp_path / subject / "scans" / name / "DICOM",
                NAMES["letters"],
                tags(StudyInstanceUID=f"1.2.{n}", ConvolutionKernel=kernel),
            )
    assert len(chosen(tmp_path)[0]) == 4
    assert [item.kernel for item in chosen(tmp_path, series="auto")[0]] == ["FC12", "FC12"]


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [("B70f", True), ("Br59d", False), ("I31f 3", False), ("LUNG", True), ("STANDARD", False),
     ("FC51", True), ("FC13", False), ("YC", True), ("C", False), ("L", True), ("", False),
     ("BONEPLUS", True), ("Bl64f", True)],
)  # fmt: skip
def test_kernels(kernel, sharp):
    assert is_sharp(kernel) == sharp


def test_the_rule_of_the_proposal(scan, tmp_path):
    two_kernels(scan, tmp_path / "ct")
    items = take_census([tmp_path]).items
    assert proposed(items).series_uid == "1.2.2"
    soft = next(item for item in items if item.series_uid == "1.2.2")
    others = [item for item in items if item is not soft]
    for change in (
        {"length_mm": soft.length_mm / 2},
        {"derived": True},
        {"body_part": "HEAD"},
        {"thickness_mm": 8.0},
    ):
        assert proposed([*others, replace(soft, **change)]).series_uid != "1.2.2"


def test_a_uid_per_slice(scan, tmp_path):
    def own_uids(prefix):
        def edit(datasets):
            tags(StudyInstanceUID="1.9", FrameOfReferenceUID="1.8")(datasets)
            for n, data in enumerate(datasets):
                data.SeriesInstanceUID = f"1.2.{prefix}.{n}"

        return edit

    folder = write_named(scan, tmp_path / "ct", NAMES["uids"], own_uids(3))
    read = read_ct(folder)
    phantoms.assert_same_world(read, scan)
    assert any("own SeriesInstanceUID" in line for line in read.warnings)
    # With two slices at each place it is not clear what belongs together.
    write_named(scan, folder, NAMES["numbers"], own_uids(4))
    with pytest.raises(NormNetError, match=r"NN-GEO-001.*export the series again"):
        read_ct(folder)


# --- sizes


def test_a_large_folder_is_fast(tmp_path):
    small = phantoms.thorax_phantom((40, 8, 8), (1, 5, 5), vessels=False).scan
    for n in range(25):
        write_named(small, tmp_path / f"s{n}", [f"{k}" for k in range(40)])
    start = time.perf_counter()
    assert len(chosen(tmp_path)[0]) == 25
    assert time.perf_counter() - start < 20  # of 1,000 files; about one is usual


def test_a_4d_image_of_one_point_in_time(scan, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([-1.5, -2.0, 2.5, 1])
    volume = scan.volume_hu.transpose(2, 1, 0)
    for n in (1, 2):
        nibabel.save(
            nibabel.Nifti1Image(np.stack([volume] * n, -1), affine), tmp_path / f"{n}.nii.gz"
        )
    np.testing.assert_array_equal(read_nifti(tmp_path / "1.nii.gz").voxels, scan.volume_hu)
    with pytest.raises(NormNetError, match="NN-GEO-013"):
        read_ct(tmp_path / "2.nii.gz")
