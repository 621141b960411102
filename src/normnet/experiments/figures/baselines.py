"""Results of the paper's unsupervised baselines on a CT with lesions: Fig. 7."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from normnet.baselines.methods import METHODS, Method
from normnet.baselines.score import segment_anomalies
from normnet.experiments.baselines import Baseline, score_subject_slices
from normnet.experiments.bench import Bench, Subject, spread_cases
from normnet.experiments.catalogue import Scale
from normnet.experiments.figures.results import OVERLAP, crop_box, fullest_slice
from normnet.experiments.figures.style import (
    FALSE,
    MISSED,
    TRUE,
    colour_bar,
    legend,
    overlay,
    panels,
    row_label,
    scale_bar,
    show,
)
from normnet.experiments.rival_runs import RivalRun
from normnet.experiments.rivals import find_rival
from normnet.experiments.thresholds import reference_on_grid
from normnet.preparation.window import scale_hu

COLOURS, HIGHEST = "inferno", 0.5  # of the difference maps


def draw_baselines(scale: Scale, bench: Bench) -> Figure:
    """Fig. 7: one row per method, on the slice with the most lesion of the first test CT.

    Networks, maps and thresholds are those of Table III. A threshold is the one with the best mean
    DSC on the CTs of that data set; its choice uses the references, as in the paper (Sec. IV-C).
    """
    first = spread_cases(bench, 1)[0]
    cases = next(cases for cases in bench.data.tests.values() if first in cases)
    runs = [RivalRun(find_rival(name), scale, bench) for name in METHODS]
    chosen = [run.best(cases) for run in runs]
    subject = bench.subject(first, scale.config())
    reference = reference_on_grid(subject)
    _, height, width = (part.stop - part.start for part in crop_box(subject))
    figure, axes = panels(len(runs), 4, height / width)
    for place, (row, run, found) in enumerate(zip(axes, runs, chosen, strict=True)):
        (threshold, dice), baseline = found, run.train()
        found_mask = segment_anomalies(run.score_map(subject), threshold.low)
        image = _draw_row(row, baseline, subject, found_mask, reference, bench.device)
        row_label(row[0], baseline.method.label)
        titles = _titles(baseline.method, place == 0)
        for axis, title in zip(row[:3], titles, strict=False):
            axis.set_title(title, fontsize=7, pad=2)
        row[3].set_title(
            f"{titles[3]} > {threshold.low:.2f}: mean DSC {100 * dice:.0f} %".strip(),
            fontsize=7,
            pad=2,
        )
    scale_bar(axes[0, 0], scale.config().preparation.spacing_mm[2])
    colour_bar(
        figure,
        image,
        "(c) input less reconstruction; KL Grad: 0.5 is what a thousandth of healthy lung exceeds",
    )
    legend(figure, OVERLAP)
    return figure


def _titles(method: Method, is_first: bool) -> tuple[str, str, str, str]:
    """Titles of a row: all above the first one; below it what differs from most methods."""
    if is_first:
        return "(a) input", f"(b) {method.image_title}", f"(c) {method.score_title}", "(d) result"
    usual = (Method.image_title, Method.score_title)
    if (method.image_title, method.score_title) == usual:
        return "", "", "", ""
    return "", method.image_title, method.score_title, ""


def _draw_row(
    row: np.ndarray,
    baseline: Baseline,
    subject: Subject,
    found_mask: np.ndarray,
    reference: np.ndarray,
    device: str,
) -> AxesImage:
    """The four panels of a method; returns the coloured image."""
    prepared = subject.prepared
    depth, *plane = crop_box(subject)
    z = depth.start + fullest_slice(reference[depth])
    ((_, shown, score),) = score_subject_slices(baseline, subject, [z], device)
    seen = (
        prepared.thorax[z]
        if baseline.method.lungs_only
        else scale_hu(prepared.volume_hu[z], baseline.config.window)
    )
    seen, shown, score, found, true = (
        image[tuple(plane)] for image in (seen, shown, score, found_mask[z], reference[z])
    )
    show(row[0], seen)
    show(row[1], shown)
    image: AxesImage = row[2].imshow(
        score, cmap=COLOURS, vmin=0, vmax=HIGHEST, interpolation="nearest"
    )
    show(
        row[3],
        overlay(seen, [(found & true, TRUE), (true & ~found, MISSED), (found & ~true, FALSE)]),
    )
    return image
