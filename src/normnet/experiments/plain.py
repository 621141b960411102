"""A table that is no table of rows and seeds (see ``tables``): as CSV, as Markdown and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normnet.experiments.catalogue import Experiment
from normnet.experiments.tables import escape, write_texts

Line = Mapping[
    str, Any
]  # heading to what stands below it; strings as they are, numbers with two decimals


def write_plain(
    folder: Path, experiment: Experiment, about: str, shown: Sequence[Line], records: Sequence[Line]
) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex``.

    Args:
        folder: Where.
        experiment: Its name and title.
        about: What a reader must know.
        shown: Lines of the Markdown and the LaTeX table, all with the same headings; at least one.
        records: Lines of the CSV; headings that some lack are empty there.

    Raises:
        OutputError: If they cannot be written.
    """
    texts = {
        "csv": _to_csv(records),
        "md": _to_markdown(experiment, about, shown),
        "tex": _to_latex(experiment, about, shown),
    }
    return write_texts(folder, experiment.name, texts)


def with_sd(mean: float, sd: float | None) -> str:
    """``98.1 ± 0.7``, or the mean alone."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def _to_csv(records: Sequence[Line]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for line in records for name in line))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in line.items()} for line in records)
    return text.getvalue()


def _to_markdown(experiment: Experiment, about: str, shown: Sequence[Line]) -> str:
    lines = [f"# {experiment.where}: {experiment.title}", "", about, ""]
    lines += ["| " + " | ".join(shown[0]) + " |", "|---" * len(shown[0]) + "|"]
    lines += ["| " + " | ".join(_text(value) for value in line.values()) + " |" for line in shown]
    return "\n".join(lines) + "\n"


def _to_latex(experiment: Experiment, about: str, shown: Sequence[Line]) -> str:
    """With the booktabs package."""
    lines = [
        f"% {about}",
        r"\begin{table}",
        rf"\caption{{{_latex(experiment.title)}.}}",
        r"\begin{tabular}{" + "l" * len(shown[0]) + "}",
        r"\toprule",
        " & ".join(map(_latex, shown[0])) + r" \\",
        r"\midrule",
    ]
    lines += [
        " & ".join(_latex(_text(value)) for value in line.values()) + r" \\" for line in shown
    ]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    return escape(text).replace("±", r"$\pm$").replace(">", "$>$")
