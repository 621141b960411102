"""CTs on a storage that fsspec knows, such as ``s3://``: found by names, fetched one at a time.

Inside the program a remote file has a path, too: ``/s3:/bucket/ct.nii.gz``. Nothing is read before
it is fetched, so each image, each zip archive, and each folder of DICOM files is taken as one scan.

Error ids: NN-NET-008 the storage cannot be read, 009 it cannot be written; NN-CLI-004 a library is
missing.
"""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from normnet.errors import ConfigError, InputError, NormNetError, OutputError, ResourceError
from normnet.io.census import Item, take_census
from normnet.io.choice import choose_one, choose_scans
from normnet.io.fingerprint import digest_of
from normnet.io.formats import has_image_suffix, is_detached_header
from normnet.io.limits import MAX_TREE_FILES

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://.+")
_DICOM_NAME = re.compile(r".*\.(dcm|dicom|ima|\d+)|[^.]*\d[^.]*", re.IGNORECASE)
# What a storage says of the bytes of a file; the first that it has is taken.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "created")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def is_address(text: str) -> bool:
    """Whether a text is an address such as ``s3://bucket/folder`` and no path."""
    return _ADDRESS.fullmatch(text) is not None


def open_storage(address: str) -> tuple[Any, str]:
    """The file system of an address, without what it remembers, and the path in it."""
    from fsspec.core import url_to_fs

    with named_errors(address):
        storage, path = url_to_fs(address)
    storage.invalidate_cache()
    return storage, path.rstrip("/")


@contextmanager
def named_errors(address: str, writing: bool = False) -> Iterator[None]:
    """Turn what a storage raises into errors with an id; they show the last name of the address."""
    where = address.rstrip("/").rpartition("/")[2]
    try:
        yield
    except (NormNetError, MemoryError):
        raise
    except ImportError as error:
        found = f"a library for {address.partition(':')[0]}:// is missing"
        raise ConfigError("NN-CLI-004", found, "", "pip install 'normnet[cluster]'") from error
    except Exception as error:  # each storage has its own
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise
        if isinstance(error, FileNotFoundError) and not writing:
            found, todo = "no such file or folder", "check the address"
            raise InputError("NN-FILE-001", found, where, todo) from error
        todo = "check address, endpoint and credentials"
        kind = type(error).__name__
        if writing:
            found = f"the remote storage cannot be written ({kind})"
            raise OutputError("NN-NET-009", found, where, todo) from error
        found = f"the remote storage cannot be read ({kind})"
        raise InputError("NN-NET-008", found, where, todo) from error


def list_files(address: str) -> dict[str, dict[str, Any]]:
    """All files at an address and below it, by their paths from there; ``""`` is the address.

    Returns:
        What the storage says of each; empty if there is nothing.

    Raises:
        NormNetError: If it cannot be listed.
        ResourceError: NN-RES-002 if there are too many files.
    """
    storage, top = open_storage(address)
    with named_errors(address):
        found = storage.find(top, detail=True)
    if len(found) > MAX_TREE_FILES:
        raise ResourceError(
            "NN-RES-002", f"more than {MAX_TREE_FILES} files", top, "give smaller folders"
        )
    return {path[len(top) :].strip("/"): about for path, about in sorted(found.items())}


def find_remote(
    address: str, result_names: Collection[str] = (), marks: Collection[str] = ()
) -> list[Item]:
    """The scans at an address and below it, as far as names tell.

    Args:
        address: Of a file or a folder.
        result_names: Names of files of a result, which are no inputs.
        marks: Names of files of which each tells that a folder is a result.

    Returns:
        Items whose ``content`` follows from what the storage says of their files.

    Raises:
        NormNetError: NN-FILE-001 if there is nothing, NN-FILE-008 if nothing can be a scan; as
            ``list_files``.
    """
    files = list_files(address)
    if not files:
        where = address.rstrip("/").rpartition("/")[2]
        raise InputError("NN-FILE-001", "no such file or folder", where, "check the address")
    root = _path_of(address)
    if "" in files:
        return [_single(root, address, files)]
    results = {str(Path(name).parent) for name in files if Path(name).name in marks}
    folders: dict[Path, list[Path]] = defaultdict(list)
    for name in files:
        path = Path(name)
        is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        is_result = path.name in result_names and str(path.parent) in results
        if not (is_hidden or is_result):
            folders[path.parent].append(path)
    items = []
    for folder, paths in folders.items():
        items += [
            _item(root / path, root, [root / one for one in _parts(path, paths)], files, root)
            for path in paths
            if has_image_suffix(path) or path.suffix.lower() == ".zip"
        ]
        slices = [root / path for path in paths if _may_be_dicom(path)]
        if slices:
            items.append(_item(root / folder, root, slices, files, root))
    if not items:
        raise InputError(
            "NN-FILE-008", "no CT in the folder", root.name, "give DICOM, NIfTI, NRRD or MetaImage"
        )
    return items


