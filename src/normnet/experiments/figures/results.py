"""CTs with lesions, segmented: Figs. 4, 5, 8 and 9, and Supplementary Fig. 7."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from normnet.config import Config
from normnet.datasets.manifest import Case
from normnet.experiments.bench import Bench, Interrupted, Subject, predict, spread_cases
from normnet.experiments.catalogue import Scale, find_experiment, row_config, row_votes
from normnet.experiments.figures.style import (
    FALSE,
    MISSED,
    TRUE,
    colour_bar,
    fit,
    legend,
    overlay,
    panels,
    row_label,
    scale_bar,
    show,
    without_titles,
)
from normnet.experiments.thresholds import reference_on_grid
from normnet.filters import bounding_box
from normnet.findings import postprocess_votes
from normnet.postprocessing import LesionSteps
from normnet.report.worst_slices import APART_MM, choose_worst
from normnet.training.slabs import SlabSampler, TrainingPair

HEALTHY, SYNTHETIC = (0.95, 0.75, 0.10), (0.80, 0.40, 0.90)
THRESHOLDS_HU = (-700, -600, -500, -400, -300)
COLOURS = "turbo"
MARGIN_VOX = 4  # around the lungs
N_CASES = 6  # of Fig. 5; Fig. 4 is one of them
N_WORST, N_WORST_PER_CASE, N_COLUMNS = 8, 2, 4  # slices of Fig. 9
N_PAIRS = 8  # pairs to choose the clearest from
OVERLAP = [("true positive", TRUE), ("false negative", MISSED), ("false positive", FALSE)]


class Outcome(NamedTuple):
    """A segmented CT; arrays (z, y, x) on the prepared grid, cut to the lungs."""

    thorax: np.ndarray  # float32 in [0, 1]
    lung_mask: np.ndarray
    normal_mask: np.ndarray  # the vote
    steps: LesionSteps
    reference_mask: np.ndarray


def draw_postprocessing(scale: Scale, bench: Bench) -> Figure:
    """Fig. 4: from the vote to the lesions, with every image between.

    The CT is the one whose slices hold the most bright voxels of lesion.
    """
    config = scale.config()

    def brightness(case: Case) -> int:
        subject = bench.subject(case, config)
        bright = reference_on_grid(subject) & (subject.prepared.thorax >= config.window.tau)
        return int(bright.sum(axis=(1, 2)).max())

    case = max(spread_cases(bench, N_CASES), key=brightness)
    outcome = segment_case(case, voting_networks(scale, bench), config, bench)
    z = fullest_slice(outcome.reference_mask)
    thorax, normal = outcome.thorax[z], outcome.normal_mask[z]
    steps = _cut(outcome.steps, z)
    own = config.postprocessing
    pictures = [
        (thorax, "(a) input"),
        (outcome.lung_mask[z], "(b) lung mask"),
        (thorax * normal, "(c) healthy part"),
        (thorax * steps.anomaly, "(d) bright and not healthy"),
        (steps.seeds, f"(e) mean of (d) above {own.t_d:g}"),
        (steps.remainder, "(f) lungs less the healthy part"),
        (steps.cap, f"(g) mean of (f) above {own.t_f:g}"),
        (_compared(outcome, z), "$I_{final}$: (e) grown within (g)"),
    ]
    figure, axes = panels(2, 4, thorax.shape[0] / thorax.shape[1])
    for axis, (picture, title) in zip(axes.flat, pictures, strict=True):
        show(axis, picture, title)
    scale_bar(axes[0, 0], config.preparation.spacing_mm[2])
    legend(figure, OVERLAP)
    return figure


def _cut(steps: LesionSteps, part: Any) -> LesionSteps:
    """The same part of every image."""
    images: list[Any] = [image[part] for image in steps[:6]]
    return LesionSteps(*images)


def draw_segmentations(scale: Scale, bench: Bench) -> Figure:
    """Fig. 5: from the input to the overlap with the reference, on some test CTs.

    Of each CT the slice with the most lesion is shown.
    """
    config, networks = scale.config(), voting_networks(scale, bench)
    cases = spread_cases(bench, N_CASES)
    pictures = []
    for case in cases:
        outcome = segment_case(case, networks, config, bench)
        z = fullest_slice(outcome.reference_mask)
        thorax = outcome.thorax[z]
        parts = (thorax * outcome.normal_mask[z], thorax * outcome.steps.anomaly[z])
        pictures += [thorax, *parts, _compared(outcome, z)]
    pictures = fit(pictures)
    titles = ("(a) input", "(b) healthy tissue", "(c) lesion part", "(d) segmentation")
    figure, axes = panels(len(cases), len(titles), pictures[0].shape[0] / pictures[0].shape[1])
    for place, (axis, picture) in enumerate(zip(axes.flat, pictures, strict=True)):
        show(axis, picture, titles[place] if place < len(titles) else "")
    for axis, case in zip(axes[:, 0], cases, strict=True):
        row_label(axis, case.case_id)
        scale_bar(axis, config.preparation.spacing_mm[2])
    without_titles(figure, len(cases) - 1)
    legend(figure, OVERLAP)
    return figure


def draw_thresholds(scale: Scale, bench: Bench) -> Figure:
    """Fig. 8: the bright voxels of the slice with the most lesion, by several thresholds in HU."""
    config = scale.config()
    subject = bench.subject(spread_cases(bench, 1)[0], config)
    box = crop_box(subject)
    z = fullest_slice(reference_on_grid(subject)[box])
    hu, lungs, thorax = (
        array[box][z]
        for array in (
            subject.prepared.volume_hu,
            subject.prepared.lung_mask,
            subject.prepared.thorax,
        )
    )
    figure, axes = panels(2, 3, hu.shape[0] / hu.shape[1])
    show(axes[0, 0], thorax, "input")
    scale_bar(axes[0, 0], config.preparation.spacing_mm[2])
    colours = colormaps[COLOURS].with_extremes(bad="black")
    for axis, threshold in zip(axes.flat[1:], THRESHOLDS_HU, strict=True):
        bright = np.ma.masked_where(~lungs | (hu < threshold), hu)
        image = axis.imshow(
            bright,
            cmap=colours,
            vmin=THRESHOLDS_HU[0],
            vmax=config.window.high_hu,
            interpolation="nearest",
        )
        axis.set_title(f"$T = {threshold}$ HU", fontsize=7, pad=2)
    colour_bar(figure, image, "HU")
    return figure


def draw_failures(scale: Scale, bench: Bench) -> Figure:
    """Fig. 9: the worst slices; first the worst of every CT, then the second worst of every CT."""
    config, networks = scale.config(), voting_networks(scale, bench)
    apart = max(1, round(APART_MM / config.preparation.spacing_mm[0]))
    found = []
    for case in spread_cases(bench, None):
        outcome = segment_case(case, networks, config, bench)
        wrong = (outcome.steps.lesions ^ outcome.reference_mask).sum(axis=(1, 2))
        for rank, z in enumerate(choose_worst(wrong, apart, N_WORST_PER_CASE)):
            found.append(
                (
                    rank,
                    -int(wrong[z]),
                    case.case_id,
                    outcome.thorax[z],
                    _compared(outcome, z, found=False),
                )
            )
    worst = sorted(found, key=lambda item: item[:3])[:N_WORST]
    pictures = fit([picture for *_, thorax, marked in worst for picture in (thorax, marked)])
    n_columns = min(N_COLUMNS, len(worst))
    n_rows = 2 * -(-len(worst) // n_columns)
    figure, axes = panels(n_rows, n_columns, pictures[0].shape[0] / pictures[0].shape[1])
    for place, (_, _, case_id, *_) in enumerate(worst):
        row, column = divmod(place, n_columns)
        show(axes[2 * row, column], pictures[2 * place], case_id)
        show(axes[2 * row + 1, column], pictures[2 * place + 1])
        scale_bar(axes[2 * row, column], config.preparation.spacing_mm[2])
    without_titles(figure, n_rows // 2)
    legend(figure, OVERLAP[1:])
    return figure


def draw_areas(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 7: networks that learn all healthy lung; a training pair and a test CT."""
    row = next(row for row in find_experiment("table4").rows if row.id == "areas")
    config = row_config(row, scale)
    pixel_mm = config.preparation.spacing_mm[2]
    image, target, lesion_mask = _sample_slice(config, bench)
    networks = [bench.network(config, seed) for seed in row_votes(row, scale, 0)]
    outcome = segment_case(spread_cases(bench, 1)[0], networks, config, bench)
    z = fullest_slice(outcome.reference_mask)
    thorax = outcome.thorax[z]
    figure, axes = panels(2, 3, thorax.shape[0] / thorax.shape[1])
    show(axes[0, 0], image, "synthetic input $A$")
    show(axes[0, 1], overlay(image, [(lesion_mask, SYNTHETIC)]), "synthetic lesions $G$")
    show(axes[0, 2], overlay(image, [(target, HEALTHY)]), r"target $M \odot (1 - G)$")
    show(axes[1, 0], thorax, "test CT")
    show(axes[1, 1], overlay(thorax, [(outcome.normal_mask[z], HEALTHY)]), "called healthy")
    show(axes[1, 2], _compared(outcome, z), "segmentation")
    for axis, name in zip(axes[:, 0], ("training", "testing"), strict=True):
        row_label(axis, name)
        scale_bar(axis, pixel_mm)
    legend(figure, [("synthetic lesion", SYNTHETIC), ("healthy", HEALTHY), *OVERLAP])
    return figure


