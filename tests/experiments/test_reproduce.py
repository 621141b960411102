"""``normnet reproduce`` as a user types it: one miniature of every kind of experiment."""

import csv

import pytest

from normnet.cli.main import main
from normnet.experiments.catalogue import experiments

FIGURES = [name for name, found in experiments().items() if found.kind == "figure"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture
def reproduce(data, tiny_scale, out):
    def run(name, *options):
        given = ("--data", data, "--out", out, "--scale", tiny_scale, "--device", "cpu", *options)
        return main([str(part) for part in ("reproduce", name, *given)])

    return run


def written(out, name):
    return {
        suffix: (out / "tiny" / f"{name}.{suffix}").read_text() for suffix in ("csv", "md", "tex")
    }


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("table2", ["normnet"]),
        ("table3", ["no-growing", "proposed"]),
        ("table4", ["normnet", "i", "k_d", "G", "T-400", "areas", "lesions", "edge"]),
        ("table5", ["model1", "voting", "model1-short", "model2-long"]),
        ("supplementary1", ["cap", "original"]),
    ],
)
def test_tables(reproduce, out, name, rows):
    options = [part for row in rows for part in ("--row", row)]
    assert reproduce(name, *options) == 0
    texts = written(out, name)
    assert all(texts.values())
    assert texts["md"].count("\n|") >= 2 + len(rows)
    assert "UESTC: no data" in texts["md"] or name == "table5"


def test_named_networks_are_trained_once_per_seed(reproduce, out):
    """The scale has two seeds; the second one's five networks are others."""
    assert reproduce("table5", "--row", "model1", "--row", "voting") == 0
    lines = list(csv.DictReader(written(out, "table5")["csv"].splitlines()))
    keys = {(line["row"], line["seed"]): line["config"] for line in lines}
    assert {seed for row, seed in keys if row == "voting"} == {"0", "1"}
    assert keys["model1", "0"] != keys["model1", "1"]


def test_a_table_keeps_the_rows_of_earlier_runs(reproduce, out):
    assert reproduce("table3", "--row", "proposed", "--seeds", "1") == 0
    assert "proposed without growing" in written(out, "table3")["md"]


def test_table1(reproduce, out):
    assert reproduce("table1") == 0
    assert "UESTC" in written(out, "table1")["md"]


@pytest.mark.parametrize("name", ["search-postprocessing", "search-threshold"])
def test_searches(reproduce, out, name):
    assert reproduce(name) == 0
    assert all(written(out, name).values())


@pytest.mark.parametrize("name", FIGURES)
def test_figures(reproduce, out, name):
    assert reproduce(name) == 0
    assert (out / "tiny" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_list(capsys):
    assert main(["reproduce", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in experiments())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table9", "--data", "x", "--out", "y"], "NN-EXP-001"),
        (["table2"], "needs --data and --out"),
        ([], "give an experiment, or --list"),
    ],
)
def test_bad_arguments(arguments, says, capsys):
    assert main(["reproduce", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_unknown_row(reproduce, capsys):
    assert reproduce("table2", "--row", "nothing") == 2
    assert "NN-EXP-005" in capsys.readouterr().err
