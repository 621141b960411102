"""Damages small headers at random and looks for inputs that are read wrongly without a word.

    python -m tests.robustness.fuzz --seed 1 --inputs 100000 --save failing

Every input is the phantom in one of four formats with one change of its header: bits flipped, bytes
inserted, bytes deleted, the end cut off, or a number set to an extreme. Reading it must end in the
phantom, in the phantom with a warning, or in a ``NormNetError``. A change that makes another valid
number of a field that nothing else repeats cannot be noticed; such readings are counted by field.
"""

from __future__ import annotations

import argparse
import gzip
import re
import signal
import struct
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from normnet.errors import NormNetError
from normnet.io import read_ct
from normnet.scan import Scan
from tests import phantoms
from tests.robustness import inputs

MAX_SECONDS = 10.0  # for one input
TOLERANCE_MM = 0.1  # by which a corner of the volume may move unnoticed
# What another valid value of a field changes, where no other field of the file says the same.
MEANINGS = {
    "NIfTI": {"slope": {"voxels"}, "intercept": {"voxels"}},
    "NRRD": {
        "space": {"origin", "orientation"},
        "sizes": {"shape", "voxels"},
        "space directions": {"spacing", "orientation"},
        "space origin": {"origin"},
    },
    "MetaImage": {
        "DimSize": {"shape", "voxels"},
        "ElementSpacing": {"spacing"},
        "TransformMatrix": {"orientation"},
        "Offset": {"origin"},
    },
    "DICOM": {},
    "gzip": {},
}
SHARES = {"NIfTI": 0.3, "NRRD": 0.25, "MetaImage": 0.25, "gzip": 0.05, "DICOM": 0.15}
# Texts in place of a number; the first ones are no number that a header may hold.
IMPOSSIBLE = ("nan", "inf", "-inf", "1e400", "", "x")
EXTREME = ("0", "-0", "-1", "1e-300", "1e300", "65535", "2147483648", "-9223372036854775808")
WRITTEN = re.compile(rb"[-+.,() \w]*")  # bytes that belong to a value and not to the structure


@dataclass(frozen=True)
class Field:
    """One value in a header: where it stands, and how its numbers are stored.

    Attributes:
        name: Of the field.
        start: First byte.
        end: Byte after the last.
        code: Of ``struct``; empty where the value is text.
    """

    name: str
    start: int
    end: int
    code: str = ""


