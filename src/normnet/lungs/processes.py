"""Other programs run as processes, each in an environment of its own; they find the lungs.

With a model on disk, nnU-Net and lungmask download nothing; neither has a switch that forbids it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from normnet.errors import ModelError, NormNetError, ResourceError, ValueRangeError
from normnet.io.formats.nifti import write_image
from normnet.io.masks import read_labels
from normnet.lungs.external import EITHER, LEFT, RIGHT, ExternalLungs
from normnet.lungs.sides import find_middle, split_left_right
from normnet.preparation.orient import Orientation
from normnet.scan import Scan

MAX_SECONDS = 2 * 3600.0  # for one scan; five folds take most of an hour on a few CPU cores
_BY_HAND = "run it by hand to see why"
_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception)\b")
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)+")


def find_program(external: ExternalLungs) -> str:
    """The path of the program that runs a model.

    Raises:
        ModelError: NN-EXT-003 if it is not installed.
    """
    program = external.program
    return find_command(program.command, program.package, external.path.name)


def find_command(command: str, package: str, where: str) -> str:
    """The path of a command of another program.

    Args:
        command: Its name.
        package: What a user installs to get it.
        where: What needs it.

    Raises:
        ModelError: NN-EXT-003 if it is not installed.
    """
    found = shutil.which(command)
    if found is None:
        todo = f"install {package}, in an environment of its own, and put its commands on the PATH"
        raise ModelError("NN-EXT-003", f"no command '{command}'", where, todo)
    return found


def segment_externally(scan: Scan, external: ExternalLungs, device: str = "cpu") -> np.ndarray:
    """Let another program find the lungs; it sees the scan in the order in which it is stored.

    Args:
        scan: As read; the program gets its voxels and its geometry, no name.
        external: As found by ``find_external``.
        device: Torch device.

    Returns:
        The scan's shape, uint8: 1 right lung, 2 left lung, 0 elsewhere.

    Raises:
        ModelError: NN-EXT-003 not installed, 004 failed, 006 no result or one that does not fit the
            scan.
        ResourceError: NN-EXT-005 if it takes too long.
        ValueRangeError: NN-VAL-020 if it finds no lung.
    """
    program, command = find_program(external), external.program.command
    # nobody else can read a temporary directory
    with tempfile.TemporaryDirectory(prefix="normnet-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        image, result = folder / "in" / "ct_0000.nii.gz", folder / "out" / "ct.nii.gz"
        for file in (image, result):
            file.parent.mkdir()
        write_image(image, scan.volume_hu, scan.geometry)
        arguments = external.program.arguments(external, image, result, device)
        run_program([program, *arguments], folder, device)
        if not result.is_file():
            raise ModelError("NN-EXT-006", f"{command} wrote no result", scan.case_id, _BY_HAND)
        try:
            # the program knows the slices that it was given, not those of the scan's file
            values = read_labels(result, replace(scan, joined=None))
        except NormNetError as error:
            found = f"the result of {command} does not fit the scan ({error.found})"
            raise ModelError("NN-EXT-006", found, scan.case_id, _BY_HAND) from error
    table = np.zeros(256, np.uint8)
    table[list(external.sides)] = list(external.sides.values())
    labels = table[values]
    if not labels.any():
        raise ValueRangeError(
            "NN-VAL-020", f"no lung found by {command}", scan.case_id, "or give --lungs MASK"
        )
    return _right_and_left(labels, scan)


def run_program(
    call: list[str],
    folder: Path,
    device: str,
    variables: dict[str, str] | None = None,
    stop: Callable[[], bool] | None = None,
) -> bool:
    """Run a program until it ends; then end every process that it started.

    Args:
        call: The program's path and its arguments.
        folder: Its working folder, where it also keeps temporary files; must exist.
        device: Torch device; the program sees only this GPU.
        variables: Further variables of its environment.
        stop: Asked every second; True: the program is ended. Without it, the program may run for
            two hours.

    Returns:
        Whether it ended by itself.

    Raises:
        ModelError: NN-EXT-004 if it does not start or fails.
        ResourceError: NN-EXT-005 if it takes too long.
    """
    log, command = folder / "stderr", Path(call[0]).name
    try:
        with log.open("wb") as handle:
            process = subprocess.Popen(
                call,
                cwd=folder,
                env={**_environment(folder, device), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=handle,
                start_new_session=True,
            )
    except OSError as error:
        raise ModelError(
            "NN-EXT-004", f"{command} does not start ({error.strerror})", "", _BY_HAND
        ) from error
    try:
        code = _wait(process, stop)
    except subprocess.TimeoutExpired as error:
        found = f"{command} took more than {MAX_SECONDS:g} s"
        raise ResourceError("NN-EXT-005", found, "", "use a GPU, or fewer folds") from error
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code is None:
        return False
    if code != 0:
        ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise ModelError("NN-EXT-004", f"{command} {ended}: {_last_words(log)}", "", _BY_HAND)
    return True


def _wait(process: subprocess.Popen[bytes], stop: Callable[[], bool] | None) -> int | None:
    """The exit code, or None if the program shall stop."""
    if stop is None:
        return process.wait(MAX_SECONDS)
    while not stop():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1.0)
    return None


def _environment(folder: Path, device: str) -> dict[str, str]:
    # libraries that nnU-Net imports could ask a hub on the network
    environment = {**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:  # neither program accepts the number of a GPU
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        gpu = visible[int(number)] if int(number) < len(visible) else number
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def _last_words(log: Path) -> str:
    """The last line that names an error, else the last line; without the names of folders."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)] or lines or ["it said nothing"]
    return _FOLDERS.sub("", errors[-1])[:200].rstrip(" .:;")


def _right_and_left(labels: np.ndarray, scan: Scan) -> np.ndarray:
    """Labels 1 right and 2 left: by the program's labels where they say it, else by the place."""
    orientation = Orientation.of(scan.geometry)
    turned = orientation.apply(labels)
    if (turned == EITHER).any() or _swapped(turned):
        spacing_mm = orientation.spacing_mm(scan.geometry)
        middle = find_middle(orientation.apply(scan.volume_hu), turned > 0, spacing_mm)
        turned = split_left_right(turned > 0, middle.column)
    return np.ascontiguousarray(orientation.undo(turned))


def _swapped(turned: np.ndarray) -> bool:
    """Whether the lung that is called right lies further left: the program mirrored the image."""
    right, left = ((turned == side).sum(axis=(0, 1)) for side in (RIGHT, LEFT))
    columns = np.arange(turned.shape[2])
    return bool(
        right.any()
        and left.any()
        and np.average(columns, weights=right) > np.average(columns, weights=left)
    )
