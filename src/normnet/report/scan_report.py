"""``report.html`` of one scan: what was found, in numbers, pictures and a volume to turn.

The page is one file that loads nothing. Its numbers are those of ``result.json``; what is not there
is left out of the page. Its pictures come from the CT and the masks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normnet.io.masks import read_codes, read_labels, read_mask
from normnet.report import charts, pages, volumes
from normnet.report.printing import print_page
from normnet.report.views import draw_views
from normnet.results.folder import add_files
from normnet.results.schema import Result

if TYPE_CHECKING:
    from normnet.pipeline import Segmentation
    from normnet.scan import Scan

PAGE, PRINT = "report.html", "report.pdf"


@dataclass(frozen=True)
class Maps:
    """The images of a result; all have the shape of the scan.

    Attributes:
        lesion_mask: Bool.
        lung_labels: Uint8, 1 right, 2 left.
        anomaly_codes: Uint8, 255 times the probability of anomaly.
        n_votes_normal: Uint8.
    """

    lesion_mask: np.ndarray
    lung_labels: np.ndarray
    anomaly_codes: np.ndarray
    n_votes_normal: np.ndarray

    @classmethod
    def of(cls, found: Segmentation) -> Maps:
        """Those of a segmentation."""
        return cls(found.lesion_mask, found.lung_labels, found.anomaly_codes, found.n_votes_normal)

    @classmethod
    def read(cls, folder: Path, scan: Scan) -> Maps:
        """Those of a result folder.

        Raises:
            InputError: If a file is missing or damaged, or lies on another grid than the scan.
        """
        return cls(
            read_mask(folder / "lesions.nii.gz", scan),
            read_labels(folder / "lungs.nii.gz", scan),
            read_codes(folder / "anomaly.nii.gz", scan),
            read_labels(folder / "votes.nii.gz", scan),
        )


def write_report(
    folder: Path, scan: Scan, maps: Maps, result: Result, pdf: bool = False
) -> volumes.Volumes:
    """Write the report of a result into its folder; ``result.json`` then lists it.

    Args:
        folder: With a complete result, locked by the caller.
        scan: As read.
        maps: What was found in it.
        result: The content of ``result.json``.
        pdf: Whether to write ``report.pdf``, too.

    Returns:
        The volumes of its viewer.

    Raises:
        OutputError: As ``add_files``; NN-RPT-002 to 004 if there is no program that prints.
    """
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(
            volumes.make_volumes, scan, maps.lung_labels, maps.lesion_mask, maps.anomaly_codes
        )
        values = describe(scan, maps, result)
        shown = making.result()
        files = {PAGE: pages.render("report.html", {**values, "volumes": shown})}
    if pdf:  # paper has no use for the volume
        files[PRINT] = print_page(pages.render("report.html", values))
    add_files(folder, files)
    return shown


def describe(scan: Scan, maps: Maps, result: Result) -> dict[str, Any]:
    """The variables of the template ``report.html``, without the volumes of the viewer.

    Args:
        scan: As read.
        maps: What was found in it.
        result: The content of ``result.json``.
    """
    bright_hu = result["model"].get("bright_hu")  # results of older versions lack it
    votes_ml = None
    if bright_hu is not None:
        votes_ml = charts.count_votes(
            scan.volume_hu,
            maps.lung_labels,
            maps.n_votes_normal,
            result["model"]["n_members"],
            bright_hu,
            scan.geometry.voxel_ml,
        )
    return {
        "result": result,
        "views": draw_views(scan, maps.lung_labels, maps.lesion_mask),
        "density": charts.draw_density(result.get("quantification") or {}),
        "votes_ml": votes_ml,
        "share_classes": charts.SHARE_CLASSES,
        "share_class": charts.share_class,
        "step_hu": volumes.STEP_HU,
        "highest_hu": volumes.LOWEST_HU + 255 * volumes.STEP_HU,
        "volumes": None,
    }