def _single(root: Path, address: str, files: dict[str, dict[str, Any]]) -> Item:
    """The scan of a file that was given itself; its voxels may lie beside it."""
    if not is_detached_header(root):
        return _item(root, root, [root], files, root)
    beside = list_files(address.rstrip("/").rpartition("/")[0])
    near = {Path(name): about for name, about in beside.items() if "/" not in name}
    names = _parts(Path(root.name), list(near))
    found = {name.as_posix(): near[name] for name in names}
    return replace(
        _item(root, root.parent, [root.parent / name for name in names], found, root.parent),
        root=root,
    )


def _parts(path: Path, beside: list[Path]) -> list[Path]:
    """The files of an image: itself, and its voxels if they lie in a second file."""
    if not is_detached_header(path):
        return [path]
    return [one for one in beside if one.name.split(".")[0] == path.name.split(".")[0]]


def _may_be_dicom(path: Path) -> bool:
    is_image = has_image_suffix(path) or path.suffix.lower() == ".zip"
    return not is_image and _DICOM_NAME.fullmatch(path.name) is not None


def _item(
    path: Path, root: Path, paths: list[Path], files: dict[str, dict[str, Any]], top: Path
) -> Item:
    said = []
    for one in paths:
        name = one.relative_to(top).as_posix()
        about = files["" if name == "." else name]
        stamp = next((str(about[key]) for key in _STAMPS if about.get(key)), "")
        said.append([one.relative_to(path.parent).as_posix(), about.get("size"), stamp])
    return Item(path, root, tuple(paths), "", content=digest_of(said))


def _path_of(address: str) -> Path:
    scheme, _, rest = address.partition("://")
    return Path(f"/{scheme}:", *(part for part in rest.split("/") if part not in ("", ".", "..")))


def _address_of(path: Path) -> str:
    return f"{path.parts[1]}//{'/'.join(path.parts[2:])}"


@contextmanager
def fetched(item: Item) -> Iterator[Path]:
    """The files of a remote scan, in a private folder that is removed afterwards.

    Yields:
        The folder, named as the remote one.

    Raises:
        NormNetError: If a file cannot be fetched.
    """
    top = item.path.parent if item.path in item.files else item.path
    with TemporaryDirectory(prefix="normnet-") as place:
        folder = Path(place, top.name)
        local = [folder / path.relative_to(top) for path in item.files]
        for path in local:
            path.parent.mkdir(parents=True, exist_ok=True)
        address = _address_of(item.path)
        storage, _ = open_storage(address)
        with named_errors(address):
            storage.get([_address_of(path) for path in item.files], [str(path) for path in local])
        yield folder


@contextmanager
def brought_here(item: Item, series: str | None) -> Iterator[Item]:
    """A scan on this machine: itself, or what was fetched of a remote one, as long as it is used.

    Args:
        item: Of the census, or as made by ``find_remote``.
        series: SeriesInstanceUID, or ``auto``.

    Raises:
        NormNetError: As ``fetched`` and ``find_local``.
    """
    if not item.content:
        yield item
        return
    with fetched(item) as folder:
        yield find_local(item, folder, series)


def find_local(item: Item, folder: Path, series: str | None) -> Item:
    """The scan among the fetched files of a remote one.

    Args:
        item: As made by ``find_remote``.
        folder: As yielded by ``fetched``.
        series: SeriesInstanceUID, or ``auto``.

    Raises:
        InputError: NN-FILE-008 if it is no CT.
    """
    place = folder / item.path.name if item.path == item.root else folder
    found = choose_scans(take_census([place]), series)
    return choose_one(found, None, place)
