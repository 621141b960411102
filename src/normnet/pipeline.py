"""The way of the data: a scan in, lesions on its own grid out (Fig. 2 and 4 of the paper)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normnet.config import Config
from normnet.errors import GeometryError, ValueRangeError
from normnet.inference.lesions import predict_lesions
from normnet.inference.voting import predict_normal
from normnet.lungs.learned import doubt_lungs, find_lungs
from normnet.models import Model
from normnet.postprocessing import LesionSteps, dilate, postprocess
from normnet.preparation.prepare import Prepared, prepare
from normnet.quantification import quantify
from normnet.scan import Scan

EXPIRED_FLUID = (
    0.06  # share of tissue in the air from which on a scan is said to be taken in a breath out
)
SMOOTH_PX = 5  # edge of the square in a slice over which what is added to the lungs is made even


@dataclass(frozen=True)
class Segmentation:
    """Everything found in one scan; arrays have the scan's shape and axis order.

    Attributes:
        lesion_mask: bool.
        lung_labels: uint8, 1 right, 2 left, 0 elsewhere; wider than what was searched
            (``widen_lungs``).
        prob_anomaly: float32 in [0, 1], see ``anomaly_map``; 0 outside the lungs that were
            searched.
        n_votes_normal: uint8, members that voted normal where the lung is bright, 0 elsewhere.
        volumes: Millilitres and shares, see ``quantify``.
        warnings: One line each.
        seconds: Time of each stage.
        lungs_by: Name of the lung segmenter, ``given mask`` where the caller gave one.
        certainty: How sure the volume is, see ``describe_certainty``.
    """

    lesion_mask: np.ndarray
    lung_labels: np.ndarray
    prob_anomaly: np.ndarray
    n_votes_normal: np.ndarray
    volumes: dict[str, Any]
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    lungs_by: str = ""
    certainty: dict[str, Any] = field(default_factory=dict)


def segment(
    scan: Scan,
    model: Model,
    config: Config | None = None,
    *,
    lung_labels: np.ndarray | None = None,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Segmentation:
    """Find the lesions of a chest CT.

    Args:
        scan: As read by ``read_ct``.
        model: As loaded by ``load_model``.
        config: Settings; the model's own where None.
        lung_labels: A lung mask of the scan's shape to use instead of the learned one.
        device: Torch device.
        on_progress: Called with (stage, steps done, steps in all).

    Raises:
        ValueRangeError: If no lung is found, or the given mask is empty.
        GeometryError: If the given mask has another shape.
    """
    config = config or model.config
    clock = _Clock(on_progress)
    lungs_by = str(model.lung_manifest.get("name", "")) if lung_labels is None else "given mask"
    possible_labels = None
    if lung_labels is None:
        post = config.postprocessing
        prob_possible = post.lungs_prob if post.lungs_vox > 0 else None
        lung_labels, possible_labels = find_lungs(
            scan, model.lung_networks, config.lungs, device, prob_possible
        )
    elif lung_labels.shape != scan.shape:
        raise GeometryError(
            "NN-GEO-031",
            f"lung mask {lung_labels.shape}, scan {scan.shape}",
            scan.case_id,
            "use one grid",
        )
    elif not lung_labels.any():
        raise ValueRangeError(
            "NN-VAL-021", "the lung mask is empty", scan.case_id, "give the mask of this scan"
        )
    warnings = scan.warnings + doubt_lungs(scan, lung_labels)
    clock.lap("lungs")
    prepared = prepare(scan, lung_labels, config.preparation, config.window)
    warnings += doubt_breath(prepared)
    clock.lap("preparation")
    votes = predict_normal(
        prepared.thorax,
        model.asked(config.inference),
        config.network.stride,
        config.inference,
        device,
        lambda done, total: on_progress("inference", done, total),
    )
    prob_lesion = None
    if config.postprocessing.lesion_networks:
        prob_lesion = predict_lesions(prepared, model.lesion_networks, model.lesion_config, device)
    clock.lap("inference")
    steps = find_lesions(prepared, votes.normal_mask(config.inference), config, prob_lesion)
    clock.lap("postprocessing")
    searched = prepared.cut(lung_labels) > 0
    bright = searched & (prepared.cut(scan.volume_hu) >= config.window.bright_hu)
    anomaly = prepared.embed(
        anomaly_map(prepared, votes.prob_normal, prob_lesion, searched, bright)
    )
    n_votes = prepared.embed(
        np.where(bright, prepared.regrid(votes.n_normal, nearest=True), np.uint8(0))
    )
    lesion_mask = prepared.restore_mask(steps.lesions) & (lung_labels > 0)
    if possible_labels is not None:
        lung_labels = widen_lungs(
            scan, lung_labels, possible_labels, prepared, steps.core | steps.lesions, config
        )
    volumes = quantify(prepared.cut(lesion_mask), prepared.cut(lung_labels), scan.geometry.voxel_ml)
    certainty = describe_certainty(prepared, steps, volumes["both"]["lesion_ml"], config)
    clock.lap("restoring")
    return Segmentation(
        lesion_mask,
        lung_labels,
        anomaly,
        n_votes,
        volumes,
        warnings,
        clock.seconds,
        lungs_by,
        certainty,
    )


def find_lesions(
    prepared: Prepared,
    normal_mask: np.ndarray,
    config: Config,
    prob_lesion: np.ndarray | None = None,
) -> LesionSteps:
    """``postprocess`` of a prepared CT.

    Args:
        prepared: The thorax.
        normal_mask: (z, y, x) bool on its grid, the vote.
        config: What is bright, and the post-processing.
        prob_lesion: Same shape, float32, of the lesion networks; None without them.
    """
    return postprocess(
        prepared.thorax,
        prepared.volume_hu,
        prepared.lung_mask,
        normal_mask,
        config.window.tau,
        config.postprocessing,
        prob_lesion,
    )


def doubt_breath(prepared: Prepared) -> tuple[str, ...]:
    """A warning where the lungs are far denser than in a deep inspiration."""
    if prepared.fluid < EXPIRED_FLUID:
        return ()
    found = f"the lightest lung holds {100 * prepared.fluid:.0f} % more tissue than in a deep inspiration"
    return (f"{found} (breath out, or HU too bright): pale disease is less certain",)


def describe_certainty(
    prepared: Prepared, steps: LesionSteps, lesion_ml: float, config: Config
) -> dict[str, Any]:
    """How much the volume depends on where the edge of a lesion is drawn.

    Returns:
        ``lesion_ml_range``: millilitres at the larger and the smaller of ``share_range``;
        ``healthy_hu``, ``disease_hu`` and ``boundary_hu``, in a deep inspiration;
        ``tissue_in_air``: what was taken out for that. Without the lesion networks the last alone.
    """
    told: dict[str, Any] = {"tissue_in_air": round(prepared.fluid, 4)}
    if steps.boundary is None:
        return told
    n_here = int(np.count_nonzero(steps.lesions))
    ml_per_vox = lesion_ml / n_here if n_here else math.prod(prepared.spacing_mm) / 1000
    told |= {
        "lesion_ml_range": [round(n * ml_per_vox, 3) for n in steps.boundary.n_vox_range],
        "share_range": list(config.postprocessing.share_range),
        "healthy_hu": round(steps.boundary.healthy_hu, 1),
        "disease_hu": round(steps.boundary.disease_hu, 1),
        "boundary_hu": round(steps.boundary.lesion_hu, 1),
    }
    return told


def anomaly_map(
    prepared: Prepared,
    prob_normal: np.ndarray,
    prob_lesion: np.ndarray | None,
    searched: np.ndarray,
    bright: np.ndarray,
) -> np.ndarray:
    """How anomalous each voxel is: what both kinds of networks say of bright ones, the lesion networks of the others.

    Args:
        prepared: The thorax.
        prob_normal: (z, y, x) on its grid, mean of the ensemble.
        prob_lesion: Same shape, of the lesion networks; None without them.
        searched: (z, y, x) bool in the lungs' box of the scan, the lungs.
        bright: Same shape, bool, where in them the ensemble is asked.

    Returns:
        Float32 in [0, 1] in the lungs' box of the scan. Bright voxels: 1 - ``prob_normal``, or the
        mean of this and ``prob_lesion``; other voxels of the lungs: ``prob_lesion``, or 0 without
        it.
    """
    not_normal = np.where(
        bright, 1 - prepared.regrid(prob_normal.astype(np.float32)), np.float32(0)
    )
    if prob_lesion is None:
        return not_normal
    lesion = np.where(searched, prepared.regrid(prob_lesion), np.float32(0))
    return np.where(bright, (not_normal + lesion) / 2, lesion)


def widen_lungs(
    scan: Scan,
    lung_labels: np.ndarray,
    possible_labels: np.ndarray,
    prepared: Prepared,
    lesions: np.ndarray,
    config: Config,
) -> np.ndarray:
    """Take in bright tissue beside a lesion that could be lung: a thin dense layer at the pleura is easily cut off.

    Specks are left out and holes filled: a voxel comes in where most of its square in the slice is
        lung or such tissue.
    It is not searched for lesions: most of what lies there is chest wall in half a voxel.

    Args:
        scan: As read.
        lung_labels: The scan's shape, 1 right, 2 left.
        possible_labels: The same at a lower threshold.
        prepared: Of that scan and ``lung_labels``.
        lesions: (z, y, x) bool on the prepared grid, what only the vote calls so included.
        config: ``postprocessing.lungs_vox``, and what is bright.

    Returns:
        Labels of the scan's shape; ``lung_labels`` inside the lungs.
    """
    from scipy.ndimage import uniform_filter

    beside = dilate(lesions, config.postprocessing.lungs_vox, within=~prepared.lung_mask)
    near = prepared.cut(prepared.restore_mask(beside) & (lung_labels == 0) & (possible_labels > 0))
    lungs = prepared.cut(lung_labels) > 0
    bright = near & (prepared.cut(scan.volume_hu) >= config.window.bright_hu)
    mostly = uniform_filter((lungs | bright).astype(np.float32), (1, SMOOTH_PX, SMOOTH_PX)) > 0.5
    return np.where(prepared.embed(near & mostly), possible_labels, lung_labels)


class _Clock:
    """Seconds of each stage."""

    def __init__(self, on_progress: Callable[[str, int, int], None]):
        self.on_progress, self.last = on_progress, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = round(now - self.last, 3), now
        self.on_progress(stage, 1, 1)
