"""Another image format is one module: it is read, found and hashed without a change elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io import case_id_of, formats, read_ct, read_mask
from normnet.io.census import take_census
from normnet.io.choice import choose_scans
from normnet.io.fingerprint import fingerprint
from normnet.scan import Geometry
from tests import phantoms

TOY = '''
"""TOY: a first line, the shape, then int16; of a .toyh file the voxels lie beside it."""

import numpy as np

from normnet.io.formats import ImageFormat
from normnet.io.values import Stored
from normnet.scan import Geometry


def read_toy(path):
    head, shape, data = path.read_bytes().split(b"\\n", 2)
    if path.suffix == ".toyh":
        data = path.with_suffix(".toyd").read_bytes()
    return Stored(np.frombuffer(data, "<i2").reshape([int(n) for n in shape.split()]), Geometry())


FORMAT = ImageFormat(
    name="Toy",
    suffixes=(".toy", ".toyh"),
    recognises=lambda head: head.startswith(b"TOY"),
    read=read_toy,
    header_suffixes=(".toyh",),
)
'''


def find_scans(paths):
    return [item.path for item in choose_scans(take_census(paths))]


@pytest.fixture
def toy_format(tmp_path, monkeypatch):
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "toy_image.py").write_text(TOY)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "plugin")])
    formats.image_formats.cache_clear()
    yield
    monkeypatch.undo()
    sys.modules.pop("normnet.io.formats.toy_image", None)
    formats.image_formats.cache_clear()


@pytest.fixture(scope="module")
def phantom():
    found = phantoms.thorax_phantom((20, 24, 28), (1.0, 1.0, 1.0), vessels=False)
    return replace(found, scan=replace(found.scan, geometry=Geometry()))


def write_toy(path, array):
    head = f"TOY\n{' '.join(map(str, array.shape))}\n".encode()
    data = array.astype("<i2").tobytes()
    if path.suffix == ".toyh":
        path.with_suffix(".toyd").write_bytes(data)
        data = b""
    path.write_bytes(head + data)
    return path


def test_a_format_is_one_module(toy_format, phantom, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    one = write_toy(folder / "one.toy", phantom.scan.volume_hu)
    two = write_toy(folder / "TWO.toyh", phantom.scan.volume_hu)
    assert find_scans([folder]) == [two, one]
    assert [case_id_of(path) for path in (one, two)] == ["one", "TWO"]
    for path in (one, two):
        np.testing.assert_array_equal(read_ct(path).volume_hu, phantom.scan.volume_hu)
    mask = write_toy(tmp_path / "mask.toy", phantom.lung_mask)
    np.testing.assert_array_equal(read_mask(mask, phantom.scan), phantom.lung_mask)
    nifti = phantoms.write_nifti(phantom.scan, tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(read_ct(nifti).volume_hu, phantom.scan.volume_hu)


def test_a_detached_header_is_hashed_with_its_voxels(toy_format, phantom, tmp_path):
    path = write_toy(tmp_path / "a.toyh", phantom.scan.volume_hu)
    before = fingerprint(path)
    path.with_suffix(".toyd").write_bytes(bytes(phantom.scan.volume_hu.nbytes))
    assert fingerprint(path) != before


def test_messages_name_every_format(toy_format, tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(NormNetError, match=r"not DICOM, NIfTI, NRRD, MetaImage or Toy") as caught:
        read_ct(tmp_path / "a.txt")
    suffixes = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, .toy or .toyh"
    assert caught.value.todo == f"give a DICOM folder, {suffixes}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(NormNetError, match="give DICOM, NIfTI, NRRD, MetaImage or Toy"):
        find_scans([tmp_path / "empty"])


def test_without_the_module_the_format_is_unknown(phantom, tmp_path):
    path = write_toy(tmp_path / "one.toy", phantom.scan.volume_hu)
    with pytest.raises(NormNetError, match=r"not DICOM, NIfTI, NRRD or MetaImage"):
        read_ct(path)
    assert [known.name for known in formats.image_formats()] == ["NIfTI", "NRRD", "MetaImage"]
