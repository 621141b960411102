"""Results on a remote storage such as ``s3://``: written whole on this machine, then sent.

The storage has no locks and no renaming, so a result takes its place in this order: a hidden note
lists what is sent, the old ``result.json`` goes, the files are sent, the new ``result.json``
follows, the note goes. A reader who finds a ``result.json`` has the whole result. If the sending is
cut off, the note tells the next run which files are ours.

Error ids: NN-OUT-015 a file that normnet did not write.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from normnet.io.atomic import foreign_file, write_bytes
from normnet.io.remote import list_files, named_errors, open_storage
from normnet.results.schema import FILES, REQUESTED, RESULT, is_own
from normnet.results.table import PARQUET, TABLE

NOTE = ".normnet-sending.json"


class RemoteResults:
    """The results at an address, and a folder on this machine that knows of them.

    Args:
        address: Of the folder of all results.
        folder: On this machine; it gets the ``result.json`` of each result, and the tables.
    """

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address.rstrip("/"), folder
        self._names: dict[str, set[str]] = {}  # files of each result folder

    def pull(self) -> None:
        """Fetch each ``result.json``, and the tables, where they are not on this machine yet.

        Raises:
            NormNetError: If the storage cannot be read.
        """
        names: dict[str, set[str]] = defaultdict(set)
        wanted = []
        for path in map(PurePosixPath, list_files(self.address)):
            if len(path.parts) == 2:
                names[path.parts[0]].add(path.name)
            is_wanted = len(path.parts) == 2 and path.name == RESULT
            if is_wanted or str(path) in (TABLE, PARQUET):
                wanted.append(path)
        self._names = dict(names)
        missing = [path for path in wanted if not (self.folder / path).exists()]
        for path in missing:
            (self.folder / path).parent.mkdir(exist_ok=True)
        if missing:
            storage, top = open_storage(self.address)
            with named_errors(self.address):
                # One that is gone by now is being replaced by another process.
                found = storage.cat([f"{top}/{path}" for path in missing], on_error="omit")
                for path in missing:
                    if (content := found.get(f"{top}/{path}")) is not None:
                        write_bytes(self.folder / path, content)

    def has(self, folder: Path, names: Collection[str]) -> bool:
        """Whether the files of a result were there when the storage was last listed."""
        return {*names, RESULT} <= self._names.get(folder.name, set())

    def push(self, folder: Path) -> None:
        """Send a complete result in the place of an older one.

        Args:
            folder: Of the result on this machine.

        Raises:
            OutputError: NN-NET-009 if it cannot be sent; NN-OUT-015 if a file is in the way that an
                older result does not list.
        """
        storage, top = open_storage(self.address)
        target = f"{top}/{folder.name}"
        new = [name for name in (*FILES, *REQUESTED) if (folder / name).exists()]
        with named_errors(self.address, writing=True):
            present: set[str] = set()
            with suppress(FileNotFoundError):
                present = {path.rpartition("/")[2] for path in storage.ls(target, detail=False)}
            old = _own_files(storage, target, present, folder)
            sending = {"files": sorted({*old, *new})}
            storage.pipe_file(f"{target}/{NOTE}", json.dumps(sending).encode())
            if RESULT in present:
                storage.rm_file(f"{target}/{RESULT}")
            if new:
                storage.put([str(folder / name) for name in new], [f"{target}/{n}" for n in new])
            for name in (old & present) - set(new):
                storage.rm_file(f"{target}/{name}")
            storage.put_file(str(folder / RESULT), f"{target}/{RESULT}")
            storage.rm_file(f"{target}/{NOTE}")

    def push_tables(self) -> None:
        """Send the tables of all results.

        Raises:
            OutputError: NN-NET-009.
        """
        storage, top = open_storage(self.address)
        with named_errors(self.address, writing=True):
            for name in (TABLE, PARQUET):
                if (self.folder / name).exists():
                    storage.put_file(str(self.folder / name), f"{top}/{name}")


def _own_files(storage: Any, target: str, present: set[str], folder: Path) -> set[str]:
    """The files at a place that an older result lists, or the note of one that was cut off.

    Raises:
        OutputError: NN-OUT-015 if there are others which a result would replace.
    """
    own: set[str] = set()
    for name in {RESULT, NOTE} & present:
        content: Any = None
        with suppress(ValueError):
            content = json.loads(storage.cat_file(f"{target}/{name}"))
        if name == RESULT and not (isinstance(content, dict) and is_own(content)):
            raise foreign_file(folder / RESULT)
        listed = content.get("files", ()) if isinstance(content, dict) else ()
        own |= {file for file in listed if isinstance(file, str)}
    for name in sorted({*FILES, *REQUESTED} & present - own):
        raise foreign_file(folder / name)
    return own
