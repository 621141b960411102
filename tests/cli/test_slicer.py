"""normnet as a command-line module of 3D Slicer, called as the descriptor says."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import SimpleITK as sitk

from normnet.cli.main import main
from normnet.io.masks import read_labels
from tests.cli.conftest import SHAPE, SPACING_MM
from tests.phantoms import phantom_lungs, thorax_phantom

PARAMETERS = ("image", "boolean", "string-enumeration")


def command_of(descriptor: str, values: dict[str, str]) -> list[str]:
    """The arguments in the order in which Slicer builds them: flags first, then by index."""
    flags, indexed = [], {}
    for group in ET.fromstring(descriptor).iter("parameters"):
        for parameter in (p for p in group if p.tag not in ("label", "description")):
            assert parameter.tag in PARAMETERS
            value = values.get(parameter.findtext("name"), parameter.findtext("default"))
            flag = parameter.findtext("longflag")
            if flag is None:
                indexed[int(parameter.findtext("index"))] = value
            elif parameter.tag == "boolean":
                flags += [flag] if value == "true" else []
            else:
                flags += [flag, value]
    return [*flags, *(indexed[n] for n in sorted(indexed))]


@pytest.fixture
def descriptor(capsys):
    assert main(["segment-volume", "--xml"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def volume(tmp_path):
    """As Slicer hands a volume over: NRRD in a temporary folder."""
    phantom = thorax_phantom(SHAPE, SPACING_MM)
    image = sitk.GetImageFromArray(phantom.scan.volume_hu)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin(phantom.scan.geometry.origin_mm[::-1])
    sitk.WriteImage(image, str(tmp_path / "in.nrrd"))
    return phantom.scan, tmp_path / "in.nrrd"


def test_the_descriptor_is_complete(descriptor):
    root = ET.fromstring(descriptor)
    assert root.tag == "executable"
    for tag in ("category", "title", "description", "version"):
        assert root.findtext(tag)
    images = list(root.iter("image"))
    assert [(i.findtext("channel"), i.findtext("index")) for i in images] == [
        ("input", "0"), ("output", "1"),
    ]  # fmt: skip
    assert images[1].get("type") == "label"
    assert "not a medical device" in root.findtext("description")


def test_the_command_of_the_descriptor_writes_the_label_map(
    descriptor, volume, tiny_models, tmp_path, capsys
):
    scan, path = volume
    values = {"inputVolume": str(path), "outputLabelMap": str(tmp_path / "out.nrrd"),
              "device": "cpu"}  # fmt: skip
    models = []
    for option, folder in zip(("model", "lung-model", "lesion-model"), tiny_models, strict=True):
        models += [f"--{option}", str(folder)]
    assert main(["segment-volume", *models, *command_of(descriptor, values)]) == 0
    assert "<filter-progress>" in capsys.readouterr().out
    labels = read_labels(tmp_path / "out.nrrd", scan)
    lungs = phantom_lungs(scan, None, None)
    assert set(np.unique(labels)) >= {0, 1, 2}
    for side in (1, 2):
        assert ((labels == side) <= (lungs == side)).all()
    np.testing.assert_array_equal(labels > 0, (lungs > 0) | (labels == 3))
    image = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    np.testing.assert_allclose(image.GetOrigin(), scan.geometry.origin_mm[::-1], atol=1e-4)


def test_another_format_is_refused_before_the_ct_is_read(tmp_path, capsys):
    assert main(["segment-volume", str(tmp_path / "no.nii"), str(tmp_path / "out.mha")]) == 2
    assert "NN-CLI-005" in capsys.readouterr().err


def test_the_input_is_not_replaced(volume, capsys):
    before = volume[1].read_bytes()
    assert main(["segment-volume", str(volume[1]), str(volume[1])]) == 7
    assert "NN-OUT-011" in capsys.readouterr().err
    assert volume[1].read_bytes() == before


def test_the_module_folder_holds_a_launcher_and_its_descriptor(tmp_path, descriptor, monkeypatch):
    assert main(["slicer-module", str(tmp_path / "modules")]) == 0
    launcher = tmp_path / "modules" / "NormNet"
    shipped = (tmp_path / "modules" / "NormNet.xml").read_text()
    same = [ET.canonicalize(text, strip_text=True) for text in (shipped, descriptor)]
    assert same[0] == same[1]
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    shown = launcher.read_text()
    assert "unset LD_LIBRARY_PATH PYTHONHOME PYTHONPATH" in shown
    done = subprocess.run([launcher, "--xml"], capture_output=True, text=True)
    assert done.returncode == 0 and ET.fromstring(done.stdout).tag == "executable"
