"""The way back: what was found on the prepared grid, on the voxels of the scan.

Everything is decided in the lungs' box of the turned scan. ``Prepared.cut`` brings the scan there,
``Prepared.regrid`` brings the findings there, and ``Prepared.embed`` puts the results into arrays
of the scan's shape and axis order.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from normnet.config import Config
from normnet.filters import dilate
from normnet.findings import Findings
from normnet.lungs.learned import Lungs
from normnet.postprocessing import LesionSteps
from normnet.preparation.prepare import Prepared
from normnet.quantification import (
    Found,
    measure,
    measure_range,
    quantify,
    zones_of_planes,
)
from normnet.scan import Scan

# Edge of the square in a slice over which the tissue that is added to the lungs is smoothed.
SMOOTH_PX = 5
PLANES = 32  # of the map of anomaly, restored at once


class Restored(NamedTuple):
    """Results with the scan's shape and axis order; see ``Segmentation``."""

    lesion_mask: np.ndarray
    lung_labels: np.ndarray
    anomaly_codes: np.ndarray
    n_votes_normal: np.ndarray
    volumes: dict[str, Any]
    quantification: dict[str, Any]
    uncertainty: dict[str, Any]


def restore_findings(
    scan: Scan, lungs: Lungs, prepared: Prepared, findings: Findings, config: Config
) -> Restored:
    """Bring the findings to the voxels of the scan and measure them.

    Args:
        scan: As read.
        lungs: Its lungs; where ``possible`` is given, they become wider beside lesions.
        prepared: Made of that scan and ``lungs.labels``.
        findings: Made of ``prepared``.
        config: Bright threshold and ``postprocessing.lungs_vox``.
    """
    volume_hu, searched = prepared.cut(scan.volume_hu), prepared.cut(lungs.labels)
    anomaly_codes, n_votes_normal = (np.zeros(scan.shape, np.uint8) for _ in range(2))
    codes, votes = prepared.cut(anomaly_codes), prepared.cut(n_votes_normal)
    bright = np.empty(searched.shape, bool)

    def restore_maps() -> None:
        for first in range(0, len(searched), PLANES):
            planes = slice(first, first + PLANES)
            inside = searched[planes] > 0
            bright[planes] = inside & (volume_hu[planes] >= config.window.bright_hu)
            prob = restore_anomaly(prepared, findings, inside, bright[planes], planes)
            codes[planes] = np.rint(prob * np.float32(255))
            n_normal = prepared.regrid(findings.votes.n_normal, nearest=True, planes=planes)
            votes[planes] = n_normal * bright[planes]

    with ThreadPoolExecutor(1) as aside:
        maps = aside.submit(restore_maps)
        lesion_mask, labels = restore_masks(scan, lungs, prepared, findings.steps, config)
        lung_labels = lungs.labels if lungs.possible is None else prepared.embed(labels)
        whole_mask = prepared.embed(lesion_mask)
        maps.result()
    spacing_mm = prepared.orientation.spacing_mm(scan.geometry)
    volumes = quantify(lesion_mask, labels, scan.geometry.voxel_ml)
    n_members = findings.votes.n_members
    quantification = measure(
        Found(volume_hu, lesion_mask, labels, votes, bright, n_members, spacing_mm)
    )
    return Restored(
        whole_mask,
        lung_labels,
        anomaly_codes,
        n_votes_normal,
        volumes,
        quantification,
        doubt_volumes(prepared, findings, labels, volumes, quantification),
    )


