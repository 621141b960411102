"""What lies below some paths: which series and images there are, and which can be a chest CT.

Only headers are read, and of images that may be masks a few voxels. ``normnet segment``,
``prepare``, ``train`` and ``info`` start from this list; ``io.choice`` chooses from it.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from normnet.errors import InputError, NormNetError
from normnet.io.archive import Archive, is_archive, split_member, unpacked
from normnet.io.dicom.groups import Series, series_of
from normnet.io.dicom.summary import CUT_OFF, Summary, summarise
from normnet.io.formats import has_image_suffix
from normnet.io.labels import holds_labels
from normnet.io.limits import MAX_INFLATED_DICOM_BYTES
from normnet.io.sniff import format_of, starts_as_dicom
from normnet.io.tree import Fault, names_of, walk

LABELS = "labels, not HU"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_HEAD_BYTES = 2**18  # of a DICOM file in an archive; its header ends before
_SLACK_BYTES = 2**26  # of a DICOM file, beside its image
_COPY_AGAIN = "copy or download it again"


@dataclass(frozen=True, eq=False)
class Item:
    """One series or image.

    Attributes:
        path: The scan as a user would give it: a file, a folder, or a member of a zip archive.
        root: The argument below which it was found.
        files: Its files.
        kind: ``"DICOM"``, or the name of an image format; empty if it is unknown.
        modality: As ``CT``; empty if it is unknown.
        series_uid: SeriesInstanceUID; empty for an image.
        patient, study: Hashes that tell patients and studies apart.
        n_slices: Number of slices; 0 if it is unknown.
        thickness_mm: Of a slice; NaN if it is unknown.
        length_mm: From the first to the last slice; NaN if it is unknown.
        has_position: Whether the slices know where they lie.
        description, kernel, body_part: For people, without names of persons.
        derived: Whether it was computed from other images.
        why_not: Why it is no CT of the chest; empty if it can be one.
        weak_why_not: Why another series of the same study is taken, if there is one.
        warnings: What was accepted, one line each.
        error: What reading it ends in, where that is known already.
        content: What a remote storage says of the bytes of its files, as a sum; empty for a local
            scan. Such a scan has to be fetched first, see ``io.remote``.
    """

    path: Path
    root: Path
    files: tuple[Path, ...] = ()
    kind: str = "DICOM"
    modality: str = ""
    series_uid: str = ""
    patient: str = ""
    study: str = ""
    n_slices: int = 0
    thickness_mm: float = math.nan
    length_mm: float = math.nan
    has_position: bool = False
    description: str = ""
    kernel: str = ""
    body_part: str = ""
    derived: bool = False
    why_not: str = ""
    weak_why_not: str = ""
    warnings: tuple[str, ...] = ()
    error: NormNetError | None = None
    content: str = ""

    @property
    def source(self) -> Path:
        """Its path, from the name of the given argument on."""
        name = self.root.name if self.root.name not in ("", "..") else self.root.resolve().name
        return Path(name, self.path.relative_to(self.root))


@dataclass
class Census:
    """Everything that was found.

    Attributes:
        roots: The paths that were searched.
        items: Series and images, folder by folder.
        notes: Files and folders that belong to no item, one line per kind.
    """

    roots: list[Path]
    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def take_census(
    paths: Iterable[Path | str], is_result: Callable[[Path], bool] = lambda path: False
) -> Census:
    """List the series and images at some paths and below them.

    Args:
        paths: Files, folders, zip archives, or members of archives.
        is_result: Whether an image in a folder is a result of an earlier run, and no input.

    Raises:
        InputError: NN-FILE-001 if a path is empty, missing or no regular file.
        ResourceError: NN-RES-002 if there are too many files.
    """
    paths = list(paths)
    if "" in paths:  # as a Path it would be the current folder
        raise InputError("NN-FILE-001", "an empty path", "", "give a file or folder")
    census = Census(list(dict.fromkeys(map(Path, paths))))
    for path in census.roots:
        place = None if path.exists() else split_member(path)
        if place is not None or is_archive(path):
            archive, below = place or (path, "")
            _search_archive(archive, path, census, below)
        elif path.is_dir():
            _search_folder(path, census, is_result)
        elif path.is_file():
            census.items.append(_given_file(path))
        else:
            found = "not a regular file" if path.exists() else "no such file or folder"
            raise InputError("NN-FILE-001", found, path.name, "check the path")
    unique: dict[tuple[Path, str], Item] = {}
    for item in census.items:
        key = (item.path, item.series_uid)
        if key not in unique or item.path == item.root:  # a file that the user named
            unique[key] = item
    census.items = list(unique.values())
    return census


def _given_file(path: Path) -> Item:
    """A file that the user named: it is a scan, whatever it holds."""
    try:
        if format_of(path) is not None:
            return replace(_image(path, path), why_not="")
        with path.open("rb") as handle:
            found = summarise(handle, path)
    except (NormNetError, OSError):
        return Item(path, path, (path,), "")  # reading it says what is wrong
    if found is None:
        return Item(path, path, (path,))
    item = _series_item(Series(path, [found]), path)
    return replace(item, why_not="", weak_why_not="")


def _search_folder(folder: Path, census: Census, is_result: Callable[[Path], bool]) -> None:
    tree = walk(folder)
    files = _Files(folder, folder, tree.faults)
    for path in tree.files:
        if has_image_suffix(path):
            if not is_result(path):
                files.items.append(_image(path, folder))
        elif path.suffix.lower() == ".zip":
            _search_archive(path, folder, census)
        elif not is_result(path):
            files.add(path)
    census.items += files.to_items()
    census.notes += [f"{folder.name}: {note}" for note in (*tree.notes(), *files.notes)]


def _search_archive(path: Path, root: Path, census: Census, below: str = "") -> None:
    """The items of a zip archive, of a folder in it, or of one member."""
    files = _Files(path, root, [])
    try:
        with Archive(path) as archive:
            names = _visible_members(archive, below)
            for name in names:
                if has_image_suffix(path / name):
                    files.items.append(_image_in_archive(path / name, root))
                else:
                    files.add_member(archive, name)
    except (NormNetError, OSError) as error:
        named = InputError("NN-FILE-001", "the file cannot be read", path.name)
        named_error = error if isinstance(error, NormNetError) else named
        census.items.append(Item(path, root, (), "zip", error=named_error))
        return
    census.items += files.to_items()
    census.notes += [f"{path.name}: {note}" for note in files.notes]


def _visible_members(archive: Archive, below: str) -> list[str]:
    names = [
        name
        for name in sorted(archive.sizes)
        if not below or name == below or name.startswith(f"{below}/")
    ]
    if below and not names:
        raise InputError("NN-FILE-001", "no such file in the zip archive", below)
    return [
        name
        for name in names
        if not any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)
    ]


# --- images


def _image(path: Path, root: Path, at: Path | None = None) -> Item:
    """The item of an image file.

    Args:
        path: Of the item.
        root: Of the item.
        at: Where the file lies, if it was unpacked.
    """
    at = at or path
    item = Item(path, root, (path,), "")
    try:
        known = format_of(at)
        if known is None or known.peek is None:
            return replace(item, kind=known.name if known else "DICOM")
        item = replace(item, kind=known.name)
        header = known.peek(at)
        why_not = LABELS if holds_labels(header) else ""
    except (NormNetError, OSError):
        return item  # reading it says what is wrong
    rows = [abs(row) for row in header.geometry.direction[0]]
    axis = rows.index(max(rows))
    spacing, n_slices = header.geometry.spacing_mm[axis], header.shape[axis]
    error = None
    if header.data.stat().st_size > header.max_bytes:
        found = "more data than its header says"
        error = InputError("NN-FILE-005", found, path.name, _COPY_AGAIN)
    return replace(
        item,
        n_slices=n_slices,
        thickness_mm=round(spacing, 4),
        length_mm=(n_slices - 1) * spacing,
        has_position=True,
        why_not=why_not,
        error=error,
    )


def _image_in_archive(path: Path, root: Path) -> Item:
    """The item of an image in an archive, which is unpacked for a moment."""
    try:
        with unpacked([path]) as files:
            return replace(_image(path, root, at=files[0]), path=path)
    except NormNetError as error:
        return Item(path, root, (path,), "", error=error)


# --- DICOM files


class _Files:
    """The files of a folder tree or of an archive that are no images: DICOM, and anything else.

    Args:
        top: The folder or archive.
        root: The argument of the user.
        faults: What cannot be read in it.

    Attributes:
        items: Images, and then series.
        notes: Faults that belong to no series.
    """

    def __init__(self, top: Path, root: Path, faults: list[Fault]):
        self.top, self.root = top, root
        self.items: list[Item] = []
        self.notes: list[str] = []
        self._faults = list(faults)
        self._others: list[Path] = []  # of another format
        self._summaries: list[Summary] = []
        self._errors: dict[Path, list[NormNetError]] = defaultdict(list)  # by folder

    def add(self, path: Path) -> None:
        """Take a file of a folder."""
        try:
            with path.open("rb") as handle:
                if not starts_as_dicom(handle.read(132)):
                    self._others.append(path)
                    return
                handle.seek(0)
                self._add_dicom(handle, path)
        except OSError as error:
            self._faults.append(Fault(path, f"the file cannot be read ({error.strerror})"))

    def add_member(self, archive: Archive, name: str) -> None:
        """Take a member of an archive."""
        path = archive.path / name
        if archive.sizes[name] == 0:
            self._faults.append(Fault(path, "the file is empty (0 bytes)", "NN-FILE-002"))
            return
        try:
            head = archive.head(name, _HEAD_BYTES)
        except NormNetError as error:
            self._errors[path.parent].append(error)
            return
        if not starts_as_dicom(head):
            self._others.append(path)
        elif not self._add_dicom(io.BytesIO(head), path) and archive.sizes[name] > _HEAD_BYTES:
            self._summaries.pop()  # the header may be longer
            self._add_dicom(io.BytesIO(archive.head(name, MAX_INFLATED_DICOM_BYTES)), path)

    def _add_dicom(self, handle: io.BufferedReader | io.BytesIO, path: Path) -> bool:
        """Take a DICOM file; False if its header holds no image, or does not end."""
        try:
            summary = summarise(handle, path)
        except NormNetError as error:
            self._errors[path.parent].append(_precise(error, path))
            return True
        if summary is None:
            return True
        self._summaries.append(summary)
        return summary.n_frames > 0 and summary.flaw != CUT_OFF

    def to_items(self) -> list[Item]:
        """Images and series; what cannot be read is an error of the series that it belongs to."""
        for summary in [one for one in self._summaries if one.flaw == CUT_OFF]:
            self._summaries.remove(summary)
            found = "no image in the file, which ends in its header"
            error = InputError("NN-FILE-013", found, summary.path.name, _COPY_AGAIN)
            self._errors[summary.path.parent].append(error)
        patterns: dict[Path, set[str]] = defaultdict(set)
        for summary in self._summaries:
            patterns[summary.path.parent].add(_pattern(summary.path))
        self._judge_others(patterns)
        self._judge_faults(patterns)
        series = series_of(self._summaries)
        n_others = self._count_others({found.folder for found in series})
        items = [self._with_faults(found, n_others[found.folder]) for found in series]
        folders = {file.parent for item in items for file in item.files}
        for place, errors in self._errors.items():
            if place not in folders and place.parent not in folders:
                items.append(Item(place, self.root, error=errors[0]))
        return sorted(self.items + items, key=_order)

    def _with_faults(self, series: Series, n_others: int) -> Item:
        item = _series_item(series, self.root)
        folders = {file.parent for file in item.files}
        errors = [
            error
            for place, found in self._errors.items()
            if place in folders or place.parent in folders
            for error in found
        ]
        warnings = item.warnings
        if n_others:
            note = f"{item.path.name}: {n_others} files that are not DICOM were ignored"
            warnings = (*warnings, note)
        return replace(item, warnings=warnings, error=errors[0] if errors else item.error)

    def _count_others(self, folders: set[Path]) -> Counter[Path]:
        """Files that are not DICOM in and below each of some folders."""
        counts: Counter[Path] = Counter()
        for place, n in Counter(path.parent for path in self._others).items():
            for folder in {place, *place.parents} & folders:
                counts[folder] += n
        return counts

    def _judge_others(self, patterns: dict[Path, set[str]]) -> None:
        """A file with the name of a slice and other content is an error."""
        for path in list(self._others):
            if _is_slice(path, patterns[path.parent]):
                found, todo = "not a DICOM file, despite its name", "remove or replace it"
                self._errors[path.parent].append(InputError("NN-FILE-003", found, path.name, todo))
                self._others.remove(path)

    def _judge_faults(self, patterns: dict[Path, set[str]]) -> None:
        """Unreadable scans, slices and folders are errors; any other file is noted."""
        slices: dict[tuple[Path, str, str], list[Path]] = defaultdict(list)
        strangers = []
        for fault in self._faults:
            path, place = fault.path, fault.path.parent
            error = InputError(fault.code, fault.found, path.name, _COPY_AGAIN)
            if has_image_suffix(path) or path.suffix.lower() == ".zip":
                self.items.append(Item(path, self.root, (), "", error=error))
            elif path.is_dir():
                self._errors[path].append(error)
            elif _is_slice(path, patterns[place]) or (patterns[place] and _has_no_suffix(path)):
                slices[place, fault.found, fault.code].append(path)
            else:
                strangers.append(path)
                self._others.append(path)
        for (place, found, code), paths in slices.items():
            many = f"{len(paths)} of the files: " if len(paths) > 1 else ""
            self._errors[place].append(
                InputError(code, f"{many}{found}", names_of(paths), _COPY_AGAIN)
            )
        if strangers:
            found = f"{len(strangers)} empty or unreadable files left out"
            self.notes.append(f"{found}: {names_of(strangers)}")


def _order(item: Item) -> tuple[tuple[str, ...], str, str]:
    """Folder by folder; images by name, then series."""
    if item.kind == "DICOM":
        return item.path.parts, "\uffff", item.series_uid
    return item.path.parent.parts, item.path.name, ""


def _precise(error: NormNetError, path: Path) -> NormNetError:
    """What the strict reader says of a header that cannot be read."""
    from normnet.io.dicom.header import read_header

    try:
        if path.is_file():
            read_header(path)
    except NormNetError as precise:
        return precise
    return error


def _pattern(path: Path) -> str:
    return re.sub(r"\d+", "#", path.name)


def _is_slice(path: Path, patterns: set[str]) -> bool:
    """Whether a file is named as DICOM files are, or as the DICOM files beside it."""
    if path.name.lower().endswith(_DICOM_SUFFIXES):
        return True
    return "#" in _pattern(path) and _pattern(path) in patterns


def _has_no_suffix(path: Path) -> bool:
    """Whether a name has a number but no suffix; README has no number."""
    suffix = path.suffix.lstrip(".")
    return "#" in _pattern(path) and (not suffix or suffix.isdecimal())


def _series_item(series: Series, root: Path) -> Item:
    """The item of one series; localizers and objects without image among its files are dropped."""
    files, path = series.files, series.folder
    images = [summary for summary in files if not summary.flaw] or files
    first = images[0]
    offsets = [summary.offset_mm for summary in images if math.isfinite(summary.offset_mm)]
    n_slices = sum(summary.n_frames for summary in images)
    length = max(offsets) - min(offsets) if len(offsets) > 1 else math.nan
    if first.n_frames > 1:
        length = n_slices * first.thickness_mm
    warnings = []
    if len({summary.series_uid for summary in images}) > 1:
        warnings.append(f"{path.name}: each slice has its own SeriesInstanceUID; taken as one scan")
    if len(images) < len(files):
        n_other = len(files) - len(images)
        warnings.append(
            f"{path.name}: {n_other} localizers and objects without images were ignored"
        )
    return Item(
        path,
        root,
        tuple(summary.path for summary in images),
        modality=first.modality,
        series_uid=first.series_uid,
        patient=first.patient,
        study=first.study,
        n_slices=n_slices,
        thickness_mm=first.thickness_mm,
        length_mm=length,
        has_position=bool(offsets) or first.weak_flaw != "no position",
        description=first.description,
        kernel=first.kernel,
        body_part=first.body_part,
        derived=first.derived,
        why_not=first.flaw,
        weak_why_not=first.weak_flaw or ("single slice" if n_slices == 1 else ""),
        warnings=tuple(warnings),
        error=_size_error(images),
    )


def _size_error(images: list[Summary]) -> NormNetError | None:
    """NN-FILE-005 if a file is far larger than the image of its header."""
    for summary in images:
        with suppress(OSError):  # a member of an archive has no size of its own
            n_bytes = summary.path.stat().st_size
            if summary.n_image_bytes and n_bytes > 2 * summary.n_image_bytes + _SLACK_BYTES:
                found = f"{n_bytes} bytes, though its image has {summary.n_image_bytes}"
                return InputError("NN-FILE-005", found, summary.path.name, _COPY_AGAIN)
    return None
