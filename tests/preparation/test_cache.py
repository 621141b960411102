"""Cached normal CTs: exact, stale when anything changed, never half read."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from normnet.config import Config, WindowConfig
from normnet.errors import OutputError
from normnet.preparation.cache import (
    LOWEST_HU,
    STEP_HU,
    NormalCase,
    load_case,
    prepare_normal,
    save_case,
)
from normnet.preparation.prepare import prepare
from normnet.scan import Geometry, Scan
from tests.phantoms import reorient

CONFIG = Config()


@pytest.fixture(scope="module")
def scan() -> Scan:
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 400, (12, 40, 44)).astype(np.int16)
    return Scan(volume, Geometry((2.0, 0.8, 0.8)), "case")


@pytest.fixture(scope="module")
def lungs(scan) -> np.ndarray:
    labels = np.zeros(scan.shape, np.uint8)
    labels[1:11, 8:32, 8:20] = 1
    labels[1:11, 8:32, 24:36] = 2
    return labels


@pytest.fixture
def case(scan, lungs) -> NormalCase:
    return prepare_normal(scan, lungs, CONFIG)


def assert_same(first: NormalCase, second: NormalCase) -> None:
    assert first.case_id == second.case_id
    for name in ("codes", "lung_mask", "edge_mask", "usable"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_codes_are_hu(scan, lungs, case):
    """Seen through the window, the cached case is the prepared thorax to within half a step."""
    prepared = prepare(scan, lungs, CONFIG.preparation, WindowConfig(low_hu=-1024, high_hu=506))
    hu = prepared.thorax * 1530 - 1024
    inside = case.lung_mask
    np.testing.assert_array_equal(inside, prepared.lung_mask)
    assert (
        np.abs(case.codes[inside] * float(STEP_HU) + LOWEST_HU - hu[inside]).max()
        <= STEP_HU / 2 + 0.01
    )
    assert case.codes[~inside].any()  # the tissue around the lungs is kept
    assert case.usable.all()
    assert case.edge_mask.dtype == bool


@pytest.mark.parametrize("flip", [False, True])
def test_excluded_slices_follow_the_file(scan, lungs, flip):
    """Slice 3 of the file, wherever the head is."""
    flips = (flip, False, False)
    stored = reorient(scan, (0, 1, 2), flips)
    labels = reorient(replace(scan, volume_hu=lungs), (0, 1, 2), flips).volume_hu
    usable = prepare_normal(stored, labels, CONFIG, {3}).usable
    # 12 slices of 2 mm on a grid of 1 mm; seen from the feet, slice 3 is at 6 mm, or at 16 mm in a
    # flipped file
    at_mm = 16 if flip else 6
    bad = np.flatnonzero(~usable)
    assert len(usable) == 23
    assert at_mm in bad
    assert np.abs(bad - at_mm).max() <= 1
    # What is interpolated between it and a neighbour has a part of it.
    assert bad.tolist() == [at_mm - 1, at_mm, at_mm + 1]


def test_round_trip(tmp_path, case):
    save_case(tmp_path / "a" / "case.npz", replace(case, key="key"))
    assert_same(load_case(tmp_path / "a" / "case.npz"), case)
    assert_same(load_case(tmp_path / "a" / "case.npz", "key"), case)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["case.npz"]


def test_stale_or_missing_is_none(tmp_path, case):
    save_case(tmp_path / "case.npz", replace(case, key="key"))
    assert load_case(tmp_path / "case.npz", "other key") is None
    assert load_case(tmp_path / "nothing.npz") is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_is_none(tmp_path, case, share):
    path = tmp_path / "case.npz"
    save_case(path, replace(case, key="key"))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert load_case(path) is None


def test_altered_is_none_or_unharmed(tmp_path, case):
    """After one flipped byte the contents are right or refused, never wrong."""
    path = tmp_path / "case.npz"
    save_case(path, replace(case, key="key"))
    data = path.read_bytes()
    n_none = 0
    for at in [*range(0, len(data), len(data) // 40), *range(len(data) - 700, len(data), 13)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        loaded = load_case(path)
        if loaded is None:
            n_none += 1
        else:
            assert_same(loaded, case)
    assert n_none > 40


def test_foreign_content_is_none(tmp_path):
    path = tmp_path / "case.npz"
    path.write_bytes(b"not a zip file at all")
    assert load_case(path) is None
    np.savez(path, something=np.zeros(3))
    assert load_case(path) is None


SETTINGS = {"window": {"low_hu": -800.0}, "lung_model": "x"}


def changed(path, case, **changes) -> None:
    """A prepared case whose file holds other arrays; None leaves one out."""
    save_case(path, replace(case, key="key", settings=SETTINGS))
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_key_and_settings_are_kept(tmp_path, case):
    changed(tmp_path / "case.npz", case)
    found = load_case(tmp_path / "case.npz", "key")
    assert (found.key, found.settings) == ("key", SETTINGS)
    assert_same(found, case)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": None},
        {"settings": np.array("[1]")},
        {"settings": np.array("{")},
        {"settings": np.array([{}], dtype=object)},
        {"usable": np.ones(5, bool)},
        {"usable": np.ones((5, 5), bool)},
        {"usable": np.full(12, np.nan)},
        {"shape": np.array([12, 40])},
        {"shape": np.array([-12, -40, 44])},
        {"shape": np.array([10**6, 10**6, 10**6])},
        {"shape": np.array([np.nan, 40, 44])},
        {"shape": np.array(12)},
        {"codes": np.zeros(0, np.uint8)},
        {"codes": np.zeros(100)},
        {"codes": np.frombuffer(zlib.compress(bytes(10**8)), np.uint8)},
        {"lung_mask": np.zeros(3, np.uint8)},
        {"edge_mask": np.zeros((12, 40, 44), bool)},
        {"case_id": np.array("../../x")},
        {"case_id": np.array("/x")},
        {"case_id": np.array("")},
    ],
)
def test_wrong_arrays_are_none(tmp_path, case, changes):
    changed(tmp_path / "case.npz", case, **changes)
    assert load_case(tmp_path / "case.npz") is None


@pytest.mark.parametrize("content", [b"mine", b"PK\x03\x04" + bytes(60), None])
def test_only_prepared_cases_are_replaced(tmp_path, case, content):
    """A user's own file of that name stays; None: a link to one."""
    path = tmp_path / "case.npz"
    own = path if content is not None else tmp_path / "own.npz"
    own.write_bytes(content or b"mine")
    if content is None:
        path.symlink_to(own)
    before = own.read_bytes()
    with pytest.raises(OutputError) as caught:
        save_case(path, case)
    assert caught.value.code in ("NN-OUT-015", "NN-OUT-016")
    assert own.read_bytes() == before


@pytest.mark.parametrize("n_bytes", [0, 2, 35, 400, None])
def test_prepared_cases_are_replaced_also_damaged_ones(tmp_path, case, n_bytes):
    path = tmp_path / "case.npz"
    save_case(path, replace(case, key="old"))
    path.write_bytes(path.read_bytes()[:n_bytes])
    save_case(path, replace(case, key="new"))
    assert load_case(path).key == "new"
