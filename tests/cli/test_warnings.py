"""Other libraries print nothing; warnings of normnet itself are one line each."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import normnet
from normnet.cli.main import main
from normnet.errors import InputError, NormNetError, NormNetWarning
from normnet.io.read import read_ct
from tests import phantoms

SOURCES = Path(normnet.__file__).parent
SCAN = phantoms.thorax_phantom((12, 24, 28), (8.0, 8.0, 8.0)).scan


def warn_and_log(*_):
    """What other libraries do when a CT is read; torch has a handler of its own."""
    warnings.warn("Invalid value for VR DS: a name", UserWarning, stacklevel=1)
    warnings.warn("old", FutureWarning, stacklevel=1)
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    warnings.warn("one of ours", NormNetWarning, stacklevel=1)
    for name in ("pydicom", "monai", "nibabel", "torch.some.part", ""):
        logging.getLogger(name).warning("logged")
        logging.getLogger(name).error("logged")
    raise InputError("NN-FILE-014", "the DICOM header is corrupt", "ct", "export it again")


def test_commands_print_their_own_warnings_only(tmp_path, monkeypatch, capfd):
    path = phantoms.write_nifti(SCAN, tmp_path / "ct.nii.gz")
    monkeypatch.setattr("normnet.io.read.read_ct", warn_and_log)
    own = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger("torch"), "handlers", [own])
    filters, handlers = list(warnings.filters), list(logging.getLogger().handlers)
    assert main(["info", str(path)]) == 3
    assert capfd.readouterr().err.splitlines() == [
        "warning: one of ours",
        "NN-FILE-014: the DICOM header is corrupt; ct; export it again",
    ]
    assert warnings.filters == filters
    assert logging.getLogger().handlers == handlers


def test_the_library_sets_no_filters():
    """For users of Python all warnings stay as they set them."""
    code = (
        "import logging, warnings, numpy, pydantic, typer\n"
        "before = list(warnings.filters)\n"
        "import normnet.pipeline, normnet.models, normnet.io.read, normnet.cli.main\n"
        "assert warnings.filters == before and not logging.getLogger().handlers"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path[:] = {[str(SOURCES.parent), *sys.path]}\n{code}",
    ]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def calls_of_warn():
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                yield pytest.param(node, id=f"{path.name}-{node.lineno}")


@pytest.mark.parametrize("call", list(calls_of_warn()))
def test_warnings_of_ours_can_be_told_from_others(call):
    """Else no command would print them."""
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    assert "NormNetWarning" in [ast.unparse(part) for part in parts]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", ["nan", "nan"]),
        ("SliceThickness", "1e400"),
        ("InstanceNumber", "12345678901234567890"),
        ("SeriesInstanceUID", "1.2.3/../x"),
        ("FrameOfReferenceUID", "abc"),
        ("Modality", "a text that is much too long for a code"),
        ("RescaleSlope", "1,0"),
        ("PatientName", "x" * 400),
        ("PatientBirthDate", "yesterday"),
    ],
)
@pytest.mark.parametrize("n_slices", [1, 12])
def test_values_that_dicom_forbids(tmp_path, keyword, value, n_slices):
    def store(datasets):
        from pydicom.datadict import dictionary_VR, tag_for_keyword
        from pydicom.dataelem import DataElement

        tag = tag_for_keyword(keyword)
        for data in datasets[:n_slices]:
            written = "\\".join(value) if isinstance(value, list) else value
            raw = written.encode() + b" " * (len(written) % 2)
            data[tag] = DataElement(tag, dictionary_VR(tag), None)
            data[tag].VR = "UN"  # written as it is
            data[tag].value = raw

    folder = phantoms.write_dicom(SCAN, tmp_path / "ct", store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_ct(folder)
        except NormNetError as error:
            assert "\n" not in str(error)


def test_transfer_syntaxes_that_are_no_uids(tmp_path):
    folder = phantoms.write_dicom(SCAN, tmp_path / "ct")
    file = sorted(folder.iterdir())[3]
    data = file.read_bytes()
    for uid in (b"1.2.84a.10008.1.2.1", b"1.2.840.10008.1.2.", b"1.2.840\x7f10008.1.2.1"):
        file.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", uid.ljust(20, b"\0"), 1))
        with warnings.catch_warnings(), pytest.raises(NormNetError):
            warnings.simplefilter("error")
            read_ct(folder)
