"""``normnet segment-volume`` and ``normnet slicer-module``: normnet in the module list of Slicer.

3D Slicer learns the arguments of a command-line module from a descriptor in XML (Slicer Execution
Model), which is ``configs/slicer.xml``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normnet.cli.arguments import Device, LesionModel, LungModel, ModelFolder
from normnet.cli.texts import say

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from normnet.pipeline import Segmentation

DESCRIPTOR = Path(__file__).parents[1] / "configs" / "slicer.xml"
MODULE = "NormNet"
# Slicer sets paths to its own Python and libraries, which other programs must not load.
_LAUNCHER = """#!/bin/sh
unset LD_LIBRARY_PATH PYTHONHOME PYTHONPATH
exec "{python}" -m normnet segment-volume "$@"
"""


def _print_descriptor(wanted: bool) -> None:
    if wanted:
        say(DESCRIPTOR.read_text(encoding="utf-8").rstrip())
        raise typer.Exit


def segment_volume(
    volume: Annotated[Path, typer.Argument(help="A CT, as normnet segment takes it.")],
    labels: Annotated[Path, typer.Argument(help="Label map to write: .nrrd or .nii.gz.")],
    device: Device = "auto",
    model: ModelFolder = None,
    lung_model: LungModel = None,
    lesion_model: LesionModel = None,
    xml: Annotated[
        bool,
        typer.Option(
            "--xml",
            callback=_print_descriptor,
            is_eager=True,
            help="Print what 3D Slicer needs to know of this command, and stop.",
        ),
    ] = False,
) -> int:
    """Write one label map of a CT: 1 right lung, 2 left lung, 3 lesions. For 3D Slicer.

    Research use only, not a medical device.
    """
    from normnet.cli.devices import choose_device
    from normnet.errors import ConfigError
    from normnet.io.formats.nifti import write_image
    from normnet.io.output_folder import check_no_input
    from normnet.io.read import read_ct
    from normnet.io.seg_nrrd import write_label_map
    from normnet.models import load_model
    from normnet.pipeline import segment

    writers: dict[str, Callable[..., None]] = {".nrrd": write_label_map, ".nii.gz": write_image}
    suffix = "".join(labels.suffixes[-2:] if labels.suffix == ".gz" else labels.suffixes[-1:])
    if suffix not in writers:
        raise ConfigError(
            "NN-CLI-005", "a label map of another format", labels.name, "name it .nrrd or .nii.gz"
        )
    check_no_input(labels, {volume.resolve()})
    scan = read_ct(volume)
    loaded = load_model(model, lung_model, lesion_model)
    found = segment(scan, loaded, device=choose_device(device), on_progress=_tell_slicer)
    writers[suffix](labels, _label_map(found), scan.geometry, joined=scan.joined)
    both = found.volumes["both"]
    say(f"lesions {both['lesion_ml']:.1f} ml, {both['lesion_percent']:.2f} % of the lung")
    for warning in dict.fromkeys((*scan.warnings, *found.warnings)):
        say(f"warning: {warning}")
    return 0


def _label_map(found: Segmentation) -> np.ndarray:
    labels = found.lung_labels.copy()
    labels[found.lesion_mask] = 3
    return labels


def _tell_slicer(stage: str, done: int, total: int) -> None:
    """Progress as Slicer reads it from standard output, where that is no terminal."""
    if not sys.stdout.isatty():
        say(f"<filter-progress>{done / max(total, 1):.3f}</filter-progress>")


def slicer_module(
    folder: Annotated[Path, typer.Argument(help="Folder for the module; made where missing.")],
) -> int:
    """Make normnet a module of 3D Slicer (Linux and macOS): a launcher and its descriptor.

    Add the folder in Slicer under Edit, Application Settings, Modules, Additional module paths.
    """
    from normnet.io.atomic import output_error, write_bytes

    launcher = folder / MODULE
    write_bytes(launcher, _LAUNCHER.format(python=sys.executable).encode())
    try:
        launcher.chmod(0o755)
    except OSError as error:
        raise output_error(error, launcher) from error
    write_bytes(folder / f"{MODULE}.xml", DESCRIPTOR.read_bytes())
    say(f"wrote {launcher.name} and {MODULE}.xml; add their folder to the module paths of Slicer")
    return 0
