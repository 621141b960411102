"""The way of the data: a scan in, lesions on its own grid out (Fig. 2 and 4 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from normnet.config import Config
from normnet.findings import Findings, find_lesions
from normnet.inference.precision import choose_precision, describe_backend
from normnet.io.acceptance import accept
from normnet.io.joining import check_held
from normnet.io.plausibility import doubt_scan
from normnet.lungs.given import check_lobes, sort_lungs
from normnet.lungs.learned import Lungs, doubt_lungs, find_lungs
from normnet.models import Model
from normnet.postprocessing import LesionSteps
from normnet.preparation.breath import BRIGHT_HU
from normnet.preparation.prepare import Prepared, prepare
from normnet.quality import describe_quality
from normnet.quantification import add_lobes
from normnet.restoration import restore_findings
from normnet.scan import Doubt, Scan

# Share of tissue in the air from which on a warning says that the scan was taken in a breath out.
EXPIRED_FLUID = 0.06
EXPIRED_HU = -690.0  # mean of the aerated lung, where that share is unknown

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Segmentation:
    """Everything found in one scan; arrays have the scan's shape and axis order.

    Attributes:
        lesion_mask: bool.
        lung_labels: uint8, 1 right, 2 left, 0 elsewhere; beside lesions wider than the lungs that
            were searched (``widen_lungs``).
        anomaly_codes: uint8, 255 times ``prob_anomaly``, which is how the map is stored.
        n_votes_normal: uint8, members that voted normal where the lung is bright, 0 elsewhere.
        volumes: Millilitres and shares, see ``quantify``.
        warnings: One line each.
        seconds: Time of each stage.
        lungs_by: Name of the lung segmenter, ``given mask`` where the caller gave one.
        certainty: How sure the volume is, see ``describe_certainty``.
        quantification: Zones, densities, lesions and scores, see ``quantification.measure``.
        uncertainty: Volumes at a narrower and at a wider edge, see ``measure_range``.
        quality: What may make the numbers unreliable, see ``quality.describe_quality``.
        precision: Type that the networks computed in, see ``choose_precision``.
        backend: Library and kind of device that ran the networks.
    """

    lesion_mask: np.ndarray
    lung_labels: np.ndarray
    anomaly_codes: np.ndarray
    n_votes_normal: np.ndarray
    volumes: dict[str, Any]
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    lungs_by: str = ""
    certainty: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    backend: str = ""
    quantification: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)

    @property
    def prob_anomaly(self) -> np.ndarray:
        """Float32 in [0, 1], see ``restore_anomaly``; 0 outside the lungs that were searched."""
        prob: np.ndarray = self.anomaly_codes / np.float32(255)
        return prob


def segment(
    scan: Scan,
    model: Model,
    config: Config | None = None,
    *,
    lung_labels: np.ndarray | None = None,
    lobe_labels: np.ndarray | None = None,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    on_findings: Callable[[Lungs, Findings], None] = lambda lungs, findings: None,
) -> Segmentation:
    """Find the lesions of a chest CT.

    Args:
        scan: As read by ``read_ct``.
        model: As loaded by ``load_model``.
        config: Settings; the model's own where None.
        lung_labels: A lung mask of the scan's shape to use instead of the learned one, with labels
            as ``sort_lungs`` understands them.
        lobe_labels: A lobe mask of the scan's shape, with labels as ``check_lobes`` takes them; the
            numbers of each lobe are then found, too.
        device: Torch device.
        on_progress: Called with (stage, steps done, steps in all).
        on_findings: Called with the lungs and with what was found on the grid of the networks; all
            else follows from these and the scan.

    Raises:
        NormNetError: As the readers, where the scan cannot be a chest CT in HU, see ``accept``.
        ValueRangeError: If no lung is found, or the given mask is empty or lies on no lung; as
            ``check_lobes``.
        GeometryError: If a given mask has another shape.
    """
    scan = accept(scan)
    check_held(scan)
    config = config or model.config
    clock = _Clock(on_progress)
    of_scan = _beside(doubt_scan, scan)
    if lung_labels is None:
        lungs = _find_lungs(scan, model, config, device)
        lungs_by = str(model.lungs.manifest.get("name", ""))
        sorting: tuple[str, ...] = ()
    else:
        labels, sorting = sort_lungs(lung_labels, scan)
        lungs, lungs_by = Lungs(labels, None), "given mask"
    of_lungs = _beside(doubt_lungs, scan, lungs.labels)
    lobes = None if lobe_labels is None else check_lobes(lobe_labels, scan, lungs.labels)
    clock("lungs")

    prepared = prepare(scan, lungs.labels, config.preparation, config.window, device)
    of_breath = doubt_breath(prepared) or doubt_density(scan, lungs.labels)
    clock("preparation")

    findings = find_lesions(prepared, model, config, device, clock)
    on_findings(lungs, findings)

    warnings = scan.warnings + of_scan.result() + sorting + of_lungs.result() + of_breath
    of_quality = _beside(describe_quality, scan, lungs.labels, warnings)
    found = restore_findings(scan, lungs, prepared, findings, config)
    certainty = describe_certainty(prepared, findings.steps, found.uncertainty, config)
    quantification = found.quantification
    if lobes is not None:
        voxel_ml = scan.geometry.voxel_ml
        quantification = add_lobes(quantification, found.lesion_mask, lobes, voxel_ml)
    quality = of_quality.result()
    clock("restoring")
    return Segmentation(
        lesion_mask=found.lesion_mask,
        lung_labels=found.lung_labels,
        anomaly_codes=found.anomaly_codes,
        n_votes_normal=found.n_votes_normal,
        volumes=found.volumes,
        warnings=warnings,
        seconds=clock.rounded(),
        lungs_by=lungs_by,
        certainty=certainty,
        precision=choose_precision(device),
        backend=describe_backend(device),
        quantification=quantification,
        uncertainty=found.uncertainty,
        quality=quality,
    )


def _beside(describe: Callable[..., Answer], *arguments: Any) -> Future[Answer]:
    """What is worked out in another thread, since the next stage does not need it."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(describe, *arguments)
    pool.shutdown(wait=False)  # the work goes on
    return answer


