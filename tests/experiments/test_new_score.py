"""A score is one entry of the registry: every table then has it."""

import csv
import math

import numpy as np
import pytest

from normnet.cli.main import main
from normnet.evaluation.scores import SCORES, Score
from normnet.experiments.catalogue import Experiment, Row, load_scale
from normnet.experiments.scores import finished_rows, run_rows
from normnet.experiments.tables import write_tables
from normnet.io.formats.nifti import write_image
from normnet.scan import Geometry

GEOMETRY = Geometry((2.0, 1.0, 1.0))


@pytest.fixture
def ratio(monkeypatch):
    """A score that nothing but the registry knows: voxels of the prediction per reference voxel."""

    def compute(case):
        prediction, reference = case.masks
        return prediction.sum() / reference.sum() if reference.any() else math.nan

    score = Score("ratio_mm", "length ratio", "made up", compute, "surfaces", "mm", 2)
    monkeypatch.setitem(SCORES, "ratio_mm", score)


def masks(*on):
    mask = np.zeros((3, 3, 3), bool)
    mask.ravel()[list(on)] = True
    return mask


def test_a_new_score_is_evaluated(ratio, tmp_path, capsys):
    """It stands in the printed table, in the comparison and in the CSV, with its summaries."""
    for place in ("found", "other"):
        for name, on in (("a", (0, 1, 2)), ("b", (4,))):
            (tmp_path / place / name).mkdir(parents=True)
            write_image(tmp_path / place / name / "lesions.nii.gz", masks(*on), GEOMETRY)
    (tmp_path / "reference").mkdir()
    for name in ("a", "b"):
        write_image(tmp_path / "reference" / f"{name}_lesion.nii.gz", masks(0, 4), GEOMETRY)
    table = tmp_path / "scores.csv"
    folders = [str(tmp_path / place) for place in ("found", "reference")]
    against = ["--against", str(tmp_path / "other"), "--csv", str(table)]
    assert main(["evaluate", *folders, *against]) == 0
    printed = capsys.readouterr().out
    assert "length ratio mm" in printed
    assert "1.00 ± 0.71" in printed
    assert any(line.split()[:2] == ["ratio_mm", "2"] for line in printed.splitlines())
    rows = {row["case"]: row["ratio_mm"] for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert [rows[name] for name in ("a", "b", "mean", "n")] == ["1.5000", "0.5000", "1.0000", "2"]


def test_a_new_score_is_reproduced(ratio, bench, tiny_scale, tmp_path):
    """Named by a table of the paper it stands in CSV, Markdown and LaTeX, in its own unit."""
    row = Row(id="base", label="base", paper={"coronacases": (69.8, 3.14159)})
    scale = load_scale(str(tiny_scale))

    def write(*scores):
        table = Experiment(
            name="t", kind="scores", title="T", where="Table 0", scores=scores, rows=(row,)
        )
        list(run_rows(table, [row], scale, bench))
        return {
            path.suffix: path.read_text()
            for path in write_tables(tmp_path, table, scale, finished_rows(table, scale, bench))
        }

    assert "ratio" not in "".join(write("dsc").values())
    texts = write("dsc", "ratio_mm")  # what is stored lacks it, so the cases are scored again
    (mean,) = {
        line["mean"]
        for line in csv.DictReader(texts[".csv"].splitlines())
        if (line["score"], line["set"], line["seed"]) == ("ratio_mm", "coronacases", "0")
    }
    assert float(mean) >= 0
    assert "| length ratio mm | sd | paper |" in texts[".md"]
    assert "| 3.14 |" in texts[".md"]
    assert "& DSC & sd & paper & length ratio mm & sd & paper &" in texts[".tex"]
    assert "& 3.14 &" in texts[".tex"]


def test_a_table_names_scores_that_exist():
    with pytest.raises(ValueError, match="no score 'dice'"):
        Experiment(name="t", kind="scores", title="T", where="Table 0", scores=("dice",))
