"""Which CT goes with which masks, in a miniature of every layout."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from normnet.cli import normals
from normnet.datasets import layouts, registry
from normnet.datasets.dataset import Role
from normnet.datasets.manifest import Case
from normnet.datasets.reading import read_lesions, read_lungs, read_scan
from normnet.datasets.registry import DATASETS, load, recognise
from normnet.errors import ConfigError, InputError
from normnet.io.formats.nifti import write_image
from normnet.io.read import read_ct
from tests.datasets import trees
from tests.datasets.trees import SERIES, TREES, chest


def found_in(root: Path, kind: str) -> list:
    [(dataset, where)] = recognise(root, kind)
    return dataset.find(where)


@pytest.mark.parametrize("name", TREES)
def test_a_layout_is_recognised(name, tmp_path):
    """As it is, and from the folder above."""
    root = TREES[name](tmp_path / "data")
    for path in (root, tmp_path):
        assert [(dataset.name, where) for dataset, where in recognise(path)] == [(name, root)]
    assert load(tmp_path)


@pytest.mark.parametrize("name", TREES)
def test_ct_and_masks_read_back(name, tmp_path):
    """Lungs and lesions of the layout are those of the phantom; the CT is in HU."""
    root = TREES[name](tmp_path)
    for case in load(root):
        scan = read_scan(case)
        limits = (-800, 100)
        np.testing.assert_allclose(
            scan.volume_hu.clip(*limits), chest().scan.volume_hu.clip(*limits), atol=0.1
        )
        for mask, true in (
            (read_lungs(case, scan), chest().lung_mask),
            (read_lesions(case, scan), chest().lesion_mask),
        ):
            if mask is not None:
                np.testing.assert_array_equal(mask, true)


def test_every_known_set_has_a_miniature():
    assert set(TREES) == set(DATASETS)


def test_luna16(tmp_path):
    """A nodule of 10 mm around slice 16 reaches two slices on either side, of its own CT only."""
    z = float(chest().scan.geometry.origin_mm[0])
    rows = [
        f"{SERIES}0,1,2,{z + 16 * 5},20.0",
        f"{SERIES}1,1,2,{z + 3 * 5 + 2},2.0",
        f"{SERIES}1,0,0,{z},10.0",
    ]
    one, two = found_in(trees.luna16(tmp_path, "\n".join(rows)), "luna16")
    assert [one.image.parent.name, two.image.parent.name] == ["subset0", "subset9"]
    assert one.excluded_slices == {14, 15, 16, 17, 18}
    assert two.excluded_slices == {0, 1, 3}  # between two slices; cut at the end of the CT
    assert one.lung_mask is not None
    assert two.lung_mask is None
    assert {one.split, two.split} == {"train"}


def test_luna16_places_nodules_where_the_reader_does(tmp_path):
    """Also where the slices run to the feet."""
    z = float(chest().scan.geometry.origin_mm[0]) - 16 * 5
    case = found_in(trees.luna16(tmp_path, f"{SERIES}0,1,2,{z},20.0", direction=-1), "luna16")[0]
    affine = read_ct(case.image).geometry.affine
    reached = {k for k in range(trees.SHAPE[0]) if abs((affine @ [k, 0, 0, 1])[0] - z) <= 10}
    assert case.excluded_slices == reached
    assert len(reached) == 5


def test_luna16_without_its_nodules_is_refused(tmp_path):
    root = trees.luna16(tmp_path)
    (root / "annotations.csv").unlink()
    with pytest.raises(InputError) as caught:
        load(root, "luna16")
    assert caught.value.code == "NN-DAT-021"


def test_coronacases(tmp_path):
    """Those of Radiopaedia are values of 0 to 255: told, and not loaded."""
    root = trees.coronacases(
        tmp_path, ("coronacases_001", "coronacases_010", "radiopaedia_4_85506_1")
    )
    cases = found_in(root, "coronacases")
    assert [case.case_id for case in cases] == [
        "coronacases_001",
        "coronacases_010",
        "radiopaedia_4_85506_1",
    ]
    assert [bool(case.left_out) for case in cases] == [False, False, True]
    assert "without HU" in cases[2].left_out
    assert [case.case_id for case in load(root)] == ["coronacases_001", "coronacases_010"]
    paths = {
        cases[0].image.parent.name,
        cases[0].lung_mask.parent.name,
        cases[0].lesion_mask.parent.name,
    }
    assert paths == {"COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"}


def test_coronacases_from_the_union_alone(tmp_path):
    """1 and 2 are lungs, 3 is lesion, and a lesion lies in a lung."""
    root = trees.coronacases(tmp_path, ("coronacases_001",))
    for folder in ("Lung_Mask", "Infection_Mask"):
        (root / folder / "coronacases_001.nii.gz").unlink()
    both = np.where(chest().lesion_mask, 3, trees.sides(chest().lung_mask)).astype(np.uint8)
    trees.store(root / "Lung_and_Infection_Mask/coronacases_001.nii.gz", both)
    [case] = load(root)
    scan = read_scan(case)
    np.testing.assert_array_equal(read_lesions(case, scan), chest().lesion_mask)
    np.testing.assert_array_equal(read_lungs(case, scan), chest().lung_mask | chest().lesion_mask)


def test_radiopaedia(tmp_path):
    """Label 3 is no lesion; volume 6 is left out."""
    root = trees.radiopaedia(tmp_path)
    one, six = found_in(root, "radiopaedia")
    assert (one.case_id, six.case_id) == ("radiopaedia_1", "radiopaedia_6")
    assert "70" in six.left_out
    assert not read_lesions(one, read_scan(one))[0, 0, 0]
    assert one.lung_mask.parent.name == "rp_lung_msk"
    assert [case.case_id for case in load(root)] == ["radiopaedia_1"]


@pytest.mark.parametrize(("step_mm", "n_loaded"), [(4.5, 2), (5.0, 0), (8.0, 0)])
def test_uestc(step_mm, n_loaded, tmp_path):
    """Equal names in both parts; slices less than 5 mm apart."""
    root = trees.uestc(tmp_path, step_mm)
    cases = found_in(root, "uestc")
    assert [case.case_id for case in cases] == ["part1_7", "part2_7"]
    assert [case.lesion_mask.parents[1].name for case in cases] == ["part1", "part2"]
    assert len(load(root)) == n_loaded


def test_uestc_in_hu_is_taken_as_it_is(tmp_path):
    case = load(trees.uestc(tmp_path, hu=True))[0]
    np.testing.assert_array_equal(read_scan(case).volume_hu, chest().scan.volume_hu)


def test_mosmed(tmp_path):
    cases = {case.case_id: case for case in found_in(trees.mosmed(tmp_path), "mosmed")}
    assert {name: case.split for name, case in cases.items()} == {
        "study_0001": "train",
        "study_0255": "test",
        "study_1064": "CT-3",
    }
    assert cases["study_0255"].lesion_mask.name == "study_0255_mask.nii.gz"
    assert cases["study_0001"].lesion_mask is None


def test_nsclc(tmp_path):
    """The CT, not the contours; the first reviewer's mask; without a mask a patient is left out."""
    one, two = found_in(trees.nsclc(tmp_path), "nsclc")
    assert (one.image.name, two.image.name) == ("0.000000-NA-1", "0.000000-NA-1")
    assert one.lung_mask.name == "LUNG1-001_thor_cav_primary_reviewer.nii.gz"
    assert (bool(one.left_out), bool(two.left_out)) == (False, True)


