"""Normal CTs for training, from files, folders, data sets or CSV lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from normnet.errors import ConfigError, InputError, NormNetError

if TYPE_CHECKING:
    from normnet.cli.texts import Bar
    from normnet.datasets.manifest import Case
    from normnet.preparation.cache import NormalCase
    from normnet.training.normals import Preparer


def find_normals(inputs: list[Path], split: str | None, leave_out: Iterable[str]) -> list[Case]:
    """The normal CTs among the inputs.

    Args:
        inputs: CTs, folders of CTs, data sets with the role ``normal``, or CSV lists of cases.
        split: Which cases of a list to take; None takes those marked ``train`` and those without a
            mark.
        leave_out: Names of cases to leave out.

    Raises:
        InputError: If an input is missing, if no case has a name to leave out (NN-TRN-010), if no
            case is left (NN-TRN-011), or if two cases have one name (NN-TRN-012).
    """
    from normnet.cli.segment import find_cts
    from normnet.datasets.manifest import Case, read_cases
    from normnet.datasets.registry import find_roots, find_used, with_role
    from normnet.results.names import result_names

    cases: list[Case] = []
    for path in inputs:
        if path.suffix.lower() == ".csv":
            wanted = {"", "train"} if split is None else {split}
            listed = [case for case in read_cases(path) if case.split in wanted]
            cases += [case for case in listed if case.image.suffix != ".npz"]
        elif path.is_dir() and (found := find_roots(path, with_role("normal"))):
            # A data set knows which slices hold nodules.
            for dataset, root in found:
                cases += find_used(dataset, root)
        else:
            items = find_cts([path])
            names = result_names([item.path for item in items], [item.root for item in items])
            cases += [Case(name, item.path) for name, item in zip(names, items, strict=True)]
    names = [case.case_id for case in cases]
    for name in leave_out:
        if name not in names:
            raise InputError(
                "NN-TRN-010", f"no case '{name}' to leave out", "--leave-out", "check its name"
            )
    remaining = [case for case in cases if case.case_id not in set(leave_out)]
    if not remaining:
        raise InputError(
            "NN-TRN-011",
            "no normal CT to learn from",
            "the inputs",
            "give CTs, a folder or a CSV list",
        )
    check_names(names)
    return remaining


def check_names(names: list[str]) -> None:
    """Refuse two cases of one name.

    Raises:
        InputError: NN-TRN-012.
    """
    twice = {name for name, n in Counter(names).items() if n > 1}
    if twice:
        raise InputError(
            "NN-TRN-012",
            f"two CTs are called '{sorted(twice)[0]}'",
            "the inputs",
            "rename one of them",
        )


def without_slices(cases: list[Case], ranges: list[str]) -> list[Case]:
    """The cases with further slices excluded.

    Args:
        cases: The cases.
        ranges: Each ``CASE:FIRST-LAST``; slices are counted from 0 as the file stores them, and
            both ends are excluded.

    Raises:
        ConfigError: NN-CFG-013 if a range is not of that form or names no case.
    """
    names = {case.case_id for case in cases}
    more: dict[str, set[int]] = {}
    for text in ranges:
        name, _, span = text.rpartition(":")
        first, _, last = span.partition("-")
        numbers = first.isdecimal() and last.isdecimal() and int(first) <= int(last)
        if name not in names or not numbers:
            raise ConfigError(
                "NN-CFG-013",
                f"'{text}' is not CASE:FIRST-LAST of a given case",
                "--exclude",
                "correct it",
            )
        more.setdefault(name, set()).update(range(int(first), int(last) + 1))
    return [
        replace(case, excluded_slices=case.excluded_slices | more.get(case.case_id, set()))
        for case in cases
    ]


def prepare_all(
    cases: list[Case], preparer: Preparer, bar: Bar
) -> tuple[list[NormalCase], list[NormNetError]]:
    """Prepare every case and print one line per case; a case that fails is left out.

    Args:
        cases: The cases.
        preparer: Prepares them.
        bar: Shows the progress.

    Returns:
        The prepared cases, and the errors of the others.
    """
    from normnet.cli.failures import as_named_error
    from normnet.cli.texts import say, warn

    done, errors = [], []
    for n, case in enumerate(cases):
        bar(f"{case.case_id}: preparing", n, len(cases))
        try:
            prepared, new = preparer.load(case)
        except Exception as caught:
            errors.append(as_named_error(caught, case.image.name))
            warn(f"{case.case_id}: {errors[-1]}")
            continue
        done.append(prepared)
        usable = f"{int(prepared.usable.sum())} of {len(prepared.usable)} slices usable"
        say(f"{case.case_id}: {'prepared' if new else 'up to date'}; {usable}")
    return done, errors
