"""What the networks look at: features of three kinds of tissue (Fig. 1), heat maps (Fig. 6)."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from normnet.config import Config
from normnet.errors import InputError
from normnet.experiments.bench import Bench, spread_cases
from normnet.experiments.catalogue import Scale
from normnet.experiments.figures.results import (
    MARGIN_VOX,
    crop_box,
    fullest_slice,
)
from normnet.experiments.figures.style import (
    colour_bar,
    fit,
    panels,
    scale_bar,
    show,
    without_titles,
)
from normnet.experiments.thresholds import reference_on_grid
from normnet.filters import bounding_box
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.training.slabs import SlabSampler

LESION, SYNTHETIC, NORMAL = (0.80, 0.10, 0.15), (1.00, 0.60, 0.10), (0.15, 0.40, 0.85)
SEED = 0
N_POINTS = 600  # of each class
N_CASES, N_PAIRS = 6, 8  # test CTs and training pairs that give the points
N_HEAT_MAPS = 4
HEAT_TOP = 0.995  # quantile of the lungs' voxels that has the brightest colour
COLOURS = "inferno"


def draw_clusters(scale: Scale, bench: Bench) -> Figure:
    """Fig. 1: a healthy and a diseased slice, and the features of bright voxels.

    The features are the input of the last layer, brought to two dimensions by t-SNE.

    Raises:
        InputError: NN-EXP-008 if a class has no bright voxel.
    """
    config = scale.config()
    network = bench.network(config, 0, for_training=True)
    points = _class_features(network, config, bench)
    n = min(len(part) for part in points)
    if n == 0:
        raise InputError(
            "NN-EXP-008",
            "no bright voxel in the lesions or in normal tissue",
            "figure1",
            "give more CTs",
        )
    places = _embed(np.concatenate([part[:n] for part in points])).reshape(len(points), n, 2)

    figure = Figure(figsize=(7.2, 3.5), layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    healthy = _healthy_slice(bench.normals(config)[0], config)
    pictures = fit(
        [
            picture
            for pair in zip(healthy, _diseased_slice(config, bench), strict=True)
            for picture in pair
        ]
    )
    titles = ("(a) healthy", "diseased", "its thorax area", "its thorax area")
    grid = left.subplots(2, 2)
    for axis, picture, title in zip(grid.flat, pictures, titles, strict=True):
        axis.set_axis_off()
        show(axis, picture, title)
    for axis in grid[1]:
        scale_bar(axis, config.preparation.spacing_mm[2])

    axis = right.subplots()
    axis.set_title("(b) t-SNE of bright voxels' features", fontsize=7, pad=2)
    axis.set_xticks([])
    axis.set_yticks([])
    classes = (("normal tissue", NORMAL), ("synthetic lesions", SYNTHETIC), ("lesions", LESION))
    for (label, colour), part in zip(classes, places, strict=True):
        axis.scatter(
            part[:, 0], part[:, 1], s=3, color=colour, linewidths=0, alpha=0.7, label=label
        )
    right.legend(
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        frameon=False,
        markerscale=2.5,
        handletextpad=0.1,
    )
    return figure


def draw_heat_maps(scale: Scale, bench: Bench) -> Figure:
    """Fig. 6: where the first down-sampling block is active, on some test CTs.

    Of each CT the slice with the most lesion is shown.
    """
    config = scale.config()
    network = bench.network(config, 0, for_training=True)
    cases = spread_cases(bench, N_HEAT_MAPS)
    slices, heats = [], []
    for case in cases:
        subject = bench.subject(case, config)
        box = crop_box(subject)
        thorax, lungs = subject.prepared.thorax[box], subject.prepared.lung_mask[box]
        lesions = reference_on_grid(subject)[box] & lungs
        z = fullest_slice(lesions if lesions.any() else lungs)
        part = _slab_around(z, len(thorax), config)
        _, answers = _look(
            network, network.get_submodule("model.0"), thorax[part], config, bench.device
        )
        slices.append(thorax[z])
        heat = _heat(answers, z - part.start, thorax[z].shape) * lungs[z]
        heats.append(heat / np.quantile(heat[lungs[z]], HEAT_TOP))
    pictures = fit(slices + heats)
    figure, axes = panels(2, len(cases), pictures[0].shape[0] / pictures[0].shape[1])
    for case, axis, picture in zip(cases, axes[0], pictures, strict=False):
        show(axis, picture, case.case_id)
        scale_bar(axis, config.preparation.spacing_mm[2])
    for axis, picture in zip(axes[1], pictures[len(cases) :], strict=True):
        image = axis.imshow(picture, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
    without_titles(figure, 1)
    colour_bar(
        figure, image, f"mean absolute activation, of the slice's {100 * HEAT_TOP:g} % quantile"
    )
    return figure


def _healthy_slice(case: NormalCase, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The slice with the most lung and its thorax area."""
    box = bounding_box(case.lung_mask, MARGIN_VOX)
    lungs = case.lung_mask[box]
    z = fullest_slice(lungs)
    image = scale_hu(case.codes[box][z].astype(np.float32) * STEP_HU + LOWEST_HU, config.window)
    return image, image * lungs[z]


