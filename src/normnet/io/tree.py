"""The files below a folder: links are followed once, and nothing is left out without a word."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from normnet.errors import InputError, ResourceError
from normnet.io.limits import MAX_FILES, MAX_TREE_FILES

_SHOWN = 5  # names in one line


@dataclass(frozen=True)
class Fault:
    """A file or folder that cannot be read.

    Attributes:
        path: Where it lies.
        found: What is wrong, as in "the file is empty (0 bytes)".
        code: Id of the error.
    """

    path: Path
    found: str
    code: str = "NN-FILE-001"


@dataclass
class Tree:
    """What lies below a folder.

    Attributes:
        files: Regular files that hold at least one byte, in the order of their names. Files of a
            folder come before those of its sub-folders, linked folders come last.
        faults: Empty files, links that lead nowhere, folders that cannot be listed.
        special: Pipes, devices and sockets.
        again: Links to folders that are read by another path.
    """

    files: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    special: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """One line per kind of entry that is left out."""
        return [
            f"{len(paths)} {kind}: {names_of(paths)}"
            for kind, paths in (
                ("pipes, devices or sockets left out", self.special),
                ("links to folders that are read already left out", self.again),
            )
            if paths
        ]


def names_of(paths: list[Path]) -> str:
    """The names of some paths, as a short list for one line."""
    names = [path.name for path in paths]
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def walk(folder: Path) -> Tree:
    """List a folder and its sub-folders without hidden ones; no file is opened.

    A link to a folder is followed, but no folder is listed twice, so that circles end.

    Raises:
        InputError: NN-FILE-001 if the folder itself cannot be listed.
        ResourceError: NN-RES-002 if there are too many files.
    """
    tree = Tree()
    seen = {_identity(folder.stat())}
    above = {_identity(parent.stat()) for parent in folder.resolve().parents}
    waiting = [folder]
    links: list[Path] = []
    while waiting or links:
        if not waiting:
            link = links.pop(0)
            identity = _identity(link.stat())
            if identity in seen or identity in above:
                tree.again.append(link)
                continue
            seen.add(identity)
            waiting.append(link)
        current = waiting.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            if current == folder:
                raise InputError(
                    "NN-FILE-001", "the folder cannot be read", folder.name, "check its permissions"
                ) from error
            found = f"the folder cannot be read ({error.strerror})"
            tree.faults.append(Fault(current, found))
            continue
        below = list(_sort_entries(entries, tree, links))
        seen.update(_identity(path.stat()) for path in below)
        waiting += reversed(below)
        if len(entries) > MAX_FILES or len(tree.files) > MAX_TREE_FILES:
            limit = MAX_FILES if len(entries) > MAX_FILES else MAX_TREE_FILES
            raise ResourceError(
                "NN-RES-002", f"more than {limit} files", current.name, "give smaller folders"
            )
    return tree


def _sort_entries(entries: list[os.DirEntry[str]], tree: Tree, links: list[Path]) -> Iterator[Path]:
    """Put each entry where it belongs; yield the folders."""
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith((".", "__MACOSX")):
            continue
        try:
            status = entry.stat()
        except OSError as error:
            link = "the link leads nowhere"
            found = link if entry.is_symlink() else f"it cannot be read ({error.strerror})"
            tree.faults.append(Fault(path, found))
            continue
        if stat.S_ISDIR(status.st_mode):
            if entry.is_symlink():
                links.append(path)
            else:
                yield path
        elif not stat.S_ISREG(status.st_mode):
            tree.special.append(path)
        elif status.st_size == 0:
            tree.faults.append(Fault(path, "the file is empty (0 bytes)", "NN-FILE-002"))
        else:
            tree.files.append(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
