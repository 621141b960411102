"""Zip archives: their list of members is checked, and members are read without their own paths.

A member of an archive has a path, too: ``scans.zip/P001/ct.nii.gz``. Nothing is unpacked but into a
private folder that is removed afterwards.
"""

from __future__ import annotations

import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType

from normnet.errors import InputError, NormNetError, ResourceError
from normnet.io.limits import MAX_TREE_FILES

MAX_MEMBER_BYTES = 2**32 + 2**24  # more than the voxels of any scan within the limits
MAX_RATIO = 200  # of all members together; 8-bit masks reach it, CTs never do
_MIN_BOMB_BYTES = 2**26  # a smaller archive may have any ratio
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL_HEADER_BYTES = 30
_CHUNK_BYTES = 2**20
_REPACK = "unpack it, or pack it again"
_AGAIN = "copy or download it again"


def is_archive(path: Path) -> bool:
    """Whether a file starts as zip archives do; False for what cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as handle:
            return handle.read(4) in _MAGIC
    except OSError:
        return False


def split_member(path: Path) -> tuple[Path, str] | None:
    """The archive and the member (or folder of members) of a path; None for any other path."""
    for parent in path.parents:
        if parent.is_file():
            return (parent, path.relative_to(parent).as_posix()) if is_archive(parent) else None
    return None


class Archive:
    """An open zip archive whose list of members was checked; a context manager.

    Args:
        path: The archive.

    Attributes:
        path: The archive.
        sizes: Name and number of bytes of each file in it.

    Raises:
        InputError: NN-FILE-003 damaged, 031 unsafe name or link, 032 encrypted, 033 two members of
            one name, 009 another compression.
        ResourceError: NN-RES-031 inflates without measure, or members that overlap.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(path) from error
        try:
            members = self._zip.infolist()
            _check_names(members, path.name)
            _check_sizes(members, path)
            self._check_places(members)
        except BaseException:
            self._zip.close()
            raise
        # Named as paths are, which know no "./" and no "//".
        self._members = {
            str(PurePosixPath(member.filename)): member for member in members if not member.is_dir()
        }
        self.sizes = {name: member.file_size for name, member in self._members.items()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def head(self, name: str, n_bytes: int) -> bytes:
        """The first bytes of a member.

        Raises:
            InputError: NN-FILE-003 if it is damaged.
        """
        with self._reading(name), self._zip.open(self._members[name]) as stream:
            return stream.read(n_bytes)

    def sums(self) -> dict[str, tuple[int, int]]:
        """CRC-32 and number of bytes of each file, as the archive states them."""
        return {name: (member.CRC, member.file_size) for name, member in self._members.items()}

    def unpack(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Write members below a folder.

        Raises:
            InputError: NN-FILE-003 if a member is damaged.
            ResourceError: NN-RES-031 if a member holds more bytes than the archive states.
        """
        written = []
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._reading(name),
                self._zip.open(self._members[name]) as stream,
                target.open("xb") as handle,
            ):
                n_left = self.sizes[name]
                while chunk := stream.read(_CHUNK_BYTES):
                    n_left -= len(chunk)
                    if n_left < 0:
                        raise _bomb("a member is larger than the archive states", self.path.name)
                    handle.write(chunk)
            written.append(target)
        return written

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except NormNetError:
            raise
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            NotImplementedError,  # patched or strongly encrypted members
        ) as error:
            raise InputError(
                "NN-FILE-003",
                "a damaged member of the zip archive",
                f"{self.path.name}/{name}",
                _AGAIN,
            ) from error

    def _check_places(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse members that share bytes, or whose two headers differ."""
        where = self.path.name
        ordered = sorted(members, key=lambda member: member.header_offset)
        ends = [member.header_offset for member in ordered[1:]] + [self._zip.start_dir]
        with self.path.open("rb") as handle:
            for member, end in zip(ordered, ends, strict=True):
                handle.seek(member.header_offset)
                header = handle.read(_LOCAL_HEADER_BYTES)
                if len(header) < _LOCAL_HEADER_BYTES or header[:4] != _MAGIC[0]:
                    raise _damaged(self.path)
                flags, packed, size = (
                    int.from_bytes(header[n : n + k], "little")
                    for n, k in ((6, 2), (18, 4), (22, 4))
                )
                n_extra = sum(int.from_bytes(header[n : n + 2], "little") for n in (26, 28))
                if flags & 1:
                    raise _encrypted(where)
                start = member.header_offset + _LOCAL_HEADER_BYTES + n_extra
                if start + member.compress_size > end:
                    raise _bomb("members that overlap", where)
                sizes = ((packed, member.compress_size), (size, member.file_size))
                if not flags & 8 and any(
                    local not in (0, 2**32 - 1, listed) for local, listed in sizes
                ):
                    raise _bomb("a member with two different sizes", where)


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that can be opened: members of an archive are unpacked while the block runs.

    Args:
        paths: Files, or members of one archive.

    Raises:
        NormNetError: As ``Archive``.
    """
    place = split_member(paths[0]) if paths and not paths[0].exists() else None
    if place is None:
        yield list(paths)
        return
    with tempfile.TemporaryDirectory(prefix="normnet-") as folder, Archive(place[0]) as archive:
        names = [path.relative_to(place[0]).as_posix() for path in paths]
        yield archive.unpack(names, Path(folder))


def _check_names(members: list[zipfile.ZipInfo], where: str) -> None:
    names = set()
    for member in members:
        name = member.orig_filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        unsafe = (
            not name
            or "\\" in name
            or any(ord(c) < 32 for c in name)
            or name.startswith("/")
            or re.match(r"[A-Za-z]:", name)
            or ".." in PurePosixPath(name).parts
        )
        if unsafe:
            raise InputError(
                "NN-FILE-031", "a zip archive with a member outside of it", where, _REPACK
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError("NN-FILE-031", "a zip archive with a link in it", where, _REPACK)
        if member.flag_bits & 1:
            raise _encrypted(where)
        key = str(PurePosixPath(name))
        if key in names:
            raise InputError(
                "NN-FILE-033", "two members of one name in the zip archive", where, _REPACK
            )
        names.add(key)


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    if len(members) > MAX_TREE_FILES:
        raise ResourceError(
            "NN-RES-002", f"more than {MAX_TREE_FILES} files", path.name, "give smaller archives"
        )
    n_bytes = sum(member.file_size for member in members)
    if n_bytes > max(_MIN_BOMB_BYTES, MAX_RATIO * path.stat().st_size):
        raise _bomb(f"it inflates to more than {MAX_RATIO} times its size", path.name)
    if any(member.file_size > MAX_MEMBER_BYTES for member in members):
        raise _bomb(f"a member of more than {MAX_MEMBER_BYTES / 2**30:.1f} GiB", path.name)
    kinds = {member.compress_type for member in members}
    if kinds - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise InputError(
            "NN-FILE-009", "a zip archive of another compression than deflate", path.name, _REPACK
        )


def _damaged(path: Path) -> InputError:
    return InputError("NN-FILE-003", "a damaged zip archive", path.name, _AGAIN)


def _encrypted(where: str) -> InputError:
    return InputError("NN-FILE-032", "an encrypted zip archive", where, "unpack it first")


def _bomb(found: str, where: str) -> ResourceError:
    return ResourceError("NN-RES-031", f"a zip archive that is a trap: {found}", where, _REPACK)