@dataclass(frozen=True)
class Original:
    """The phantom in one format.

    Attributes:
        format: A key of ``MEANINGS``.
        path: Of the file that is damaged, in the folder of the input.
        data: Its bytes.
        n_header: How many of them may be damaged.
        fields: Values in them.
        beside: The other files of the scan.
        read: What ``read_ct`` gets, in that folder.
    """

    format: str
    path: str
    data: bytes
    n_header: int
    fields: tuple[Field, ...]
    read: str
    beside: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes:
        data: Its bytes.
        what: What was done.
        touched: The field whose value was changed; empty where more than one value was.
        impossible: Whether the value is one that no header may hold.
    """

    data: bytes
    what: str
    touched: str = ""
    impossible: bool = False


@dataclass(frozen=True)
class Failure:
    """A damaged input that is not handled as it must be."""

    number: int
    format: str
    what: str
    found: str
    data: bytes

    def __str__(self) -> str:
        return f"input {self.number}, {self.format}, {self.what}: {self.found}"


@dataclass
class Report:
    """What became of all inputs."""

    n_inputs: int = 0
    ends: Counter[str] = field(default_factory=Counter)  # id of the error, or how it was read
    failures: list[Failure] = field(default_factory=list)


class TooSlow(BaseException):
    """No answer within the time limit; no handler of errors may catch it."""


# --- the originals


@cache
def originals() -> tuple[Original, ...]:
    """The phantom in every format."""
    nifti = inputs.nifti_bytes()
    with TemporaryDirectory() as name:
        folder = Path(name)
        texts = [inputs.text_image(f"ct.{end}")(folder).read_bytes() for end in ("nrrd", "mha")]
        series = phantoms.write_dicom(inputs.scan(), folder / "ct")
        slices = {f"ct/{path.name}": path.read_bytes() for path in sorted(series.iterdir())}
        dicom = "ct/0003.dcm"
        values = _dicom_fields(folder / dicom)
    zipped = gzip.compress(nifti, 6, mtime=0)
    n_dicom = slices[dicom].index(b"\xe0\x7f\x10\x00OW") + 12
    return (
        Original("NIfTI", "ct.nii", nifti, 352, _nifti_fields(), "ct.nii"),
        Original("NRRD", "ct.nrrd", texts[0], *_text_fields(texts[0], b":"), "ct.nrrd"),
        Original("MetaImage", "ct.mha", texts[1], *_text_fields(texts[1], b"="), "ct.mha"),
        Original("gzip", "ct.nii.gz", zipped, len(zipped), (), "ct.nii.gz"),
        Original("DICOM", dicom, slices.pop(dicom), n_dicom, values, "ct", slices),
    )


def _nifti_fields() -> tuple[Field, ...]:
    from normnet.io.formats.nifti import _FIELDS

    found = []
    for name, (offset, code) in _FIELDS[348].items():
        count, kind = int(code[:-1] or 1), code[-1]
        if kind == "s":
            found.append(Field(name, offset, offset + count, ""))
            continue
        size = struct.calcsize(kind)
        found += [
            Field(name, offset + n * size, offset + (n + 1) * size, "<" + kind)
            for n in range(count)
        ]
    return tuple(found)


def _text_fields(data: bytes, separator: bytes) -> tuple[int, tuple[Field, ...]]:
    """The length of a text header, and every value after the separator of its line."""
    voxels = inputs.scan().volume_hu.nbytes
    n_header, at, found = len(data) - voxels, 0, []
    for line in data[:n_header].splitlines(keepends=True):
        name, sign, _ = line.partition(separator)
        if sign:
            start = at + len(name) + len(separator)
            found.append(Field(name.decode().strip(), start, at + len(line) - 1))
        at += len(line)
    return n_header, tuple(found)


def _dicom_fields(path: Path) -> tuple[Field, ...]:
    from pydicom import dcmread

    data = dcmread(path, stop_before_pixels=True)
    found = []
    for tag in list(data.keys()):
        raw = data.get_item(tag)
        element = data[tag]
        code = "<H" if element.VR == "US" else ""
        found.append(Field(element.keyword, raw.value_tell, raw.value_tell + raw.length, code))
    return tuple(found)


# --- the damage


def damage(original: Original, rng: np.random.Generator) -> Damage:
    """One random change of the header."""
    kinds = [_flip_bits, _insert, _delete, _cut]
    if original.fields:
        kinds += [_set_extreme, _set_extreme, _flip_in_value]
    return kinds[rng.integers(len(kinds))](original, rng)


def _field_at(original: Original, start: int, end: int, new: bytes) -> str:
    """The field whose value holds these bytes, if the new ones belong to a value."""
    for known in original.fields:
        if known.start <= start and end <= known.end:
            return known.name if known.code or WRITTEN.fullmatch(new) else ""
    return ""


def _flip_bits(original: Original, rng: np.random.Generator) -> Damage:
    return _flip_at(original, int(rng.integers(original.n_header)), rng)


def _flip_in_value(original: Original, rng: np.random.Generator) -> Damage:
    known = original.fields[rng.integers(len(original.fields))]
    return _flip_at(original, int(rng.integers(known.start, max(known.end, known.start + 1))), rng)


def _flip_at(original: Original, at: int, rng: np.random.Generator) -> Damage:
    mask = int(rng.choice([1 << int(rng.integers(8)), int(rng.integers(1, 256))]))
    new = bytes([original.data[at] ^ mask])
    data = original.data[:at] + new + original.data[at + 1 :]
    return Damage(data, f"byte {at} xor {mask:#04x}", _field_at(original, at, at + 1, new))


def _insert(original: Original, rng: np.random.Generator) -> Damage:
    at, n_bytes = int(rng.integers(original.n_header)), int(rng.integers(1, 4))
    likely = bytes(rng.choice(list(b"019.-+e \n"), n_bytes).tolist())
    new = rng.bytes(n_bytes) if rng.random() < 0.5 else likely
    data = original.data[:at] + new + original.data[at:]
    touched = "" if _is_binary(original) else _field_at(original, at, at, new)
    return Damage(data, f"{new!r} inserted at {at}", touched)


def _delete(original: Original, rng: np.random.Generator) -> Damage:
    at, n_bytes = int(rng.integers(original.n_header)), int(rng.integers(1, 4))
    data = original.data[:at] + original.data[at + n_bytes :]
    touched = "" if _is_binary(original) else _field_at(original, at, at + n_bytes, b"")
    return Damage(data, f"{n_bytes} bytes deleted at {at}", touched)


def _cut(original: Original, rng: np.random.Generator) -> Damage:
    low = 0 if rng.random() < 0.5 else original.n_header
    at = int(rng.integers(low, len(original.data))) if low < len(original.data) else low - 1
    return Damage(original.data[:at], f"cut at {at}")


def _is_binary(original: Original) -> bool:
    return original.format in ("NIfTI", "gzip", "DICOM")


def _set_extreme(original: Original, rng: np.random.Generator) -> Damage:
    known = original.fields[rng.integers(len(original.fields))]
    old = original.data[known.start : known.end]
    impossible = bool(rng.random() < 0.5)
    if known.code:
        impossible &= known.code[-1] in "fd"
        new = _extreme_number(known.code, impossible, rng)
    else:
        text = str(rng.choice(IMPOSSIBLE if impossible else EXTREME)).encode()
        numbers = [m.span() for m in re.finditer(rb"[-+.\w]+", old)] or [(0, len(old))]
        start, end = numbers[rng.integers(len(numbers))]
        new = old[:start] + text + old[end:]
    data = original.data[: known.start] + new + original.data[known.end :]
    if original.format == "DICOM" and not known.code:
        new += b" " * (len(new) % 2)
        length = struct.pack("<H", len(new))
        data = original.data[: known.start - 2] + length + new + original.data[known.end :]
    return Damage(data, f"{known.name} set to {new!r}", known.name, impossible)


def _extreme_number(code: str, impossible: bool, rng: np.random.Generator) -> bytes:
    if code[-1] in "fd":
        values = (np.nan, np.inf, -np.inf) if impossible else (0.0, -1.0, 1e-30, 1e30, 3e38)
        return struct.pack(code, float(rng.choice(values)))
    size = struct.calcsize(code)
    number = int(
        rng.choice([0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1])
    )
    return number.to_bytes(size, "little")


# --- the judgement


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TooSlow`` in the block after so many seconds; also where it waits for a pipe."""

    def stop(*_: object) -> None:
        raise TooSlow

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def changes(read: Scan, expected: Scan) -> set[str]:
    """In what two scans differ: shape, spacing, orientation, origin, voxels."""
    found = set()
    if read.shape != expected.shape:
        found |= {"shape", "voxels"}
    elif not np.array_equal(read.volume_hu, expected.volume_hu):
        found.add("voxels")
    ends = np.array([[z, y, x, 1] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    ends[:, :3] *= np.array(expected.shape) - 1
    one, other = read.geometry, expected.geometry
    moved = (one.affine - other.affine) @ ends.T
    if np.abs(moved).max() <= TOLERANCE_MM:
        return found
    if np.abs(one.affine[:3, 3] - other.affine[:3, 3]).max() > TOLERANCE_MM:
        found.add("origin")
    if not np.allclose(one.spacing_mm, other.spacing_mm, rtol=1e-3):
        found.add("spacing")
    if not np.allclose(one.direction, other.direction, rtol=0, atol=1e-3):
        found.add("orientation")
    return found or {"place"}


def judge(original: Original, damaged: Damage, path: Path) -> tuple[str, str]:
    """Read a damaged input.

    Returns:
        How it ended, and what is wrong with that; the latter is empty where nothing is.
    """
    try:
        with time_limit(MAX_SECONDS), warnings.catch_warnings(record=True) as foreign:
            warnings.simplefilter("always")
            read = read_ct(path)
    except NormNetError as error:
        one_line = "\n" not in str(error) and error.todo
        return error.code, "" if one_line else f"not one line with a remedy: {error}"
    except TooSlow:
        return "hang", f"no answer within {MAX_SECONDS:g} s"
    except Exception:
        return "traceback", traceback.format_exc(limit=-3)
    changed = changes(read, inputs.scan())
    if foreign:
        return "foreign warning", str(foreign[0].message)
    if not changed:
        return "read, warned" if read.warnings else "read", ""
    shown = ", ".join(sorted(changed))
    if read.warnings:
        return f"warned of: {damaged.touched or 'structure'}", ""
    if not damaged.impossible and changed <= MEANINGS[original.format].get(damaged.touched, set()):
        return f"another valid value: {original.format} {damaged.touched}", ""
    return "silent", f"{shown} changed without a word"


def fuzz(n_inputs: int, seed: int, only: int | None = None, save: Path | None = None) -> Report:
    """Read so many damaged inputs; the same seed and number give the same input.

    Args:
        n_inputs: How many.
        seed: Of all random choices.
        only: One number, to look at it alone.
        save: Folder that gets the failing files, and the one that is read now.
    """
    report = Report()
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ct").mkdir()
        for original in originals():
            for place, data in original.beside.items():
                (folder / place).write_bytes(data)
        for number in range(n_inputs) if only is None else [only]:
            rng = np.random.default_rng([seed, number])
            original = originals()[rng.choice(len(originals()), p=_shares())]
            if number < len(originals()):  # first each of them unspoiled
                original = originals()[number]
                damaged = Damage(original.data, "unspoiled")
            else:
                damaged = damage(original, rng)
            end, wrong = _try(original, damaged, folder, save)
            report.n_inputs += 1
            report.ends[end] += 1
            if wrong:
                failure = Failure(number, original.format, damaged.what, wrong, damaged.data)
                report.failures.append(failure)
                _save(failure, original, save)
            if number % 1000 == 999 and save is not None:
                print(f"{number + 1} inputs, {len(report.failures)} failures", flush=True)
    return report


def _shares() -> list[float]:
    return [SHARES[original.format] for original in originals()]


def _try(original: Original, damaged: Damage, folder: Path, save: Path | None) -> tuple[str, str]:
    if save is not None:  # stays there if this process crashes
        save.mkdir(parents=True, exist_ok=True)
        (save / f"now_{Path(original.path).name}").write_bytes(damaged.data)
    path = folder / original.path
    path.write_bytes(damaged.data)
    try:
        end, wrong = judge(original, damaged, folder / original.read)
        if damaged.what == "unspoiled" and end != "read":
            wrong = wrong or f"the unspoiled file ended in {end}"
        return end, wrong
    finally:
        path.unlink()
        if save is not None:
            (save / f"now_{Path(original.path).name}").unlink()


def _save(failure: Failure, original: Original, save: Path | None) -> None:
    if save is not None:
        (save / f"{failure.number}_{Path(original.path).name}").write_bytes(failure.data)
        (save / f"{failure.number}.txt").write_text(f"{failure}\n")


def main() -> int:
    """Run by hand; prints what the inputs ended in, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=1, help="other seeds give other inputs")
    parser.add_argument("--only", type=int, help="number of one input, to look at it alone")
    parser.add_argument("--save", type=Path, help="folder for the inputs that fail")
    given = parser.parse_args()
    report = fuzz(given.inputs, given.seed, given.only, given.save)
    for end, n_inputs in report.ends.most_common():
        print(f"{n_inputs:7d}  {end}")
    for failure in report.failures:
        print(failure)
    print(f"seed {given.seed}: {report.n_inputs} inputs, {len(report.failures)} failures")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