def restore_masks(
    scan: Scan, lungs: Lungs, prepared: Prepared, steps: LesionSteps, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """The lesions and the lungs on the voxels of the scan.

    Args:
        scan: As read.
        lungs: Its lungs; where ``possible`` is given, they become wider beside lesions.
        prepared: Made of that scan and ``lungs.labels``.
        steps: Of the post-processing of ``prepared``.
        config: Bright threshold and ``postprocessing.lungs_vox``.

    Returns:
        In the lungs' box of the scan: bool, the lesions; uint8, the labels of the lungs, which are
        wider beside lesions where ``possible`` is given.
    """
    labels = prepared.cut(lungs.labels)
    lesion_mask = prepared.regrid_mask(steps.lesions)
    lesion_mask &= labels > 0
    if lungs.possible is not None:
        volume_hu, possible = prepared.cut(scan.volume_hu), prepared.cut(lungs.possible)
        labels = widen_lungs(volume_hu, labels, possible, prepared, steps, config)
    return lesion_mask, labels


def doubt_volumes(
    prepared: Prepared,
    findings: Findings,
    labels: np.ndarray,
    volumes: dict[str, Any],
    quantification: dict[str, Any],
) -> dict[str, Any]:
    """How much the volumes depend on the density at which the edge of a lesion is drawn.

    Args:
        prepared: The thorax.
        findings: Made of ``prepared``.
        labels: (z, y, x) in the lungs' box of the scan, 1 right, 2 left.
        volumes: As made by ``quantify``.
        quantification: As made by ``measure``.

    Returns:
        As ``measure_range``; empty without the lesion networks.
    """
    steps = findings.steps
    if steps.boundary is None or steps.edges is None:
        return {}
    voxel_ml = math.prod(prepared.spacing_mm) / 1000
    lesion_ml, n_here = volumes["both"]["lesion_ml"], int(np.count_nonzero(steps.lesions))
    total_scale = lesion_ml / n_here if n_here else voxel_ml
    low, high = (n * total_scale for n in steps.boundary.n_vox_range)

    inside = np.nonzero(steps.edges)
    nearest = tuple(
        np.rint(start + step * at).astype(np.intp).clip(0, n - 1)
        for start, step, at, n in zip(
            prepared.grid.start, prepared.grid.step, inside, labels.shape, strict=True
        )
    )
    zone = zones_of_planes(labels)[nearest[0], labels[nearest]]
    of_zone = np.bincount(zone * np.uint8(8) + steps.edges[inside], minlength=56).reshape(7, 8)[1:]
    sums = np.arange(8)
    n_vox = np.stack([of_zone[:, (sums & bit) > 0].sum(axis=1) for bit in (1, 2, 4)], axis=1)
    return measure_range(volumes, quantification, n_vox, (low, high), voxel_ml)


def restore_anomaly(
    prepared: Prepared,
    findings: Findings,
    inside: np.ndarray,
    bright: np.ndarray,
    planes: slice = slice(None),
) -> np.ndarray:
    """How anomalous each voxel is, on the voxels of the scan.

    Args:
        prepared: The thorax.
        findings: What the ensemble and, where they are used, the lesion networks say.
        inside: (z, y, x) bool in these planes of the lungs' box of the scan, the lungs.
        bright: Same shape, bool, the bright voxels of the lungs: the ensemble judges these alone.
        planes: Of the box; all where not given.

    Returns:
        Same shape, float32 in [0, 1]. Bright voxels: 1 - ``prob_normal``, or the mean of this
        and ``prob_lesion`` with the lesion networks. Other voxels of the lungs: ``prob_lesion``, or
        0 without the lesion networks.
    """
    not_normal = 1 - prepared.regrid(findings.votes.prob_normal, planes=planes)[bright]
    if findings.prob_lesion is None:
        prob = np.zeros(bright.shape, np.float32)
        prob[bright] = not_normal
        return prob
    prob = prepared.regrid(findings.prob_lesion, planes=planes)
    prob *= inside
    prob[bright] = (not_normal + prob[bright]) / 2
    return prob


def widen_lungs(
    volume_hu: np.ndarray,
    labels: np.ndarray,
    possible: np.ndarray,
    prepared: Prepared,
    steps: LesionSteps,
    config: Config,
) -> np.ndarray:
    """Add bright tissue beside a lesion that could be lung.

    A lung mask easily loses a thin dense layer at the pleura. A voxel is added where most of its
    square in the slice is lung or such tissue, so specks are left out and holes are filled. The
    added voxels are not searched for lesions: most of them are chest wall in half of their volume.

    Args:
        volume_hu: (z, y, x) in the lungs' box of the scan.
        labels: Same shape, 1 right, 2 left.
        possible: Same shape, the labels at a lower threshold.
        prepared: Made of the same scan and labels.
        steps: Tissue is added beside the lesions and beside what only the vote calls lesion.
        config: ``postprocessing.lungs_vox`` and the bright threshold.

    Returns:
        Same shape, labels; equal to ``labels`` inside the lungs.
    """
    from scipy.ndimage import uniform_filter

    lesions = steps.core | steps.lesions
    beside = dilate(lesions, config.postprocessing.lungs_vox, within=~prepared.lung_mask)
    around = prepared.regrid_mask(beside)
    wider = labels.copy()
    for z in np.flatnonzero(around.any(axis=(1, 2))):
        near = around[z] & (labels[z] == 0) & (possible[z] > 0)
        if not near.any():
            continue
        bright = near & (volume_hu[z] >= config.window.bright_hu)
        filled = ((labels[z] > 0) | bright).astype(np.float32)
        added = near & (uniform_filter(filled, SMOOTH_PX) > 0.5)
        wider[z][added] = possible[z][added]
    return wider
