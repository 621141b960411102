"""The one writer of tables."""

import math

from normnet.evaluation.tables import Table, mean_sd, number, to_latex, to_markdown
from normnet.io.csv_text import csv_text

TABLE = Table(["row", "a_b & co"], [["x | y", "98.1 ± 0.7"], ["", "> 5"]])


def test_numbers():
    assert [number(value, 1) for value in (0.25, -1, math.nan)] == ["0.2", "-1.0", "-"]
    assert number(math.nan, 1, missing="") == ""
    assert mean_sd(98.1, 0.7, 1) == "98.1 ± 0.7"
    assert mean_sd(98.1, math.nan, 1) == "98.1"
    assert mean_sd(math.nan, math.nan, 1) == "-"


def test_markdown():
    expected = ["| row | a_b & co |", "|---|---|", r"| x \| y | 98.1 ± 0.7 |", "|  | > 5 |"]
    assert to_markdown(TABLE).splitlines() == expected


def test_latex():
    assert to_latex(TABLE, "50 % of it", "not shown", "c").splitlines() == [
        "% not shown",
        r"\begin{table}",
        r"\caption{50 \% of it}",
        r"\begin{tabular}{lc}",
        r"\toprule",
        r"row & a\_b \& co \\",
        r"\midrule",
        r"x | y & 98.1 $\pm$ 0.7 \\",
        r" & $>$ 5 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_csv():
    assert csv_text([["a", "b"], [1, "x,y"]]) == 'a,b\n1,"x,y"\n'
