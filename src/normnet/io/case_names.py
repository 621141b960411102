"""The name of a case: it becomes the name of files and folders, so it must not leave the output."""

from __future__ import annotations

import os
import unicodedata

from normnet.errors import InputError

MAX_NAME_BYTES = 200  # most file systems allow 255; suffixes and temporary names need the rest


def check_case_id(case_id: str, where: str) -> None:
    """Refuse a name that cannot be the name of one file in the output folder.

    Args:
        case_id: As a list of cases, a file or a folder gives it.
        where: The file that the name comes from, for the message.

    Raises:
        InputError: NN-DAT-006 if the name is empty, is ``.`` or ``..``, holds a slash, a backslash
            or a control character such as NUL, or is longer than 200 bytes.
    """
    fault = _fault(case_id)
    if fault:
        shown = "".join(letter if letter.isprintable() else "?" for letter in case_id[:40])
        raise InputError(
            "NN-DAT-006",
            f"'{shown}' cannot be the name of a case: {fault}",
            where,
            "rename the case; letters, digits, '-', '_' and '.' are safe",
        )


def _fault(name: str) -> str:
    """What is wrong with a name; empty if nothing is."""
    if not name.strip():
        return "it is empty"
    if name in (".", ".."):
        return "it is a folder's own name"
    if "/" in name or "\\" in name:
        return "it holds a path separator"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "it holds a control character"
    try:
        n_bytes = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "it holds a character that no file name can have"
    return f"it is longer than {MAX_NAME_BYTES} bytes" if n_bytes > MAX_NAME_BYTES else ""