def _find_lungs(scan: Scan, model: Model, config: Config, device: str) -> Lungs:
    """The lungs by the model's segmenter, with what could be lung where the settings need it."""
    post = config.postprocessing
    prob_possible = post.lungs_prob if post.lungs_vox > 0 else None
    return find_lungs(scan, model.lungs.networks, config.lungs, device, prob_possible)


def doubt_breath(prepared: Prepared) -> tuple[str, ...]:
    """A warning where the lungs are far denser than in a deep inspiration."""
    if prepared.fluid < EXPIRED_FLUID:
        return ()
    found = (
        f"the lightest lung holds {100 * prepared.fluid:.0f} % more tissue than in a deep "
        "inspiration (breath out, or HU too bright): pale disease is less certain"
    )
    return (Doubt(found, "breath_out"),)


def doubt_density(scan: Scan, lung_labels: np.ndarray) -> tuple[str, ...]:
    """A warning where the aerated lung is so dense on average that its depth of breath is unknown.

    Args:
        scan: As read.
        lung_labels: The scan's shape, 0 outside the lungs.
    """
    hu = scan.volume_hu[lung_labels > 0]
    aerated = hu[hu < BRIGHT_HU]
    mean_hu = float(aerated.mean()) if len(aerated) else BRIGHT_HU
    if mean_hu <= EXPIRED_HU:
        return ()
    found = (
        f"the aerated lung has a mean of {mean_hu:.0f} HU (breath out, disease all over, or HU too "
        "bright): pale disease is less certain"
    )
    return (Doubt(found, "breath_out"),)


def describe_certainty(
    prepared: Prepared, steps: LesionSteps, uncertainty: dict[str, Any], config: Config
) -> dict[str, Any]:
    """How much the volume depends on the density at which the edge of a lesion is drawn.

    Args:
        prepared: The thorax.
        steps: Of the post-processing.
        uncertainty: As made by ``measure_range``; empty where it is not known.
        config: ``postprocessing.share_range``.

    Returns:
        ``healthy_hu``, ``disease_hu`` and ``boundary_hu``: densities in a deep inspiration;
        ``tissue_in_air``: the share of tissue that was taken out to bring the lungs there. Without
        the lesion networks only the last. If ``uncertainty`` is not empty, also its ``lesion_ml``
        as ``lesion_ml_range``, and ``share_range``, the shares at which it is measured.
    """
    certainty: dict[str, Any] = {"tissue_in_air": round(prepared.fluid, 4)}
    if steps.boundary is None:
        return certainty
    if uncertainty:
        certainty["lesion_ml_range"] = uncertainty["lesion_ml"]
        certainty["share_range"] = list(config.postprocessing.share_range)
    return certainty | {
        "healthy_hu": round(steps.boundary.healthy_hu, 1),
        "disease_hu": round(steps.boundary.disease_hu, 1),
        "boundary_hu": round(steps.boundary.lesion_hu, 1),
    }


class _Clock:
    """Passes progress on, and adds the time since the last report to the reported stage."""

    def __init__(self, on_progress: Callable[[str, int, int], None]):
        self.on_progress, self.last = on_progress, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int = 1, total: int = 1) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
        self.on_progress(stage, done, total)

    def rounded(self) -> dict[str, float]:
        """Seconds of each stage, rounded to milliseconds."""
        return {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
