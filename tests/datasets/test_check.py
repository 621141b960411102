"""``normnet datasets check``: a sound miniature has no finding, each fault has its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from normnet.cli.main import main
from normnet.datasets.check import check_dataset
from normnet.datasets.registry import DATASETS, recognise
from normnet.scan import Geometry
from tests.datasets import trees
from tests.datasets.trees import TREES, chest

NAME = "coronacases_002.nii.gz"
CTS, LUNGS, LESIONS = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"


def codes(root: Path, kind: str = "coronacases") -> dict[str, list[str]]:
    [(dataset, where)] = recognise(root, kind)
    return {
        name: [fault.code for fault in faults]
        for name, faults in check_dataset(dataset, where).faults.items()
    }


@pytest.fixture
def root(tmp_path) -> Path:
    """Two sound cases; the tests spoil the second."""
    return trees.coronacases(tmp_path)


# --- nothing to find ---


@pytest.mark.parametrize("name", TREES)
def test_a_sound_copy_has_no_fault(name, tmp_path, capsys):
    root = TREES[name](tmp_path)
    assert main(["datasets", "check", str(root)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{name}: ")
    assert not [line for line in said if line.startswith("NN-")]
    n = len([case for case in DATASETS[name].find(root) if not case.left_out])
    assert n > 0
    assert said[-1] == f"usable: {n} of {n}"


def test_what_is_found_and_what_is_left_out_is_said(tmp_path, capsys):
    root = trees.coronacases(tmp_path, ("coronacases_001", "radiopaedia_4_85506_1"))
    assert main(["datasets", "check", str(root), "--kind", "coronacases"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "found: 2 CTs, 2 lung masks, 2 lesion masks" in said
    assert "note: 2 CTs of the 20 that coronacases has" in said
    [left_out] = [line for line in said if line.startswith("left out: ")]
    assert "radiopaedia_4_85506_1" in left_out
    assert "0..255 without HU" in left_out


def test_only_what_the_paper_does_not_use(tmp_path, capsys):
    root = trees.coronacases(tmp_path, ("radiopaedia_4_85506_1",))
    assert main(["datasets", "check", str(root)]) == 5
    assert "NN-DAT-020" in capsys.readouterr().out


# --- files ---


@pytest.mark.parametrize(
    ("folder", "expected"),
    [(CTS, ["NN-DAT-013"]), (LUNGS, ["NN-DAT-014"]), (LESIONS, ["NN-DAT-014"])],
)
def test_a_missing_file(root, folder, expected, capsys):
    (root / folder / NAME).unlink()
    assert codes(root) == {"coronacases_002": expected}
    assert main(["datasets", "check", str(root)]) == 9  # the first case is usable
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NN-")]
    assert "coronacases_002" in line


def test_a_mask_that_only_some_cases_have_may_be_missing(tmp_path):
    assert codes(trees.mosmed(tmp_path), "mosmed") == {}


@pytest.mark.parametrize(
    ("column", "code"), [("ct.nii.gz", "NN-DAT-013"), ("lungs.nii.gz", "NN-DAT-014")]
)
def test_a_file_that_a_list_names_and_that_is_not_there(column, code, tmp_path):
    root = trees.csv(tmp_path)
    text = (root / "cases.csv").read_text().splitlines()
    (root / "cases.csv").write_text(
        "\n".join([text[0], text[1].replace(column, "gone.nii.gz"), text[2]])
    )
    assert codes(root, "csv") == {"a": [code]}


def test_a_broken_ct(root):
    path = root / CTS / NAME
    path.write_bytes(path.read_bytes()[:3000])
    [(case, [code])] = codes(root).items()
    assert case == "coronacases_002"
    assert code.startswith("NN-FILE-")


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / CTS).mkdir()
    assert main(["datasets", "check", str(tmp_path)]) == 3
    assert "NN-DAT-012" in capsys.readouterr().err


# --- values ---


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda hu: ((hu.clip(-1250, 250) + 1250) / 1500 * 255).astype(np.uint8), "NN-VAL-007"),
        (lambda hu: hu.clip(-1000, 50), "NN-DAT-019"),
        (lambda hu: hu.clip(-700, 400), "NN-DAT-019"),
    ],
)
def test_a_window_that_hides_what_the_method_needs(root, change, code, capsys):
    trees.store_ct(root / CTS / NAME, change(chest().scan.volume_hu))
    assert codes(root) == {"coronacases_002": [code]}
    main(["datasets", "check", str(root)])
    assert "coronacases_002" in next(
        line for line in capsys.readouterr().out.splitlines() if code in line
    )


def test_a_wide_window_is_a_note(root, capsys):
    trees.store_ct(root / CTS / NAME, chest().scan.volume_hu.clip(-1000, 150))
    assert main(["datasets", "check", str(root)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "clipped" in line]
    assert len(notes) == 1
    assert "coronacases_002: clipped at 150 HU" in notes[0]


def test_uestc_in_another_window_is_refused(tmp_path):
    root = trees.uestc(tmp_path)
    volume = chest().scan.volume_hu.astype(np.float32).clip(0, 100)
    trees.store(
        root / "part2/image/7.nii.gz", volume, replace(Geometry(), spacing_mm=(4.0, 5.0, 5.0))
    )
    assert codes(root, "uestc") == {"part2_7": ["NN-VAL-007"]}


# --- masks ---


@pytest.mark.parametrize("folder", [LUNGS, LESIONS])
def test_a_mask_of_another_shape(root, folder):
    mask = chest().lung_mask if folder == LUNGS else chest().lesion_mask
    trees.store(root / folder / NAME, mask[1:])
    assert codes(root) == {"coronacases_002": ["NN-GEO-016"]}


def test_a_mask_in_another_place(root):
    elsewhere = replace(chest().scan.geometry, origin_mm=(0.0, 0.0, 0.0))
    trees.store(root / LUNGS / NAME, chest().lung_mask, elsewhere)
    assert codes(root) == {"coronacases_002": ["NN-GEO-016"]}


def test_a_mask_of_another_shape_where_headers_are_not_trusted(tmp_path):
    root = trees.uestc(tmp_path)
    trees.store(root / "part1/label/7.nii.gz", chest().lesion_mask[:, 1:])
    assert codes(root, "uestc") == {"part1_7": ["NN-GEO-016"]}


def test_values_that_are_no_labels(root):
    trees.store(root / LUNGS / NAME, chest().lung_mask * np.float32(0.5))
    assert codes(root) == {"coronacases_002": ["NN-VAL-009"]}


def test_an_empty_lung_mask(root):
    trees.store(root / LUNGS / NAME, np.zeros(trees.SHAPE, np.uint8))
    assert codes(root) == {"coronacases_002": ["NN-DAT-015"]}


def test_labels_none_of_which_are_lungs(tmp_path):
    root = trees.structseg(tmp_path)
    trees.store(
        root / "Thoracic_OAR/2/label.nii.gz", np.where(chest().lung_mask, 7, 0).astype(np.uint8)
    )
    assert codes(root, "structseg") == {"structseg_02": ["NN-DAT-015"]}


def test_no_lesion_is_a_note(root, capsys):
    trees.store(root / LESIONS / NAME, np.zeros(trees.SHAPE, np.uint8))
    assert main(["datasets", "check", str(root)]) == 0
    assert "note: coronacases_002: no lesion in its lesion mask" in capsys.readouterr().out


NAMED = {0: "head to foot", 1: "front to back", 2: "left to right"}


@pytest.mark.parametrize("axes", [axes for n in (1, 2, 3) for axes in combinations(range(3), n)])
def test_a_mirrored_lung_mask(root, axes, capsys):
    """Found, and the way it is mirrored is named."""
    trees.store(root / LUNGS / NAME, np.flip(chest().lung_mask, axes))
    assert codes(root) == {"coronacases_002": ["NN-DAT-016"]}
    assert main(["datasets", "check", str(root)]) == 9
    line = next(line for line in capsys.readouterr().out.splitlines() if "NN-DAT-016" in line)
    assert f"mirrored {' and '.join(NAMED[axis] for axis in axes)}:" in line


def test_a_mirrored_mask_is_named_as_the_patient_lies(tmp_path):
    """Not as the array does: here its last axis runs from head to foot."""
    root = trees.coronacases(tmp_path, ("coronacases_001",))
    geometry = chest().scan.geometry
    turned = replace(
        geometry.moved_to((trees.SHAPE[0] - 1, 0, 0)),
        spacing_mm=tuple(geometry.spacing_mm[axis] for axis in (1, 2, 0)),
        direction=((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    )

    def stored(array):
        return np.ascontiguousarray(array[::-1].transpose(1, 2, 0))

    for folder, array in (
        (CTS, chest().scan.volume_hu),
        (LESIONS, chest().lesion_mask),
        (LUNGS, np.flip(chest().lung_mask, 0)),
    ):
        trees.store(root / folder / "coronacases_001.nii.gz", stored(array), turned)
    [(dataset, where)] = recognise(root)
    [fault] = check_dataset(dataset, where).faults["coronacases_001"]
    assert "mirrored head to foot:" in fault.found


def test_a_lung_mask_of_another_patient(root):
    blob = np.zeros(trees.SHAPE, bool)
    blob[10:20, 28:36, 28:36] = True
    trees.store(root / LUNGS / NAME, blob)
    assert codes(root) == {"coronacases_002": ["NN-DAT-017"]}


def test_mirrored_lesions(root):
    one = chest().lesion_mask.copy()
    one[:, :, 32:] = False  # the lesion low on the right
    one[:4], one[4:14] = False, one[4:14]
    trees.store(root / LESIONS / NAME, np.flip(one, (0, 1, 2)))
    assert codes(root) == {"coronacases_002": ["NN-DAT-016"]}


def test_mirrored_lesions_without_a_lung_mask(tmp_path):
    """The dark lungs stand in for the mask."""
    root = trees.uestc(tmp_path)
    low = chest().lesion_mask.copy()
    low[:, :, 32:] = False
    trees.store(root / "part1/label/7.nii.gz", np.flip(low, (0, 1, 2)), Geometry())
    assert codes(root, "uestc") == {"part1_7": ["NN-DAT-016"]}


def test_lesions_outside_the_lungs(root):
    spine = np.zeros(trees.SHAPE, bool)
    spine[10:20, 46:50, 30:34] = True
    trees.store(root / LESIONS / NAME, spine)
    assert codes(root) == {"coronacases_002": ["NN-DAT-018"]}


# --- the command ---


def test_the_exit_code_is_that_of_the_fault_if_nothing_is_usable(tmp_path):
    root = trees.coronacases(tmp_path, ("coronacases_002",))
    trees.store(root / LUNGS / NAME, np.flip(chest().lung_mask, 0))
    assert main(["datasets", "check", str(root)]) == 4
    (root / LUNGS / NAME).unlink()
    assert main(["datasets", "check", str(root)]) == 3


def test_two_sets_one_of_which_is_sound(tmp_path, capsys):
    trees.radiopaedia(tmp_path, (1,))
    trees.coronacases(tmp_path, ("coronacases_002",))
    (tmp_path / LUNGS / NAME).unlink()
    assert main(["datasets", "check", str(tmp_path)]) == 9
    said = capsys.readouterr().out
    assert "usable: 0 of 1" in said
    assert "usable: 1 of 1" in said


def test_the_list(capsys):
    assert main(["datasets", "list"]) == 0
    said = capsys.readouterr().out
    for name, dataset in DATASETS.items():
        [line] = [line for line in said.splitlines() if line.startswith(f"  {name} ")]
        assert str(dataset.n_volumes or "any") in line.split()
        assert dataset.licence.split()[0] in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["list", "."],
        ["list", "--kind", "uestc"],
        ["fetch"],
        ["check", ".", "--kind", "what"],
    ],
)
def test_usage(arguments, capsys):
    assert main(["datasets", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("NN-")


def test_help_imports_nothing_heavy():
    code = (
        "import sys, normnet.cli.main as m; m.main(['datasets', '--help']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stderr.split()
    assert "normnet.cli.datasets" in modules
    assert not {
        "numpy",
        "scipy",
        "torch",
        "normnet.datasets.check",
        "normnet.datasets.registry",
    } & set(modules)