def voting_networks(scale: Scale, bench: Bench) -> list[torch.nn.Module]:
    """The networks that vote under the scale's own settings."""
    return [bench.network(scale.config(), seed) for seed in range(scale.members)]


def segment_case(
    case: Case, networks: list[torch.nn.Module], config: Config, bench: Bench
) -> Outcome:
    """Vote and post-processing of a test CT, with its reference.

    Raises:
        Interrupted: If the run shall stop.
    """
    if bench.stop():
        raise Interrupted
    subject = bench.subject(case, config)
    prepared = subject.prepared
    votes = predict(subject, networks, config, bench.device)
    found = postprocess_votes(prepared, votes, config)
    images = (prepared.thorax, prepared.lung_mask, found.normal_mask, reference_on_grid(subject))
    box = crop_box(subject)
    thorax, lung_mask, normal_mask, reference_mask = (image[box] for image in images)
    return Outcome(thorax, lung_mask, normal_mask, _cut(found.steps, box), reference_mask)


def crop_box(subject: Subject) -> tuple[slice, ...]:
    """The lungs and a little around them on the prepared grid."""
    return bounding_box(subject.prepared.lung_mask, MARGIN_VOX)


def fullest_slice(mask: np.ndarray) -> int:
    """The slice with the most voxels of a (z, y, x) mask."""
    return int(mask.sum(axis=(1, 2)).argmax())


