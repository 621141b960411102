"""Every row of the table holds, in Python and on the command line."""

from __future__ import annotations

import csv
import json
import re
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from normnet.errors import NormNetError
from normnet.io.fingerprint import sha256_of
from normnet.io.read import read_ct, read_stored
from normnet.results.schema import FILES, RESULT
from tests import phantoms
from tests.robustness import inputs
from tests.robustness.fuzz import time_limit
from tests.robustness.table import GROUPS, ROWS, Row, exit_code_of

pytestmark = pytest.mark.usefixtures("libraries")
MAX_SECONDS = 10
MAPS = ("lungs.nii.gz", "lesions.nii.gz", "anomaly.nii.gz")
ERROR_LINE = re.compile(r"^(?:.*: )?(NN-[A-Z]+-\d{3}): (.+)$", re.MULTILINE)


def _name(row):
    return row.name


def _contents(folder):
    """Every file and link below a folder, with what it holds."""
    return {
        path: path.readlink() if path.is_symlink() else sha256_of(path)
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_in_python(row: Row, tmp_path, recwarn):
    path = row.make(tmp_path)
    before = _contents(tmp_path)
    recwarn.clear()
    with time_limit(MAX_SECONDS):
        if row.error:
            with pytest.raises(NormNetError) as caught:
                row.run(path)
            _check_error(row, caught.value)
        else:
            _check_accepted(row, row.run(path))
    assert not [str(warning.message) for warning in recwarn]
    after = _contents(tmp_path)
    assert {place: after.get(place) for place in before} == before


def _check_error(row, error):
    assert row.fits(error.code), str(error)
    assert error.exit_code == exit_code_of(error.code)
    assert "\n" not in str(error)
    assert error.found and error.todo, str(error)


def _check_accepted(row, scan):
    assert bool(scan.warnings) == row.warns, scan.warnings
    assert scan.volume_hu.shape == scan.shape
    if row.same_masks:
        phantoms.assert_same_world(scan, inputs.scan())


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_on_the_command_line(row: Row, plain, segment, tmp_path, capfd):
    path, out = row.make(tmp_path), tmp_path / "out"
    before = _contents(tmp_path)
    capfd.readouterr()
    start = time.perf_counter()
    with time_limit(MAX_SECONDS):
        exit_code = segment(row.arguments(path, plain), out, row.shipped_lungs)
    assert time.perf_counter() - start < MAX_SECONDS
    err = capfd.readouterr().err
    assert "Traceback" not in err
    found = ERROR_LINE.findall(err)
    after = _contents(tmp_path)
    assert {place: after.get(place) for place in before} == before, "an input was changed"
    new = [place for place in after if place not in before]
    assert not [place for place in new if place.name.endswith(".tmp")]
    if not row.error:
        assert (exit_code, found) == (0, [])
        assert {*FILES, RESULT} <= {place.name for place in new}
        return
    ((code, _),) = found
    assert row.fits(code), err
    assert exit_code == exit_code_of(code)
    assert err.count("\n") == 1, err
    assert not [place for place in new if place.name in FILES]
    for place in new:
        if place.name == RESULT:
            result = json.loads(place.read_text())
            assert result["error"]["id"] == code
            assert result["status"] == ("no_lung" if code == "NN-VAL-020" else "error")


def _sample(groups, every):
    """Some rows of each group that end in an error."""
    rows = [row for row in ROWS if row.group in groups and row.error]
    return rows[::every]


@pytest.mark.parametrize("row", _sample(("file", "geometry", "values"), 9), ids=_name)
def test_a_batch_goes_on(row: Row, plain, segment, tmp_path, capfd):
    path, out = row.make(tmp_path), tmp_path / "out"
    if not path.exists():
        pytest.skip("a path that is not there ends the run before it begins")
    other = phantoms.write_nifti(inputs.scan(), tmp_path / "other.nii.gz")
    assert segment(["segment", str(path), str(other)], out) == 9
    assert len(ERROR_LINE.findall(capfd.readouterr().err)) == 1
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        states = {line["case_id"]: line["status"] for line in csv.DictReader(file)}
    assert states == {"ct": "error", "other": "ok"}


@pytest.fixture(scope="module")
def with_lesions(segment, tmp_path_factory):
    """Segments with settings by which the stand-in networks find lesions; the plain CT is done."""
    folder = tmp_path_factory.mktemp("lesions")
    settings = inputs.settings(
        "[window]\nlow_hu = -1000\nbright_hu = -860\n[postprocessing]\nt_d = 0.01\nt_f = 0.01\n"
    )(folder)

    def run(path, out):
        assert segment(["segment", str(path), "--config", str(settings)], out) == 0
        scan, result = read_ct(path), out / "ct"
        return {name: replace(scan, volume_hu=read_stored(result / name).voxels) for name in MAPS}

    return run, run(inputs.stored((0, 1, 2), (False, False, False))(folder), folder / "out")


@pytest.mark.parametrize("row", [row for row in ROWS if row.same_masks], ids=_name)
def test_any_storage_gives_the_same_masks(row: Row, with_lesions, tmp_path):
    run, expected = with_lesions
    found = run(row.make(tmp_path), tmp_path / "out")
    for name in MAPS:
        assert np.count_nonzero(expected[name].volume_hu) > 10
        phantoms.assert_same_world(found[name], expected[name])


def test_names_are_shown_harmlessly(segment, plain, tmp_path, capfd):
    """Nothing that a browser, a spreadsheet program or a terminal would act on."""
    path = inputs.hostile_names(tmp_path)
    assert segment(["segment", str(path)], tmp_path / "out") == 0
    shown = "".join(capfd.readouterr())
    assert "\x1b" not in shown
    text = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2
    (line,) = csv.DictReader(text.splitlines())
    cells = [cell for cell in line.values() if not re.fullmatch(r"-\d+(\.\d+)?", cell)]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t")]
    for result in (tmp_path / "out").rglob(RESULT):
        assert "alert(1)" not in result.read_text() + text


def test_rows_are_told_apart():
    assert [name for name, n in Counter(row.name for row in ROWS).items() if n > 1] == []
    assert {row.group for row in ROWS} == set(GROUPS)
    assert len(ROWS) >= 76