@pytest.mark.parametrize(
    "below", ["Thoracic_OAR", "Task3_Thoracic_OAR/Thoracic_OAR", "Task3_Thoracic_OAR"]
)
def test_structseg(below, tmp_path):
    """In the order of their numbers; the tumour of task 4 is no lesion."""
    cases = found_in(trees.structseg(tmp_path, below), "structseg")
    assert [case.case_id for case in cases] == ["structseg_01", "structseg_02", "structseg_10"]
    assert [case.nodule_mask is not None for case in cases] == [False, True, False]
    assert {case.lesion_mask for case in cases} == {None}


def test_msd_lung(tmp_path):
    """Its own labels are tumours; hidden files of a Mac are no CTs."""
    root = trees.msd_lung(tmp_path)
    cases = found_in(root, "msd-lung")
    assert [case.case_id for case in cases] == ["msd_lung_001", "msd_lung_003"]
    assert {case.nodule_mask.parent.name for case in cases} == {"labelsTr"}
    assert {case.lung_mask.parent.name for case in cases} == {"Lung_Mask"}
    assert {case.lesion_mask for case in cases} == {None}
    assert found_in(root / "Task06_Lung", "msd-lung")[0].image == cases[0].image


def test_two_sets_in_one_folder(tmp_path):
    trees.radiopaedia(tmp_path, (1,))
    trees.coronacases(tmp_path, ("coronacases_001",))
    assert [dataset.name for dataset, _ in recognise(tmp_path)] == ["coronacases", "radiopaedia"]
    assert [dataset.name for dataset, _ in recognise(tmp_path, "radiopaedia")] == ["radiopaedia"]


