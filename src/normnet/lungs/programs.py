"""nnU-Net and lungmask called as processes, so that each may live in an environment of its own.

The calls are those of nnunetv2 2.8.1 and lungmask 0.2.22. With a model on disk neither program asks the network for
anything; neither has a switch that forbids it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from normnet.errors import ModelError, NormNetError, ResourceError, ValueRangeError
from normnet.io.formats.nifti import write_image
from normnet.io.masks import read_labels
from normnet.lungs.anatomy import split_left_right
from normnet.lungs.external import EITHER, LEFT, RIGHT, ExternalLungs
from normnet.preparation.orient import Orientation
from normnet.scan import Scan

MAX_SECONDS = 2 * 3600.0  # for one scan; five folds take most of an hour on a few CPU cores
COMMANDS = {"nnunet": "nnUNetv2_predict_from_modelfolder", "lungmask": "lungmask"}
PACKAGES = {"nnunet": "nnunetv2", "lungmask": "lungmask"}
_BY_HAND = "run it by hand to see why"
_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception)\b")
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)+")


def find_program(external: ExternalLungs) -> str:
    """The path of the program that runs a model.

    Raises:
        ModelError: NN-EXT-003 if it is not installed.
    """
    command = COMMANDS[external.tool]
    found = shutil.which(command)
    if found is None:
        todo = f"install {PACKAGES[external.tool]}, in an environment of its own, and put its commands on the PATH"
        raise ModelError("NN-EXT-003", f"no command '{command}'", external.path.name, todo)
    return found


def segment_externally(scan: Scan, external: ExternalLungs, device: str = "cpu") -> np.ndarray:
    """Have the lungs found by another program; it sees the scan in the order in which it is stored.

    Args:
        scan: As read; only its voxels and its geometry are handed on.
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
    program, command = find_program(external), COMMANDS[external.tool]
    with tempfile.TemporaryDirectory(
        prefix="normnet-", ignore_cleanup_errors=True
    ) as name:  # readable by no one else
        folder = Path(name)
        image, result = folder / "in" / "ct_0000.nii.gz", folder / "out" / "ct.nii.gz"
        for file in (image, result):
            file.parent.mkdir()
        write_image(image, scan.volume_hu, scan.geometry)
        _run([program, *_arguments(external, image, result, device)], folder, command, device)
        if not result.is_file():
            raise ModelError("NN-EXT-006", f"{command} wrote no result", scan.case_id, _BY_HAND)
        try:
            values = read_labels(result, scan)
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
    return _told_apart(labels, Orientation.of(scan.geometry))


def _arguments(external: ExternalLungs, image: Path, result: Path, device: str) -> list[str]:
    kind, model = device.partition(":")[0], str(external.path.absolute())
    if external.tool == "lungmask":
        cpu = ["--cpu"] if kind == "cpu" else []
        return [str(image), str(result), "--modelpath", model, "--noprogress", *cpu]
    places = ["-i", str(image.parent), "-o", str(result.parent), "-m", model]
    return [
        *places,
        *external.options,
        "-device",
        kind,
        "-npp",
        "1",
        "-nps",
        "1",
        "--disable_progress_bar",
    ]


def _run(call: list[str], folder: Path, command: str, device: str) -> None:
    """Run a program to its end; whatever it started ends with it, or with us."""
    log = folder / "stderr"
    try:
        with log.open("wb") as handle:
            process = subprocess.Popen(
                call,
                cwd=folder,
                env=_environment(folder, device),
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
        code = process.wait(MAX_SECONDS)
    except subprocess.TimeoutExpired as error:
        found = f"{command} took more than {MAX_SECONDS:g} s"
        raise ResourceError("NN-EXT-005", found, "", "use a GPU, or fewer folds") from error
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code != 0:
        ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise ModelError("NN-EXT-004", f"{command} {ended}: {_last_words(log)}", "", _BY_HAND)


def _environment(folder: Path, device: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
    }  # libraries of nnU-Net's know that hub
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:  # neither program takes a GPU by its number
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = (
            visible[int(number)] if int(number) < len(visible) else number
        )
    return environment


def _last_words(log: Path) -> str:
    """The last line that names an error, else the last of all; without folders."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if _ERROR_LINE.match(line)] or lines or ["it said nothing"]
    return _FOLDERS.sub("", told[-1])[:200].rstrip(" .:;")


def _told_apart(labels: np.ndarray, orientation: Orientation) -> np.ndarray:
    """The same lungs as right and left: by their labels where these say it, else by their place."""
    turned = orientation.apply(labels)
    if (turned == EITHER).any() or _swapped(turned):
        turned = split_left_right(turned > 0)
    return np.ascontiguousarray(orientation.undo(turned))


def _swapped(turned: np.ndarray) -> bool:
    """Whether what is called right lies further left: the program took a mirrored image for a plain one."""
    right, left = ((turned == side).sum(axis=(0, 1)) for side in (RIGHT, LEFT))
    columns = np.arange(turned.shape[2])
    return bool(
        right.any()
        and left.any()
        and np.average(columns, weights=right) > np.average(columns, weights=left)
    )
