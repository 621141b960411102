"""CSV files as text, safe to open in a spreadsheet program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV, one line per row; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def harmless_cell(text: str) -> str:
    """A text that no spreadsheet program runs as a formula, without control characters.

    It starts with an apostrophe where its own first character would start a formula.
    """
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{shown}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else shown