def test_a_csv_list_may_be_named_itself(tmp_path):
    root = trees.csv(tmp_path)
    assert [case.case_id for case in load(root / "cases.csv")] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "kind", "code"),
    [(".", None, "NN-DAT-011"), (".", "uestc", "NN-DAT-011"), ("nowhere", None, "NN-FILE-001")],
)
def test_what_is_not_there(path, kind, code, tmp_path):
    (tmp_path / "papers").mkdir()
    with pytest.raises(InputError) as caught:
        recognise(tmp_path / path, kind)
    assert caught.value.code == code


def test_an_unknown_name(tmp_path):
    with pytest.raises(ConfigError) as caught:
        recognise(tmp_path, "imagenet")
    assert caught.value.code == "NN-DAT-010"
    assert "luna16" in caught.value.todo


TOY = '''
"""Toy data set: one folder of normal CTs; the first slice of each shows a finding."""

from normnet.datasets.dataset import Dataset, images_of
from normnet.datasets.manifest import Case


def find_cases(root):
    images = images_of(root / "toy_cts")
    return [
        Case(name, path, excluded_slices=frozenset({0}), left_out="odd" if name == "c" else "")
        for name, path in images.items()
    ]


DATASET = Dataset(
    name="toy",
    label="Toy",
    title="A toy",
    role="normal",
    n_volumes=3,
    table1="",
    use="-",
    licence="-",
    source="-",
    layout=("toy_cts/a.nii.gz",),
    markers=("toy_cts",),
    expects=(),
    find=find_cases,
)
'''


def test_a_data_set_is_one_module(tmp_path, monkeypatch):
    """Its role alone makes ``prepare`` take it, with what it knows of its cases."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "toy_set.py").write_text(TOY)
    for name in "abc":
        trees.store_ct(tmp_path / "data" / "toy_cts" / f"{name}.nii.gz")
    with pytest.raises(InputError, match="NN-DAT-011"):
        recognise(tmp_path / "data")
    monkeypatch.setattr(layouts, "__path__", [*layouts.__path__, str(tmp_path / "plugin")])
    monkeypatch.setattr(registry, "DATASETS", registry.known_datasets())
    try:
        assert [dataset.name for dataset, _ in recognise(tmp_path / "data")] == ["toy"]
        assert [dataset.name for dataset in registry.with_role("normal")] == ["luna16", "toy"]
        cases = normals.find_normals([tmp_path], None, [])
        assert [(case.case_id, case.excluded_slices) for case in cases] == [("a", {0}), ("b", {0})]
        assert list(registry.DATASETS)[-2:] == ["toy", "csv"]
    finally:
        sys.modules.pop("normnet.datasets.layouts.toy_set", None)


def test_roles():
    """As the paper uses the sets; a list tells the role of every case itself."""
    roles = {role: [one.name for one in registry.with_role(role)] for role in get_args(Role)}
    assert roles == {
        "normal": ["luna16"],
        "lesions": ["coronacases", "radiopaedia", "uestc"],
        "lungs": ["nsclc", "structseg", "msd-lung"],
    }


def test_the_page_names_what_is_known():
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE) == list(DATASETS)
    trees_shown = page[page.index("## How they lie on disk") :]
    for dataset in DATASETS.values():
        for line in dataset.layout:
            folder = line.split("/")[0].split(" ")[0]
            assert folder in trees_shown, (dataset.name, line)


@pytest.mark.parametrize(("extra", "value"), [(True, 51), (True, 3), (False, 51)])
def test_other_organs_in_a_lung_mask_are_left_out(tmp_path, extra, value):
    """A CSV names no labels: bone and muscle beside the lungs are no lung."""
    scan, lungs = chest().scan, chest().lung_mask
    labels = np.where(lungs, np.where(np.arange(scan.shape[2]) < scan.shape[2] / 2, 1, 2), 0)
    if extra:
        labels[(scan.volume_hu > 250) & ~lungs] = value
    write_image(tmp_path / "mask.nii.gz", labels.astype(np.uint8), scan.geometry)
    case = Case("a", tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read_lungs(case, scan), lungs)