def _compared(outcome: Outcome, z: int, found: bool = True) -> np.ndarray:
    """A slice that shows what was missed, marked too much and, if ``found``, rightly found.

    Returns:
        (h, w, 3) float in [0, 1].
    """
    lesions, reference = outcome.steps.lesions[z], outcome.reference_mask[z]
    masks = [(reference & ~lesions, MISSED), (lesions & ~reference, FALSE)]
    return overlay(outcome.thorax[z], [*masks, *([(lesions & reference, TRUE)] if found else [])])


def _sample_slice(config: Config, bench: Bench) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, target and lesion mask of a slice, each (h, w).

    Of some training pairs it is the slice with the most of both lesion and healthy lung.
    """
    sampler, rng = SlabSampler(bench.normals(config), config), torch.Generator().manual_seed(0)
    pairs = [sampler.sample(rng) for _ in range(N_PAIRS)]

    def shown(pair: TrainingPair) -> torch.Tensor:
        lesion = pair.lesion_mask.sum(dim=(1, 2))
        return torch.minimum(lesion, pair.lung_mask.sum(dim=(1, 2)) - lesion)  # (D,)

    best = max(pairs, key=lambda pair: int(shown(pair).max()))
    z = int(shown(best).argmax())
    return best.image[z].numpy(), best.target[z].numpy(), best.lesion_mask[z].numpy()
