import csv
import io
import math

import pytest

from normnet.experiments.catalogue import Experiment, Row, Scale
from normnet.experiments.scores import Result
from normnet.experiments.tables import cells, differences, to_csv, to_latex, to_markdown
from normnet.experiments.thresholds import Threshold

BASE = Row(id="base", label="base & all", paper={"coronacases": (70.0,), "uestc": (61.4,)})
OTHER = Row(id="other", label="other", paper={"coronacases": (60.0,), "uestc": (50.0,)})
TABLE = Experiment(
    name="t",
    kind="scores",
    title="Some_title",
    where="Table 0",
    note="Noted.",
    compared_with="base",
    rows=(BASE, OTHER),
)
SCALE = Scale(name="tiny", note="All is small.", members=1, seeds=2)


def result(row, seed, *scores):
    cases = {f"coronacases_{n}": {"dsc": score} for n, score in enumerate(scores)}
    return Result(row, seed, f"{row.id:0<16}", {"coronacases": cases})


RESULTS = [
    result(BASE, 0, 0.5, 0.7),
    result(BASE, 1, 0.6, 0.8),
    result(OTHER, 0, 0.4, 0.5),
    result(OTHER, 1, 0.4, 0.6),
]


def test_means_deviations_and_spread():
    """Seeds 60 and 70: mean 65, spread 7.07; cases 20 apart in each: deviation 14.14."""
    cell = cells(TABLE, BASE, RESULTS, "coronacases")["dsc"]
    assert cell.mean == pytest.approx(65)
    assert cell.sd == pytest.approx(math.sqrt(200))
    assert cell.spread == pytest.approx(math.sqrt(50))
    assert cell.paper == 70


def test_a_set_without_data_has_the_papers_value_alone():
    cell = cells(TABLE, BASE, RESULTS, "uestc")["dsc"]
    assert math.isnan(cell.mean)
    assert cell.paper == 61.4


def test_cases_without_a_value_do_not_count():
    cell = cells(TABLE, BASE, [result(BASE, 0, 0.5, math.nan)], "coronacases")["dsc"]
    assert cell.mean == 50
    assert math.isnan(cell.sd)
    assert math.isnan(cell.spread)


def test_markdown():
    text = to_markdown(TABLE, SCALE, RESULTS)
    assert text.startswith("# Table 0: Some_title\n")
    assert "Scale tiny. All is small. Noted. Coronacases: 2 cases; UESTC: no data." in text
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| set | row | DSC | sd | paper | against base & all | sd over seeds | paper "
        "| config | seeds |",
        "|---" * 10 + "|",
        "| Coronacases | base & all | 65.0 | 14.1 | 70.0 | - | 7.1 | - | base0000 | 2 |",
        "| Coronacases | other | 47.5 | 10.6 | 60.0 | -17.5 | 3.5 | -10.0 | other000 | 2 |",
    ]


def test_differences_are_those_of_equal_seeds():
    assert differences(TABLE, OTHER, RESULTS, "coronacases") == pytest.approx([-15, -20])
    assert differences(TABLE, OTHER, RESULTS[1:], "coronacases") == pytest.approx([-20])
    assert differences(TABLE, OTHER, RESULTS, "uestc") == []


def test_csv_has_a_line_a_row_seed_and_set():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE, SCALE, RESULTS))))
    assert [(row["row"], row["seed"], row["mean"], row["n_cases"]) for row in rows] == [
        ("base", "0", "60.00", "2"),
        ("base", "1", "70.00", "2"),
        ("other", "0", "45.00", "2"),
        ("other", "1", "50.00", "2"),
    ]
    assert {row["config"] for row in rows} == {"base000000000000", "other00000000000"}


def test_latex_is_escaped_and_balanced():
    text = to_latex(TABLE, SCALE, RESULTS)
    assert r"Coronacases & base \& all & 65.0 & 14.1 & 70.0 & - & 7.1 & - & base0000 & 2 \\" in text
    assert r"\caption{Some\_title." in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {9}
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_thresholds_and_how_they_were_chosen():
    """The paper's number stands beside the in-sample row alone."""
    table = TABLE.model_copy(update={"compared_with": ""})
    best, without = (
        Result(
            BASE,
            0,
            "k" * 16,
            {"coronacases": {"a": {"dsc": dice}, "b": {"dsc": dice}}},
            choice,
            {"coronacases": {"a": Threshold(*ends[0]), "b": Threshold(*ends[1])}},
        )
        for choice, dice, ends in (
            ("in-sample", 0.5, [(0.3,), (0.3,)]),
            ("leave-one-patient-out", 0.4, [(-700.0, -100.0), (-600.0, -200.0)]),
        )
    )
    text = to_markdown(table, SCALE, [best, without])
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| set | row | choice | threshold | upper threshold | DSC | sd | paper | config | seeds |",
        "|---" * 10 + "|",
        "| Coronacases | base & all | in-sample | 0.30 | - | 50.0 | 0.0 | 70.0 | kkkkkkkk | 1 |",
        "| Coronacases | base & all | leave-one-patient-out | -650.00 | -150.00 | 40.0 | 0.0 | - "
        "| kkkkkkkk | 1 |",
    ]
    assert "In-sample: the threshold" in text
    lines = list(csv.DictReader(io.StringIO(to_csv(table, SCALE, [best, without]))))
    chosen = ("choice", "threshold", "upper_threshold", "paper")
    assert [tuple(line[name] for name in chosen) for line in lines] == [
        ("in-sample", "0.30", "", "70.00"),
        ("leave-one-patient-out", "-650.00", "-150.00", ""),
    ]
    assert "& leave-one-patient-out & -650.00 & -150.00 &" in to_latex(table, SCALE, [without])


def test_rows_that_did_not_run_are_not_there():
    assert "other" not in to_markdown(TABLE, SCALE, RESULTS[:1]).split("\n", 6)[-1]
