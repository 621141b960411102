"""Table I: the public data sets of COVID-19, and how many of their CTs were given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from normnet.datasets.manifest import Case
from normnet.datasets.registry import DATASETS
from normnet.experiments.bench import Bench
from normnet.experiments.catalogue import Experiment, Scale
from normnet.experiments.pages import write_records


class Line(NamedTuple):
    """A line of the paper's table."""

    title: str
    modality: str
    task: str
    # in the registry, which knows the quantity; empty if normnet does not read the set
    name: str = ""
    quantity: str = ""


TABLE1 = (
    Line("COVID-CT", "CT image", "Diagnosis", quantity="342"),
    Line("SIRM-COVID", "2D CT image", "Diagnosis", quantity="340"),
    Line("SIRM-Seg", "CT image", "Segmentation", quantity="110"),
    Line("Radiopaedia", "CT volume", "Segmentation", "radiopaedia"),
    Line("Coronacases", "CT volume", "Segmentation", "coronacases"),
    Line("Mosmed", "CT volume", "Diagnosis", "mosmed"),
    Line("BIMCV", "CT / X-rays", "Diagnosis", quantity="5381"),
    Line("UESTC", "CT volume", "Segmentation", "uestc"),
)


def write_overview(folder: Path, experiment: Experiment, scale: Scale, bench: Bench) -> list[Path]:
    """Write ``<name>.csv``, ``.md`` and ``.tex``.

    Args:
        folder: Where.
        experiment: Its name and title.
        scale: Its name stands in the table; it has no other effect.
        bench: Data sets that were found.

    Raises:
        OutputError: If they cannot be written.
    """
    n_cts, n_masks = count_at_hand(bench)
    records: list[dict[str, str | int]] = []
    for line in TABLE1:
        counts = (
            {"n_cts": n_cts[line.name], "n_lesion_masks": n_masks[line.name]} if line.name else {}
        )
        quantity = line.quantity or DATASETS[line.name].table1
        head = {
            "dataset": line.title,
            "modality": line.modality,
            "quantity": quantity,
            "task": line.task,
        }
        records.append({**head, **counts})
    shown = [
        {
            **{name: record[name] for name in ("dataset", "modality", "quantity", "task")},
            "at hand": _at_hand(record),
        }
        for record in records
    ]
    known = {line.name for line in TABLE1}
    others = [f"{n} CTs of {name}" for name, n in n_cts.items() if name not in known]
    beside = f"Also at hand: {', '.join(others)}." if others else ""
    about = " ".join(part for part in (f"Scale {scale.name}.", experiment.note, beside) if part)
    return write_records(folder, experiment, about, shown, records)


def count_at_hand(bench: Bench) -> tuple[Counter[str], Counter[str]]:
    """Count the CTs of every data set, and those with a lesion mask.

    A case of a CSV list counts for the data set that its name begins with.
    """
    n_cts: Counter[str] = Counter()
    n_masks: Counter[str] = Counter()
    for name, root in bench.data.found:
        for case in DATASETS[name].find(root):
            if case.image.exists() and case.image.suffix != ".npz":  # an archive of single slices
                set_name = _set_of(case) if name == "csv" else name
                n_cts[set_name] += 1
                n_masks[set_name] += case.lesion_mask is not None and case.lesion_mask.exists()
    return n_cts, n_masks


def _set_of(case: Case) -> str:
    names = [line.name for line in TABLE1 if line.name]
    return next((name for name in names if case.case_id.lower().startswith(name)), "CSV lists")


def _at_hand(record: dict[str, str | int]) -> str:
    if "n_cts" not in record:
        return "not read by normnet"
    return (
        f"{record['n_cts']} CTs, {record['n_lesion_masks']} lesion masks"
        if record["n_cts"]
        else "-"
    )
