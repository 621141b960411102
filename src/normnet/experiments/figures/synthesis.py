"""The generator at work: Fig. 3 and Figs. 1 to 6 of the supplementary material, on normal CTs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter

from normnet.config import Range, SynthesisConfig, WindowConfig
from normnet.experiments.bench import Bench
from normnet.experiments.catalogue import Scale, find_experiment
from normnet.experiments.figures.style import (
    FALSE,
    MISSED,
    TRUE,
    legend,
    overlay,
    panels,
    scale_bar,
    show,
)
from normnet.filters import bounding_box
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.synthesis.generator import (
    SyntheticLesion,
    insert_lesions,
    sample_lesions,
    target_normal,
)
from normnet.synthesis.shapes import Blob, sample_shapes
from normnet.training.slabs import find_slabs, no_slab

NORMAL, LESION, LUNG, EDGE, PATCH = TRUE, FALSE, MISSED, FALSE, (1.0, 0.75, 0.1)
WHITE = (1.0, 1.0, 1.0)
BLOBS = [
    colormaps["tab20"](k)[:3] for k in (0, 2, 8, 10, 12, 14, 16, 18, 1, 3, 9, 11, 13, 15, 17, 19)
]  # no green, red
UNDEFORMED = (1e-6, 1e-6)  # 0 would draw fewer random numbers, and so give other ellipsoids
ONE_LARGE = {"n_small": (0, 0), "n_medium": (0, 0), "prob_large": 1.0}
SEED_STEPS, SEED_NUMBERS, SEED_LARGE = 11, 11, 5
N_VALUES = 4  # of a parameter that is varied
DIM = 0.5  # of the lung below colours
CLOSE_MM, EDGE_MM = 88.0, 56.0  # side of an enlarged part
LUNG_WINDOW = WindowConfig(low_hu=-1250.0, high_hu=250.0)  # as a radiologist looks at lungs


class Slab(NamedTuple):
    """The fullest slab of a normal CT, cut to its lungs."""

    healthy: torch.Tensor  # H, (D, H, W) float32 in [0, 1]
    lung_mask: torch.Tensor  # M, (D, H, W) bool


class Drawn(NamedTuple):
    """What the generator made of a slab."""

    image: np.ndarray  # A, (D, H, W) float32 in [0, 1]
    lesion_mask: np.ndarray  # G, (D, H, W) bool
    lesions: list[SyntheticLesion]  # with the steps of each

    @property
    def blobs(self) -> list[Blob]:
        """G_j, the shapes of the lesions."""
        return [lesion.blob for lesion in self.lesions]


def draw_generator(scale: Scale, bench: Bench) -> Figure:
    """Fig. 3: ellipsoids become shapes, noise a texture, and a healthy lung a training pair."""
    config = scale.config()
    slab = _slabs(scale, bench, 1)[0]
    drawn = _generate(slab, config.synthesis, SEED_STEPS)
    ellipsoids = sample_shapes(
        slab.lung_mask,
        int(slab.lung_mask.sum()),
        _with(config.synthesis, elastic=UNDEFORMED),
        torch.Generator().manual_seed(SEED_STEPS),
    )
    shown, z = _pick(drawn, slab)
    blob, _, steps = drawn.lesions[shown]
    inner = z - blob.low[0]
    field = _cut_to(blob.shape_mask.shape[1:], slab.healthy.shape[1:])
    healthy, dim = slab.healthy[z].numpy(), DIM * slab.healthy[z].numpy()
    target = target_normal(slab.healthy, torch.from_numpy(drawn.lesion_mask), config.window.tau)[
        z
    ].numpy()
    alone = np.zeros_like(healthy)
    alone[blob.box[1:]] = (steps.scaled * blob.shape_mask)[inner].numpy()
    alone[~slab.lung_mask[z].numpy()] = 0

    pictures = [
        (healthy, 1.0, "$H$: healthy lung"),
        (
            overlay(dim, [(mask[z], WHITE) for mask in _masks(ellipsoids, slab)], 0.9),
            1.0,
            "ellipsoids",
        ),
        (
            overlay(dim, [(mask[z], WHITE) for mask in _masks(drawn.blobs, slab)], 0.9),
            1.0,
            "$C_1, C_2, …$: deformed",
        ),
        (
            overlay(dim, _coloured([mask[z] for mask in _masks(drawn.blobs, slab)]), 0.9),
            1.0,
            "$G_1, G_2, …$: merged",
        ),
        (steps.noise[inner][field].numpy(), 1.0, "$a_1$: noise"),
        (
            steps.prob_map[inner][field].numpy(),
            config.synthesis.a_limits[1],
            "$a$: filtered, scaled",
        ),
        (steps.salt_noise[inner][field].numpy(), 1.0, "$b_1$: salt noise"),
        (steps.filtered[inner][field].numpy(), float(steps.filtered.max()), "$b_2$: filtered"),
        (steps.scaled[inner][field].numpy(), 1.0, "$B_j$: scaled, clipped"),
        (alone, 1.0, "$B_j$ in $G_j$ and the lung"),
        (drawn.image[z], 1.0, r"$A = \max(H, B_1, B_2, …)$"),
        (
            overlay(dim, [(drawn.lesion_mask[z], LESION), (target, NORMAL)], 0.9),
            1.0,
            "$GT$: target",
        ),
    ]
    figure, axes = panels(3, 4, healthy.shape[0] / healthy.shape[1])
    y, x = (part.start for part in blob.box[1:])
    shown_part = (
        slice(y + field[0].start, y + field[0].stop),
        slice(x + field[1].start, x + field[1].stop),
    )
    for axis, (picture, top, title) in zip(axes.flat, pictures, strict=True):
        show(axis, picture, title, top)
        if picture.shape[:2] == healthy.shape:
            _mark(axis, shown_part)
    scale_bar(axes[0, 0], config.preparation.spacing_mm[2])
    scale_bar(axes[1, 1], config.preparation.spacing_mm[2], 10)
    entries = [
        ("part shown of the textures", PATCH),
        ("normal tissue to learn", NORMAL),
        ("synthetic lesions", LESION),
    ]
    legend(figure, entries)
    return figure


def draw_lesions(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 1: several synthetic lesions, each of another random state."""
    config = scale.config()
    slabs = _slabs(scale, bench, 4)
    pixel_mm = config.preparation.spacing_mm[2]
    figure, axes = panels(2, 4, 1.0)
    for seed, axis in enumerate(axes.flat):
        slab = slabs[seed % len(slabs)]
        drawn = _generate(slab, config.synthesis, seed)
        shown, z = _pick(drawn, slab)
        field = _field(drawn.blobs[shown], round(CLOSE_MM / pixel_mm), drawn.image[z].shape)
        show(axis, drawn.image[z][field], f"({'abcdefgh'[seed]})")
        axis.contour(drawn.lesion_mask[z][field], levels=[0.5], colors=[PATCH], linewidths=0.5)
        scale_bar(axis, pixel_mm, 10)
    legend(figure, [("edge of the synthetic lesions", PATCH)])
    return figure


