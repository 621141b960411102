"""Table I: the paper's numbers, and what is at hand."""

import csv

import pytest

from normnet.experiments.bench import Bench, find_data
from normnet.experiments.catalogue import find_experiment, load_scale
from normnet.experiments.overview import write_overview
from tests.datasets import trees

# Table I of the paper
QUANTITIES = {
    "COVID-CT": "342",
    "SIRM-COVID": "340",
    "SIRM-Seg": "110",
    "Radiopaedia": "9",
    "Coronacases": "20",
    "Mosmed": "50",
    "BIMCV": "5381",
    "UESTC": "120",
}


@pytest.fixture
def lines(tmp_path, tiny_scale):
    def write(*folders):
        bench = Bench(find_data(list(folders), []), tmp_path / "out")
        scale = load_scale(str(tiny_scale))
        paths = write_overview(tmp_path / "tables", find_experiment("table1"), scale, bench)
        texts = {path.suffix: path.read_text() for path in paths}
        return {line["dataset"]: line for line in csv.DictReader(texts[".csv"].splitlines())}, texts

    return write


def test_the_papers_numbers(data, lines):
    found, texts = lines(data)
    assert {name: line["quantity"] for name, line in found.items()} == QUANTITIES
    assert found["BIMCV"]["modality"] == "CT / X-rays"
    assert [name for name, line in found.items() if line["task"] == "Segmentation"] == [
        "SIRM-Seg",
        "Radiopaedia",
        "Coronacases",
        "UESTC",
    ]
    for name, quantity in QUANTITIES.items():
        assert f"| {name} | " in texts[".md"]
        assert quantity in texts[".tex"]


def test_cases_of_a_list_count_where_their_names_belong(data, lines):
    found, texts = lines(data)
    for name in ("Coronacases", "Radiopaedia"):
        assert (found[name]["n_cts"], found[name]["n_lesion_masks"]) == ("1", "1")
    assert (found["UESTC"]["n_cts"], found["UESTC"]["n_lesion_masks"]) == ("0", "0")
    assert found["BIMCV"]["n_cts"] == ""
    assert "Also at hand: 2 CTs of CSV lists." in texts[".md"]
    assert texts[".md"].count("| not read by normnet |") == 4


def test_only_what_is_there_counts(data, lines, tmp_path):
    """A mask that is named and missing, a CT that is missing, an archive of single slices."""
    rows = [
        "case_id,folder,file,lesion_mask",
        f"coronacases_001,{data},coronacases_001.nii.gz,gone.nii.gz",
    ]
    rows += ["coronacases_002,.,gone.nii.gz,", "coronacases_slices,.,slices.npz,"]
    (tmp_path / "slices.npz").touch()
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    found, _ = lines(tmp_path / "cases.csv")
    assert (found["Coronacases"]["n_cts"], found["Coronacases"]["n_lesion_masks"]) == ("1", "0")


def test_folders_of_the_sets(tmp_path, lines):
    """MosMed: three CTs, one mask; volume 6 of Radiopaedia counts, though not in the paper."""
    trees.mosmed(tmp_path / "mosmed")
    trees.radiopaedia(tmp_path / "radiopaedia")
    trees.structseg(tmp_path / "structseg")
    found, texts = lines(tmp_path / "mosmed", tmp_path / "radiopaedia", tmp_path / "structseg")
    assert (found["Mosmed"]["n_cts"], found["Mosmed"]["n_lesion_masks"]) == ("3", "1")
    assert (found["Radiopaedia"]["n_cts"], found["Radiopaedia"]["n_lesion_masks"]) == ("2", "2")
    assert "| 2 CTs, 2 lesion masks |" in texts[".md"]
    assert "Also at hand: 3 CTs of structseg." in texts[".md"]
