"""Zip archives are read in place, and no archive can write or inflate what it should not."""

from __future__ import annotations

import io
import stat
import struct
import tempfile
import zipfile

import pytest

from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.io.census import take_census
from normnet.io.choice import choose_scans
from normnet.io.fingerprint import fingerprint
from tests import phantoms

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)


@pytest.fixture(scope="module")
def scan():
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan


def pack(folder, archive, below=""):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for file in sorted(folder.rglob("*")):
            stream.write(file, f"{below}{file.relative_to(folder).as_posix()}")
    return archive


@pytest.mark.parametrize("below", ["", "P1/", "a/b/c/"])
@pytest.mark.parametrize("kind", ["dicom", "nifti", "detached"])
def test_a_scan_in_an_archive(scan, tmp_path, monkeypatch, below, kind):
    source = tmp_path / "source"
    source.mkdir()
    if kind == "dicom":
        phantoms.write_dicom(scan, source)
    elif kind == "nifti":
        phantoms.write_nifti(scan, source / "ct.nii.gz")
    else:
        sitk = pytest.importorskip("SimpleITK")
        image = sitk.GetImageFromArray(scan.volume_hu)
        image.SetSpacing(SPACING_MM[::-1])
        image.SetOrigin(scan.geometry.origin_mm[::-1])
        sitk.WriteImage(image, str(source / "ct.mhd"))
    archive = pack(source, tmp_path / "scan.zip", below)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    phantoms.assert_same_world(read_ct(archive), scan)
    (item,) = choose_scans(take_census([tmp_path / "scan.zip"]))
    phantoms.assert_same_world(read_ct(item.path), scan)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert item.source.parts[0] == "scan.zip"


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_a_slice_in_an_archive_that_ends_in_its_header(scan, tmp_path, share):
    source = phantoms.write_dicom(scan, tmp_path / "source")
    data = (source / "0007.dcm").read_bytes()
    (source / "0007.dcm").write_bytes(data[: int(share * data.index(b"\xe0\x7f\x10\x00OW"))])
    with pytest.raises(NormNetError) as caught:
        read_ct(pack(source, tmp_path / "scan.zip"))
    assert caught.value.exit_code == 3
    assert "0007.dcm" in str(caught.value)


def test_archives_in_a_folder(scan, tmp_path):
    phantoms.write_dicom(scan, tmp_path / "source" / "one")
    phantoms.write_dicom(scan, tmp_path / "source" / "two")
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    pack(tmp_path / "source", cohort / "both.zip")
    pack(tmp_path / "source" / "one", cohort / "one.zip")
    (cohort / "cut.zip").write_bytes((cohort / "one.zip").read_bytes()[:-900])
    items = choose_scans(take_census([cohort]))
    assert {(item.source.as_posix(), item.error and item.error.code) for item in items} == {
        ("cohort/both.zip/one", None),
        ("cohort/both.zip/two", None),
        ("cohort/one.zip", None),
        ("cohort/cut.zip", "NN-FILE-003"),
    }
    both = [item for item in items if item.path.parent.name == "both.zip"]
    sums = {fingerprint(item.path, item.files) for item in both}
    assert len(sums) == 2
    assert fingerprint(both[0].path, both[0].files) in sums