def draw_numbers(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 2: fewer and more ellipsoids, the rows (iii) and (iv) of Table IV.

    They are deformed as the default settings say.
    """
    config = scale.config()
    slab = _slabs(scale, bench, 1)[0]
    rows = {
        row.id: row.settings["synthesis"]
        for row in find_experiment("table4").rows
        if row.id in ("iii", "iv")
    }
    choices: list[tuple[str, dict[str, Any]]] = [
        ("(iii)", rows["iii"]),
        ("default", {}),
        ("(iv)", rows["iv"]),
    ]
    height, width = slab.healthy.shape[1:]
    figure, axes = panels(2, len(choices), height / width)
    for (name, values), column in zip(choices, axes.T, strict=True):
        synthesis = _with(config.synthesis, **(values | {"elastic": config.synthesis.elastic}))
        drawn = _generate(slab, synthesis, SEED_NUMBERS)
        z = slab.healthy.shape[0] // 2
        low, high = (round(n) for n in synthesis.n_small)
        numbers = (
            rf"$N_s, N_m \sim F[{low}\lambda, {high}\lambda]$, "
            rf"$P_L = {synthesis.prob_large:g}\lambda$"
        )
        projected = [
            (mask & slab.lung_mask.numpy()).any(axis=0) for mask in _masks(drawn.blobs, slab)
        ]
        shapes = overlay(DIM * slab.healthy[z].numpy(), _coloured(projected), 0.8)
        show(column[0], shapes, f"{name}: {numbers}\n$G_1, G_2, …$ of the whole slab, projected")
        share = drawn.lesion_mask.sum() / int(slab.lung_mask.sum())
        show(column[1], drawn.image[z], f"$A$, {share:.0%} of the slab's lung in $G$")
    for axis in axes[:, 0]:
        scale_bar(axis, config.preparation.spacing_mm[2])
    return figure


def draw_prob_maps(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 3: the effect of sigma_a (a), and of a_L and a_U (b)."""
    synthesis = scale.config().synthesis
    (low, high), gap = synthesis.a_limits, synthesis.a_gap
    middle = (low + high - gap) / 2
    limits = [(low, low + gap), (middle, middle + gap), (high - gap, high), (low, high)]
    smooth = [
        (rf"$\sigma_a = {value:g}$", {"sigma_a_vox": (value, value)})
        for value in _spread(synthesis.sigma_a_vox)
    ]
    scaled = [(f"$a_L = {a:.3g}$, $a_U = {b:.3g}$", _prob_limits(a, b)) for a, b in limits]
    return _compare(
        scale, bench, [("(a) ", "a", "prob_map", smooth), ("(b) ", "a", "prob_map", scaled)]
    )


def draw_filters(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 4: the effect of sigma_b on the filtered salt noise and on the lesion."""
    synthesis = scale.config().synthesis
    values = _spread((synthesis.sigma_b_fine_vox[0], synthesis.sigma_b_coarse_vox[1]))
    return _compare(
        scale,
        bench,
        [("", "b_2", "filtered", [(rf"$\sigma_b = {v:g}$", _sigma_b(v)) for v in values])],
    )


def draw_means(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 5: the effect of mu_0 on the texture and on the lesion."""
    values = _spread(scale.config().synthesis.mu0)
    return _compare(
        scale,
        bench,
        [("", "B", "scaled", [(rf"$\mu_0 = {v:g}$", {"mu0": (v, v)}) for v in values])],
    )


def draw_edges(scale: Scale, bench: Bench) -> Figure:
    """Supplementary Fig. 6: lung masks of three normal CTs, and the erroneous edges in them."""
    config = scale.config()
    cases = bench.normals(config)[:3]
    pixel_mm = config.preparation.spacing_mm[2]
    boxes = [_edge_box(case) for case in cases]
    height, width = np.max(
        [case.codes[box].shape for case, box in zip(cases, boxes, strict=True)], axis=0
    )
    figure, axes = panels(3, len(cases), height / width)
    for case, box, column in zip(cases, boxes, axes.T, strict=True):
        lung_mask, edge_mask = case.lung_mask[box], case.edge_mask[box]
        ct, thorax = (
            _windowed(case, LUNG_WINDOW, box),
            _windowed(case, config.window, box) * lung_mask,
        )
        field = _fullest_field(edge_mask, round(EDGE_MM / pixel_mm))
        show(column[0], overlay(ct, [(lung_mask, LUNG)], 0.4), "$M'$: lung segmentation")
        show(column[1], overlay(thorax, [(edge_mask, EDGE)], 1.0), "$H'$ and $E$")
        show(column[2], overlay(ct[field], [(edge_mask[field], EDGE)], 0.8), "CT and $E$, enlarged")
        _mark(column[1], field)
        scale_bar(column[1], pixel_mm)
        scale_bar(column[2], pixel_mm, 10)
        for axis in column:
            axis.set_anchor("N")
    legend(
        figure,
        [
            ("lung mask $M'$", LUNG),
            ("erroneous edges $E$, removed", EDGE),
            ("enlarged part", PATCH),
        ],
    )
    return figure


def _slabs(scale: Scale, bench: Bench, n: int) -> list[Slab]:
    """The fullest slab of each of the first ``n`` normal CTs that have one."""
    config = scale.config()
    depth, found = config.training.slab_vox[0], []
    cases = bench.normals(config)
    for case in cases:
        lung_mask = case.lung_mask & ~case.edge_mask
        places = list(find_slabs(lung_mask, case.usable, depth))
        if places:
            start, _ = max(places, key=lambda place: place[1])
            part = slice(start, start + depth)
            box = (part, *bounding_box(lung_mask[part], 0)[1:])
            healthy = _windowed(case, config.window, box) * lung_mask[box]
            found.append(Slab(torch.from_numpy(healthy), torch.from_numpy(lung_mask[box])))
        if len(found) == n:
            break
    if not found:
        raise no_slab(depth, len(cases))
    return found


def _windowed(case: NormalCase, window: WindowConfig, box: tuple[Any, ...]) -> np.ndarray:
    """A part of the CT in [0, 1]."""
    return scale_hu(case.codes[box].astype(np.float32) * STEP_HU + LOWEST_HU, window)


def _generate(slab: Slab, config: SynthesisConfig, seed: int) -> Drawn:
    """Synthetic lesions as in the fullest slab of a training set (lambda is 1)."""
    n_lung, rng = int(slab.lung_mask.sum()), torch.Generator().manual_seed(seed)
    lesions = list(sample_lesions(slab.lung_mask, n_lung, config, rng))
    image, lesion_mask = insert_lesions(slab.healthy, lesions)
    return Drawn(image.numpy(), lesion_mask.numpy(), lesions)


def _with(config: SynthesisConfig, **values: Any) -> SynthesisConfig:
    return config.model_copy(update=values)


def _masks(blobs: list[Blob], slab: Slab) -> list[np.ndarray]:
    """Every shape in the slab, (D, H, W) bool, also where it reaches out of the lung."""
    masks = [np.zeros(tuple(slab.lung_mask.shape), bool) for _ in blobs]
    for mask, blob in zip(masks, blobs, strict=True):
        mask[blob.box] = blob.shape_mask.numpy()
    return masks


def _coloured(masks: list[np.ndarray]) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    """Masks with one colour each, for ``overlay``."""
    return [(mask, BLOBS[k % len(BLOBS)]) for k, mask in enumerate(masks)]


def _pick(drawn: Drawn, slab: Slab) -> tuple[int, int]:
    """The lesion to show, and the slice of its largest section in the lung.

    Lesions whose box covers less than half of the slice come first.
    """
    areas = [lesion.inside.sum(dim=(1, 2)) for lesion in drawn.lesions]
    half = slab.lung_mask[0].numel() / 2

    def score(k: int) -> tuple[bool, int]:
        return drawn.blobs[k].shape_mask[0].numel() < half, int(areas[k].max())

    shown = max(range(len(areas)), key=score)
    return shown, drawn.blobs[shown].low[0] + int(areas[shown].argmax())


def _field(blob: Blob, side: int, plane: tuple[int, ...]) -> tuple[slice, slice]:
    """A square of ``side`` voxels about the blob, inside the slice (h, w)."""
    middle = [a + n // 2 for a, n in zip(blob.low[1:], blob.shape_mask.shape[1:], strict=True)]
    return _square(middle, side, plane)


def _fullest_field(mask: np.ndarray, side: int) -> tuple[slice, slice]:
    """The square of ``side`` voxels about the densest place of a mask (h, w)."""
    density = gaussian_filter(mask.astype(np.float32), side / 4, mode="constant")
    return _square(
        [int(n) for n in np.unravel_index(density.argmax(), mask.shape)], side, mask.shape
    )


def _square(middle: list[int], side: int, plane: tuple[int, ...]) -> tuple[slice, slice]:
    side = min(side, *plane)
    y, x = (min(max(0, m - side // 2), n - side) for m, n in zip(middle, plane, strict=True))
    return slice(y, y + side), slice(x, x + side)


def _cut_to(plane: tuple[int, ...], aspect_of: tuple[int, ...]) -> tuple[slice, slice]:
    """The largest middle part of a plane (h, w) with the aspect of another."""
    scale = min(n / m for n, m in zip(plane, aspect_of, strict=True))
    sides = [round(scale * m) for m in aspect_of]
    y, x = ((n - side) // 2 for n, side in zip(plane, sides, strict=True))
    return slice(y, y + sides[0]), slice(x, x + sides[1])


def _mark(axis: Axes, field: tuple[slice, ...]) -> None:
    """A frame round a part of the slice."""
    y, x = field
    size = (x.stop - x.start, y.stop - y.start)
    axis.add_patch(
        Rectangle((x.start - 0.5, y.start - 0.5), *size, fill=False, edgecolor=PATCH, linewidth=0.7)
    )


def _spread(limits: Range) -> list[float]:
    """Values of a parameter from end to end of its range."""
    return [round(float(value), 2) for value in np.linspace(*limits, N_VALUES)]


def _prob_limits(low: float, high: float) -> dict[str, Any]:
    """Settings that give a_L and a_U to within 2 %.

    ``a_gap`` is the same share of the range for every pair, so the same draws are accepted.
    """
    return {"a_limits": (low, high), "a_gap": 0.98 * (high - low)}


def _sigma_b(value: float) -> dict[str, Any]:
    return {"sigma_b_fine_vox": (value, value), "sigma_b_coarse_vox": (value, value)}


def _compare(
    scale: Scale, bench: Bench, blocks: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]]
) -> Figure:
    """One large lesion, with one setting varied along a row.

    A row shows a step of the texture, and the row below it shows the lesion in the lung.

    Args:
        scale: Size.
        bench: The CTs.
        blocks: Start of the titles, the step's symbol and field of ``TextureSteps``, and the
            settings with their names.
    """
    config = scale.config()
    slab = _slabs(scale, bench, 1)[0]
    synthesis = config.synthesis
    sigma_a, sigma_b, mu0 = (
        sum(r) / 2 for r in (synthesis.sigma_a_vox, synthesis.sigma_b_fine_vox, synthesis.mu0)
    )
    others = ONE_LARGE | _prob_limits(*synthesis.a_limits) | _sigma_b(sigma_b)
    others |= {"sigma_a_vox": (sigma_a, sigma_a), "mu0": (mu0, mu0)}
    first = _generate(slab, _with(synthesis, **others), SEED_LARGE)
    _, z = _pick(first, slab)
    box = first.blobs[0].box  # of the only one
    height, width = first.image[box].shape[1:]
    figure, axes = panels(2 * len(blocks), N_VALUES, height / width)
    for (start, symbol, step, choices), (upper, lower) in zip(
        blocks, axes.reshape(-1, 2, N_VALUES), strict=True
    ):
        drawn = [
            _generate(slab, _with(synthesis, **(others | values)), SEED_LARGE)
            for _, values in choices
        ]
        textures = [
            getattr(one.lesions[0].texture, step)[z - box[0].start].numpy() for one in drawn
        ]
        top = 1.0 if step == "scaled" else float(np.quantile(textures, 0.999))
        for k, (name, _) in enumerate(choices):
            show(upper[k], textures[k], f"{start}${symbol}$, {name}", top)
            show(lower[k], drawn[k].image[z][box[1:]], f"{start}$A$, {name}")
        scale_bar(lower[0], config.preparation.spacing_mm[2], 20)
    return figure


def _edge_box(case: NormalCase) -> tuple[Any, ...]:
    """The lungs and a little around them, in the slice with the most lung."""
    z = int(case.lung_mask.sum(axis=(1, 2)).argmax())
    return (z, *bounding_box(case.lung_mask[z : z + 1], 8)[1:])
