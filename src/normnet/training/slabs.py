"""Training pairs: a random healthy slab, varied as scanners vary, with synthetic lesions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool1d, interpolate

from normnet.config import Config, TrainingConfig
from normnet.errors import InputError
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.synthesis.generator import synthesize_lesions, target_normal
from normnet.synthesis.shapes import uniform
from normnet.synthesis.textures import gaussian_filter


class TrainingPair(NamedTuple):
    """What the network sees and what it should say, each (D, H, W)."""

    image: torch.Tensor  # A, float32 in [0, 1]
    target: torch.Tensor  # GT of Eq. 1 or what ``training.target`` says, bool
    lung_mask: torch.Tensor  # M, bool
    lesion_mask: torch.Tensor  # G, bool


def find_slabs(
    lung_mask: np.ndarray, usable: np.ndarray, depth: int, usable_share: float = 1.0
) -> Iterator[tuple[int, int]]:
    """First slice and lung voxels of every slab of ``depth`` slices that holds lung to learn from.

    Args:
        lung_mask: (z, y, x) bool.
        usable: (z,) bool.
        depth: Slices in a row.
        usable_share: Least share of them that is usable.
    """
    per_slice = lung_mask.sum(axis=(1, 2))
    for start in range(len(usable) - depth + 1):
        n_lung, may = per_slice[start : start + depth], usable[start : start + depth]
        if may.mean() >= usable_share and n_lung[may].any():
            yield start, int(n_lung.sum())


def no_slab(depth: int, n_cases: int) -> InputError:
    """What to raise where no case holds a slab."""
    found = f"no {depth} usable slices with lung in a row"
    return InputError("NN-TRN-001", found, f"{n_cases} normal CTs", "give more CTs")


class SlabSampler:
    """Draws training pairs from healthy cases held in memory.

    Args:
        cases: Cached normal CTs.
        config: All settings.

    Raises:
        InputError: If no case holds a slab of usable slices with lung.
    """

    def __init__(self, cases: list[NormalCase], config: Config):
        self.config = config
        depth = config.training.slab_vox[0]
        self.places: list[tuple[NormalCase, int]] = []
        self.max_lung_vox = 0  # the fullest slab of the set, |M'_max|: with erroneous edges
        for case in cases:
            for start, n_lung in find_slabs(case.lung_mask, case.usable, depth):
                self.places.append((case, start))
                self.max_lung_vox = max(self.max_lung_vox, n_lung)
        if not self.places:
            raise no_slab(depth, len(cases))

    def sample(self, rng: torch.Generator) -> TrainingPair:
        """One pair on the device of ``rng``."""
        training, window, device = self.config.training, self.config.window, rng.device
        case, start = self.places[
            int(torch.randint(len(self.places), (), generator=rng, device=device))
        ]
        box = (slice(start, start + training.slab_vox[0]), *self._place_crop(case, start, rng))
        codes, lungs, edges = (
            torch.from_numpy(_cut(array, box)).to(device)
            for array in (case.codes, case.lung_mask, case.edge_mask)
        )
        hu = codes.float() * STEP_HU + LOWEST_HU
        if training.flip:
            axes = [axis for axis in range(3) if uniform((0, 1), rng) < 0.5]
            hu, lungs, edges = (torch.flip(t, axes) for t in (hu, lungs, edges))
        edges = edges & training.remove_edges
        healthy = scale_hu(_vary_scanner(hu, training, rng), window)
        lungs = lungs & ~edges
        image, lesion_mask = synthesize_lesions(
            healthy, lungs, self.max_lung_vox, self.config.synthesis, rng
        )
        if uniform((0, 1), rng) < training.prob_thick:
            factor = max(
                2, round(uniform(training.thick_mm, rng) / self.config.preparation.spacing_mm[0])
            )
            image, healthy = thick_slices(image, factor), thick_slices(healthy, factor)
            lesion_mask, lungs = (
                thick_slices(t.float(), factor) > 0.5 for t in (lesion_mask, lungs)
            )
            lungs, lesion_mask = lungs & ~edges, lesion_mask & lungs
        thorax = healthy * lungs
        target = {
            "normal": target_normal(thorax, lesion_mask, window.tau),
            "areas": lungs & ~lesion_mask,
            "lesions": lesion_mask,
        }[training.target]
        return TrainingPair(image * lungs, target, lungs, lesion_mask)

    def _place_crop(self, case: NormalCase, start: int, rng: torch.Generator) -> list[slice]:
        """In-plane crop: the whole plane where it fits, else around a random lung voxel."""
        _, *sizes = self.config.training.slab_vox
        planes = case.codes.shape[1:]
        centre = [n // 2 for n in planes]
        if any(n > size for n, size in zip(planes, sizes, strict=True)):
            middle = case.lung_mask[start + self.config.training.slab_vox[0] // 2]
            if not middle.any():
                middle = case.lung_mask[start : start + self.config.training.slab_vox[0]].any(
                    axis=0
                )
            hits = np.flatnonzero(middle)
            pick = int(torch.randint(len(hits), (), generator=rng, device=rng.device))
            centre = [int(c) for c in np.unravel_index(hits[pick], planes)]
        crops = []
        for c, n, size in zip(centre, planes, sizes, strict=True):
            first = (n - size) // 2 if n <= size else min(max(c - size // 2, 0), n - size)
            crops.append(slice(first, first + size))
        return crops


def _cut(array: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """``array[box]``, zeros where the box reaches beyond the array."""
    inner = tuple(
        slice(max(0, part.start), min(n, part.stop))
        for part, n in zip(box, array.shape, strict=True)
    )
    piece = array[inner]
    if piece.shape == tuple(part.stop - part.start for part in box):
        return np.ascontiguousarray(piece)
    pads = [(i.start - b.start, b.stop - i.stop) for i, b in zip(inner, box, strict=True)]
    return np.pad(piece, pads)


def _vary_scanner(hu: torch.Tensor, training: TrainingConfig, rng: torch.Generator) -> torch.Tensor:
    """Noise of the reconstruction in a part of the slabs."""
    uniform((0, 1), rng)  # version 0.1 drew a number here; with it, a seed gives the same slabs
    if uniform((0, 1), rng) < training.prob_noise:
        sigma = round(uniform(training.noise_sigma_vox, rng), 1)
        noise = gaussian_filter(torch.randn(hu.shape, generator=rng, device=rng.device), sigma)
        hu = hu + noise / noise.std() * uniform(training.noise_hu, rng)
    return hu


def thick_slices(volume: torch.Tensor, factor: int) -> torch.Tensor:
    """What a scan of slices ``factor`` voxels thick looks like after resampling to the thin grid.

    Args:
        volume: (D, H, W) float32.
        factor: Thickness in slices.
    """
    depth = volume.shape[0]
    columns = volume.flatten(1).T[None]  # (1, H*W, D)
    pad = -depth % factor
    columns = torch.cat([columns, columns[..., -1:].expand(-1, -1, pad)], dim=-1)
    thick = avg_pool1d(columns, factor)
    thin = interpolate(thick, size=depth + pad, mode="linear", align_corners=False)
    return thin[0, :, :depth].T.reshape(volume.shape)