def _member(name, data=b"x" * 64, **values):
    info = zipfile.ZipInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def _zip(*members, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return stream.getvalue()


def _link(name, target):
    return _member(name, target, external_attr=(stat.S_IFLNK | 0o777) << 16)


UNSAFE = {
    "parent": ("NN-FILE-031", lambda: _zip(_member("../evil.nii"))),
    "parent inside": ("NN-FILE-031", lambda: _zip(_member("a/../../evil.nii"))),
    "absolute": ("NN-FILE-031", lambda: _zip(_member("/etc/evil"))),
    "drive": ("NN-FILE-031", lambda: _zip(_member("C:/evil.dcm"))),
    "backslash": ("NN-FILE-031", lambda: _zip(_member("a\\evil.dcm"))),
    "control": ("NN-FILE-031", lambda: _zip(_member("a\nb.dcm"))),
    "link": ("NN-FILE-031", lambda: _zip(_link("slice.dcm", b"/etc/passwd"))),
    "link to folder": ("NN-FILE-031", lambda: _zip(_link("series", b".."))),
    "device": (
        "NN-FILE-031",
        lambda: _zip(_member("zero.dcm", external_attr=(stat.S_IFCHR | 0o666) << 16)),
    ),
    "twice": ("NN-FILE-033", lambda: _zip(_member("a.dcm"), _member("a.dcm", b"y"))),
    "twice by dot": ("NN-FILE-033", lambda: _zip(_member("x/a.dcm"), _member("x/./a.dcm"))),
    "encrypted": ("NN-FILE-032", lambda: _with_flag(_zip(_member("a.dcm")), both=True)),
    "encrypted locally": ("NN-FILE-032", lambda: _with_flag(_zip(_member("a.dcm")), both=False)),
    "cut": ("NN-FILE-003", lambda: _zip(_member("a.dcm"))[:-30]),
    "bzip2": ("NN-FILE-009", lambda: _zip(_member("a.dcm", compress_type=zipfile.ZIP_BZIP2))),
    "bomb": ("NN-RES-031", lambda: _bomb("x.dcm")),
    "bomb of an image": ("NN-RES-031", lambda: _bomb("x.nii")),
    "overlap": ("NN-RES-031", lambda: _overlap()),
    "overlap beyond the end": ("NN-RES-031", lambda: _larger_local_size()),
    "forged size": ("NN-RES-031", lambda: _forged(18, 400)),
    "forged size when inflated": ("NN-RES-031", lambda: _forged(22, 400)),
    "forged larger size": ("NN-RES-031", lambda: _forged(22, 2**31)),
}


def _with_flag(data, both):
    data = bytearray(data)
    data[6] |= 1
    if both:
        data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _bomb(name):
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))
    return stream.getvalue()


def _overlap():
    """Two entries of the directory for the same bytes."""
    data = _zip(_member("a.dcm", b"a" * 500), _member("b.dcm", b"b" * 500))
    first, second = (data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02"))
    changed = bytearray(data)
    changed[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(changed)


def _larger_local_size():
    data = bytearray(_zip(_member("a.dcm", b"a" * 500), _member("b.dcm", b"b" * 500)))
    start = data.index(b"PK\x01\x02")
    data[start + 20 : start + 24] = struct.pack("<I", 800)
    return bytes(data)


def _forged(at, size):
    """Another size in the header of the member than in the directory."""
    data = bytearray(_zip(_member("a.dcm", b"a" * 500)))
    data[at : at + 4] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_archives_are_refused(tmp_path, name):
    code, make = UNSAFE[name]
    (tmp_path / "x.zip").write_bytes(make())
    with pytest.raises(NormNetError) as caught:
        read_ct(tmp_path / "x.zip")
    assert caught.value.code == code
    assert caught.value.exit_code == (8 if "RES" in code else 3)
    assert "x.zip" in caught.value.where
    (item,) = choose_scans(take_census([tmp_path]))  # a batch records it and goes on
    assert item.error.code == code


def test_a_member_that_inflates_to_more_than_stated(tmp_path, scan):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    data = bytearray(_zip(_member("ct.nii.gz", path.read_bytes()), method=zipfile.ZIP_DEFLATED))
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", 1000)
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(NormNetError, match=r"NN-(RES-031|FILE-00[35])"):
        read_ct(tmp_path / "x.zip")


@pytest.mark.parametrize("below", ["./", "a//b/", "./a/./"])
def test_names_as_some_packers_write_them(tmp_path, scan, below):
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    (tmp_path / "x.zip").write_bytes(_zip(_member(f"{below}ct.nii.gz", path.read_bytes())))
    assert (read_ct(tmp_path / "x.zip").volume_hu == scan.volume_hu).all()
    (item,) = take_census([tmp_path / "x.zip"]).items
    assert item.error is None


@pytest.mark.parametrize("bit", [0x20, 0x40])
def test_members_that_no_library_reads(tmp_path, scan, bit):
    """Patched data and strong encryption."""
    path = phantoms.write_nifti(scan, tmp_path / "ct.nii.gz")
    data = bytearray(_zip(_member("ct.nii.gz", path.read_bytes())))
    for place in (6, data.index(b"PK\x01\x02") + 8):
        data[place] |= bit
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(NormNetError, match="NN-FILE-0"):
        read_ct(tmp_path / "x.zip")


def test_a_damaged_member_is_named(tmp_path, scan):
    source = phantoms.write_dicom(scan, tmp_path / "source")
    archive = pack(source, tmp_path / "x.zip")
    data = bytearray(archive.read_bytes())
    at = data.index(b"0009.dcm") + 200
    data[at : at + 40] = bytes(40)
    archive.write_bytes(data)
    with pytest.raises(NormNetError, match=r"NN-FILE-0\d\d.*0009\.dcm"):
        read_ct(archive)
