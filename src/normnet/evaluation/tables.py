"""Tables as CSV, Markdown and LaTeX, and how numbers stand in their cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normnet.io.atomic import replacing


@dataclass(frozen=True)
class Table:
    """Cells of a table, as text that is not yet escaped.

    Attributes:
        columns: Headings.
        rows: Cells of every row, as many as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(value: float, decimals: int, missing: str = "-") -> str:
    """A number with so many decimals; ``missing`` in place of NaN."""
    return missing if math.isnan(value) else f"{value:.{decimals}f}"


def mean_sd(mean: float, sd: float, decimals: int) -> str:
    """``98.1 ± 0.7``; the mean alone where the deviation is NaN."""
    text = number(mean, decimals)
    return text if math.isnan(sd) else f"{text} ± {sd:.{decimals}f}"


def markdown_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def markdown_head(columns: Sequence[str]) -> str:
    """The headings of a Markdown table and the line below them."""
    return markdown_row(columns) + "\n" + "|---" * len(columns) + "|"


def to_markdown(table: Table) -> str:
    """The table as Markdown."""
    rows = (markdown_row(row) for row in table.rows)
    return "\n".join([markdown_head(table.columns), *rows]) + "\n"


def to_latex(table: Table, caption: str, comment: str, align: str) -> str:
    """The table for a paper; it needs the package booktabs.

    Args:
        table: The cells.
        caption: Not yet escaped.
        comment: Stands above the table, not in the paper.
        align: Of the columns behind the first one: ``l``, ``c`` or ``r``.
    """
    lines = [
        f"% {comment}",
        r"\begin{table}",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{l{align * (len(table.columns) - 1)}}}",
        r"\toprule",
    ]
    lines += [_latex_row(table.columns).lstrip(), r"\midrule"]
    lines += [_latex_row(row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a table to a file; raises ``OutputError``."""
    with replacing(path) as handle:
        handle.write(text.encode())


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    special = {ord(c): rf"\{c}" for c in "&%$#_{}"}
    return text.translate(special | {ord("±"): r"$\pm$", ord(">"): "$>$"})