def _diseased_slice(config: Config, bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """The slice with the most lesion of the first test CT and its thorax area."""
    subject = bench.subject(spread_cases(bench, 1)[0], config)
    box = crop_box(subject)
    z = fullest_slice(reference_on_grid(subject)[box])
    image = scale_hu(subject.prepared.volume_hu[box][z], config.window)
    return image, subject.prepared.thorax[box][z]


def _class_features(network: torch.nn.Module, config: Config, bench: Bench) -> list[np.ndarray]:
    """Features of bright voxels of normal tissue, synthetic lesions and lesions.

    Returns:
        Three arrays, (n, channels), each in random order.
    """
    rng, tau = np.random.default_rng(SEED), config.window.tau
    normal, synthetic, lesions = [], [], []
    sampler, draws = SlabSampler(bench.normals(config), config), torch.Generator().manual_seed(SEED)
    for _ in range(N_PAIRS):
        pair = sampler.sample(draws)
        image, target, lesion_mask = (
            t.numpy() for t in (pair.image, pair.target, pair.lesion_mask)
        )
        masks = [target, lesion_mask & (image >= tau)]
        of_normal, of_synthetic = _voxel_features(network, image, masks, config, bench.device)
        normal.append(of_normal)
        synthetic.append(of_synthetic)
    for case in spread_cases(bench, N_CASES):
        subject = bench.subject(case, config)
        thorax = subject.prepared.thorax
        mask = reference_on_grid(subject) & (thorax >= tau)
        part = _slab_around(fullest_slice(mask), len(thorax), config)
        lesions += _voxel_features(network, thorax[part], [mask[part]], config, bench.device)
    return [_draw_points(sources, rng) for sources in (normal, synthetic, lesions)]


def _draw_points(sources: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """At most N_POINTS rows, the same number from every source that has enough of them."""
    share = -(-N_POINTS // len(sources))
    chosen = np.concatenate([rng.permutation(source)[:share] for source in sources])
    return rng.permutation(chosen)[:N_POINTS]


def _voxel_features(
    network: torch.nn.Module,
    image: np.ndarray,
    masks: list[np.ndarray],
    config: Config,
    device: str,
) -> list[np.ndarray]:
    """The input of the last layer at the voxels of each mask, (n, channels).

    That layer doubles the resolution: eight voxels share their features, and they count once if one
    of them is in the mask.
    """
    last = list(network.get_submodule("model").children())[-1]
    features, _ = _look(network, last, image, config, device)  # (channels, D / 2, H / 2, W / 2)
    halves = [_halve(mask) for mask in masks]
    d, h, w = halves[0].shape
    return [features[:, :d, :h, :w][:, torch.from_numpy(half)].T.numpy() for half in halves]


def _halve(mask: np.ndarray) -> np.ndarray:
    """Whether any of 2 x 2 x 2 voxels is set; axes are rounded up."""
    padded = np.pad(mask, [(0, n % 2) for n in mask.shape])
    d, h, w = (n // 2 for n in padded.shape)
    halved: np.ndarray = np.any(padded.reshape(d, 2, h, 2, w, 2), axis=(1, 3, 5))
    return halved


def _look(
    network: torch.nn.Module, layer: torch.nn.Module, image: np.ndarray, config: Config, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of a layer when the network sees a slab.

    Returns:
        Two tensors, each (channels, d, h, w) float32 on the CPU.
    """
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = layer.register_forward_hook(lambda _, given, answer: seen.append((given[0], answer)))
    pads = [pad for n in reversed(image.shape) for pad in (0, -n % config.network.stride)]
    try:
        with torch.inference_mode():
            network.to(device)(
                torch.nn.functional.pad(torch.from_numpy(image), pads)[None, None].to(device)
            )
    finally:
        hook.remove()
    given, answer = seen[0]
    return given[0].float().cpu(), answer[0].float().cpu()


def _heat(answers: torch.Tensor, z: int, shape: tuple[int, ...]) -> np.ndarray:
    """Mean absolute activation of a slice over the channels, (h, w) as the slice."""
    mean = answers[:, z // 2].abs().mean(dim=0)[None, None]  # (1, 1, h / 2, w / 2)
    full = torch.nn.functional.interpolate(
        mean, scale_factor=2, mode="bilinear", align_corners=False
    )
    return full[0, 0, : shape[0], : shape[1]].numpy()


def _slab_around(z: int, depth: int, config: Config) -> slice:
    """As many slices as a window of the vote sees, ``z`` as near to their middle as possible."""
    first = max(0, min(z - config.inference.slab_vox // 2, depth - config.inference.slab_vox))
    return slice(first, min(depth, first + config.inference.slab_vox))


def _embed(features: np.ndarray) -> np.ndarray:
    """Two-dimensional t-SNE (van der Maaten & Hinton 2008), (n, 2).

    It runs on one thread, so that sums have one order.
    """
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(1):
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
        places: np.ndarray = tsne.fit_transform(features)
    return places
