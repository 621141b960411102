"""What is known of a public data set, and how its folders are listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from normnet.datasets.manifest import Case
from normnet.io.read import case_id_of, has_image_suffix


@dataclass(frozen=True)
class Dataset:
    """A public data set; nothing is read before ``find`` is called.

    Attributes:
        name: On the command line.
        title: What its authors call it.
        n_volumes: CTs in it, as published; 0 where that is open.
        table1: Its quantity in Table I of the paper; empty where the table does not list it.
        use: In the paper.
        licence: As far as it is known; ask the source before sharing anything.
        source: Public page or DOI to get it from.
        layout: Its folders, a line each.
        markers: Globs below its root, any of which tells it from others.
        expects: Masks that every case of it has: ``lung_mask``, ``lesion_mask``.
        find: All cases below a root, also those that are left out or lack a file, in the order of
            their names.
    """

    name: str
    title: str
    n_volumes: int
    table1: str
    use: str
    licence: str
    source: str
    layout: tuple[str, ...]
    markers: tuple[str, ...]
    expects: tuple[str, ...]
    find: Callable[[Path], list[Case]]


def images_of(folder: Path) -> dict[str, Path]:
    """Image files of a folder by name without suffix; empty without the folder. Hidden files are none."""
    if not folder.is_dir():
        return {}
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    return {case_id_of(path): path for path in files if has_image_suffix(path)}


def image_or_expected(images: dict[str, Path], name: str, folder: Path) -> Path:
    """The image of that name, or the file that should be there."""
    return images.get(name, folder / f"{name}.nii.gz")
