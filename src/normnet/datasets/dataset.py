"""What is known of a data set, and how the files of its folders are listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normnet.datasets.manifest import Case
from normnet.io.formats import has_image_suffix
from normnet.io.read import case_id_of

Role = Literal["normal", "lesions", "lungs"]


@dataclass(frozen=True)
class Dataset:
    """A data set; nothing is read before ``find`` is called.

    Attributes:
        name: On the command line.
        label: In tables.
        title: What its authors call it.
        role: What its CTs are for: ``normal`` to learn normal lungs from, ``lesions`` to test the
            segmentation on, ``lungs`` to train the lung segmenter on. None if they are not used, or
            if every case tells its own role.
        n_volumes: Number of CTs in it, as published; 0 if it is open.
        table1: Its quantity in Table I of the paper; empty if the table does not list it.
        use: What the paper does with it.
        licence: As far as it is known; ask the source before you share anything.
        source: Public page or DOI to get it from.
        layout: Its folders, one line each.
        markers: Globs below its root; a folder with a match for any of them is this data set.
        expects: Masks that every case of it has: ``lung_mask``, ``lesion_mask``.
        find: Returns all cases below a root in the order of their names, also those that are left
            out and those that lack a file.
        rank: Data sets with a lower rank are listed first.
    """

    name: str
    label: str
    title: str
    role: Role | None
    n_volumes: int
    table1: str
    use: str
    licence: str
    source: str
    layout: tuple[str, ...]
    markers: tuple[str, ...]
    expects: tuple[str, ...]
    find: Callable[[Path], list[Case]]
    rank: int = 100


def images_of(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their name without suffix, without hidden files.

    The result is empty if there is no such folder.
    """
    if not folder.is_dir():
        return {}
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    return {case_id_of(path): path for path in files if has_image_suffix(path)}


def image_or_expected(images: dict[str, Path], name: str, folder: Path) -> Path:
    """The image of that name, or the path where it should be."""
    return images.get(name, folder / f"{name}.nii.gz")
