"""Training pairs of the lesion networks: healthy lungs, varied, with dense and pale disease.

All of it is on the coarse grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from normnet.config import Config
from normnet.preparation.breath import add_fluid
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.coarse import pool_lungs
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.synthesis.ground_glass import insert_ground_glass, unit_noise
from normnet.synthesis.shapes import smooth_displacement, uniform
from normnet.synthesis.textures import gaussian_filter
from normnet.training.slabs import TrainingPair, find_slabs, no_slab, thick_slices

ALL_OF_IT = 0.999  # share of a thick slice, within rounding


class Place(NamedTuple):
    """A slab of a healthy CT on the coarse grid."""

    hu: torch.Tensor  # (d, h, w) float16
    lungs: torch.Tensor  # same shape, bool
    usable: torch.Tensor  # (d,) bool, slices to learn from


class LesionSampler:
    """Draws training pairs from healthy cases held in memory on the coarse grid.

    Args:
        cases: Cached normal CTs.
        config: All settings.

    Raises:
        InputError: If no case holds a slab of usable slices with lung.
    """

    def __init__(self, cases: list[NormalCase], config: Config):
        self.config = config
        factor, depth = config.preparation.pool_vox, config.training.slab_vox[0]
        self.cases: list[list[Place]] = []  # the slabs of each
        self.max_lung_vox = 0  # the fullest slab of the set, |M_max|
        for case in cases:
            hu = torch.tensor(case.codes).float() * STEP_HU + LOWEST_HU
            hu, lungs = pool_lungs(hu, torch.tensor(case.lung_mask), (factor,) * 3)
            hu = hu.half()
            usable = np.logical_and.reduceat(case.usable, range(0, len(case.usable), factor))
            places = []
            share = config.training.usable_share
            for first, n_lung in find_slabs(lungs.numpy(), usable, min(depth, len(hu)), share):
                part = slice(first, first + depth)
                places.append(Place(hu[part], lungs[part], torch.tensor(usable[part])))
                self.max_lung_vox = max(self.max_lung_vox, n_lung)
            if places:
                self.cases.append(places)
        if not self.cases:
            raise no_slab(depth * factor, len(cases))

    def sample(self, rng: torch.Generator) -> TrainingPair:
        """One pair on the device of ``rng``; the target is the synthetic disease.

        Every case is drawn as often as any other. Lung of slices not to learn from is seen, but not
        in ``lung_mask``.
        """
        config, training, device = self.config, self.config.training, rng.device
        places = self.cases[int(torch.randint(len(self.cases), (), generator=rng, device=device))]
        place = places[int(torch.randint(len(places), (), generator=rng, device=device))]
        hu, lungs, usable = self._deform_and_crop(Place(*(part.to(device) for part in place)), rng)
        hu = self._vary_lungs(hu, lungs, rng)
        disease = torch.zeros_like(lungs)
        if uniform((0, 1), rng) >= config.ground_glass.prob_empty:  # it knows where the back is
            hu, disease = insert_ground_glass(
                hu, lungs, self.max_lung_vox, config.synthesis, config.ground_glass, rng
            )
        if training.flip:
            axes = [axis for axis in range(3) if uniform((0, 1), rng) < 0.5]
            hu, lungs, usable, disease = (
                torch.flip(part, axes) for part in (hu, lungs, usable, disease)
            )
        hu, lungs, usable, disease = self._vary_scanner(hu, lungs, usable, disease, rng)
        disease = disease & lungs
        return TrainingPair(scale_hu(hu, config.window) * lungs, disease, lungs & usable, disease)

    def _deform_and_crop(
        self, place: Place, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A slab around a random lung voxel of a larger or smaller, turned and bent patient.

        Beyond the CT there is no lung.

        Returns:
            HU, lungs and what may be learned from, each of the slab's shape.
        """
        variation, device, slab = self.config.variation, rng.device, self.config.training.slab_vox
        hu, lungs = place.hu.float(), place.lungs
        zooms = [uniform(variation.zoom, rng) for _ in range(2)]
        angle = math.radians(uniform(variation.rotate_deg, rng))
        bend = uniform(variation.elastic_vox, rng)
        hits = lungs.nonzero()
        centre = hits[int(torch.randint(len(hits), (), generator=rng, device=device))].tolist()
        lines, middle = [], []
        for c, n, width, zoom in zip(
            centre, hu.shape, slab, (zooms[0], zooms[1], zooms[1]), strict=True
        ):
            lines.append((torch.arange(width, device=device) - (width - 1) / 2) / zoom)
            half = min((width - 1) / 2 / zoom, (n - 1) / 2)
            middle.append(min(max(float(c), half), n - 1 - half))
        z, y, x = torch.meshgrid(*lines, indexing="ij")
        cos, sin = math.cos(angle), math.sin(angle)
        points = torch.stack([cos * x - sin * y, sin * x + cos * y, z])  # (3, d, h, w): x, y, z
        if bend > 0:
            points += bend * smooth_displacement(points.shape[1:], variation.elastic_points, rng)
        for line, m, n in zip(points, reversed(middle), reversed(hu.shape), strict=True):
            line.add_(m).mul_(2 / max(n - 1, 1)).sub_(1)
        grid = points.permute(1, 2, 3, 0)[None]
        usable = place.usable.float()[:, None, None].expand_as(hu)
        all_three = torch.stack([hu, lungs.float(), usable])[None]
        hu, lung_share, usable = grid_sample(
            all_three, grid, padding_mode="border", align_corners=True
        )[0]
        return hu, (lung_share > 0.5) & (grid[0].abs() <= 1).all(-1), usable > 0.5

    def _vary_lungs(
        self, hu: torch.Tensor, lungs: torch.Tensor, rng: torch.Generator
    ) -> torch.Tensor:
        """Motion, calibration, depth of breath, dependent and regional density; all healthy."""
        variation, device = self.config.variation, rng.device
        if uniform((0, 1), rng) < variation.prob_motion:
            hu = self._move(hu, lungs, rng)
        hu = (hu - LOWEST_HU) * uniform(variation.scale, rng) + LOWEST_HU
        if uniform((0, 1), rng) < variation.prob_breath:
            hu = add_fluid(hu, uniform(variation.breath, rng))
        if uniform((0, 1), rng) < variation.prob_gradient:
            ramp = torch.linspace(0, 1, hu.shape[1], device=device)[:, None]
            if uniform((0, 1), rng) < variation.prob_anterior:
                ramp = ramp.flip(0)
            hu = add_fluid(
                hu,
                uniform(variation.gradient, rng) * ramp ** uniform(variation.gradient_power, rng),
            )
        if uniform((0, 1), rng) < variation.prob_regional:
            n_points = tuple(min(variation.regional_points, n) for n in hu.shape)
            control = unit_noise(n_points, 1.0, rng)
            hills = interpolate(control[None, None], size=hu.shape, mode="trilinear")[0, 0]
            hu = add_fluid(hu, uniform(variation.regional, rng) * hills)
        return hu

    def _move(self, hu: torch.Tensor, lungs: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Ghost edges and haze, as if the diaphragm or the heart had moved during the scan.

        The slab is mixed with itself, shifted, around a voxel of the lung above the diaphragm or
        beside what lies between the lungs.
        """
        variation, device = self.config.variation, rng.device
        near, across = variation.motion_near_vox, variation.motion_across_vox
        above = lungs & ~_shifted(lungs, (near, 0, 0))
        beside = [
            lungs & ~_shifted(lungs, (0, 0, side * near)) & _shifted(lungs, (0, 0, side * across))
            for side in (-1, 1)
        ]
        places = (above if uniform((0, 1), rng) < 0.5 else beside[0] | beside[1]).nonzero()
        if len(places) == 0:
            return hu
        centre = places[int(torch.randint(len(places), (), generator=rng, device=device))]
        way = torch.randn(3, generator=rng, device=device)
        way = (way / way.norm() * uniform(variation.motion_vox, rng)).round().int().tolist()
        lines = [torch.arange(n, device=device) - c for n, c in zip(hu.shape, centre, strict=True)]
        z, y, x = torch.meshgrid(*lines, indexing="ij")
        sigma = uniform(variation.motion_sigma_vox, rng)
        weight = torch.exp(-(z**2 + y**2 + x**2) / (2 * sigma**2)) * uniform(
            variation.motion_share, rng
        )
        return hu + weight * (_shifted(hu, way) - hu)

    def _vary_scanner(
        self,
        hu: torch.Tensor,
        lungs: torch.Tensor,
        usable: torch.Tensor,
        disease: torch.Tensor,
        rng: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Kernel, slices scaled apart, noise, thick slices with the diaphragm half in them."""
        training, variation = self.config.training, self.config.variation
        if uniform((0, 1), rng) < variation.prob_kernel:
            sigma = round(uniform(variation.kernel_sigma_vox, rng), 1)
            weight = gaussian_filter(lungs.float(), sigma).clamp(min=1e-3)
            smooth = gaussian_filter((hu - LOWEST_HU) * lungs, sigma) / weight + LOWEST_HU
            hu = hu + uniform(variation.kernel, rng) * (smooth - hu) * lungs
        if uniform((0, 1), rng) < variation.prob_slices:
            jitter = torch.randn((hu.shape[0], 1, 1), generator=rng, device=rng.device)
            hu = (hu - LOWEST_HU) * (1 + variation.slices * jitter) + LOWEST_HU
        if uniform((0, 1), rng) < training.prob_noise:
            hu = hu + unit_noise(
                tuple(hu.shape), uniform(training.noise_sigma_vox, rng), rng
            ) * uniform(training.noise_hu, rng)
        if uniform((0, 1), rng) < training.prob_thick:
            slice_mm = self.config.preparation.spacing_mm[0] * self.config.preparation.pool_vox
            factor = max(2, round(uniform(training.thick_mm, rng) / slice_mm))
            hu, disease = thick_slices(hu, factor), thick_slices(disease.float(), factor) > 0.5
            lungs = thick_slices(lungs.float(), factor) > uniform(variation.lung_share, rng)
            usable = thick_slices(usable.float(), factor) > ALL_OF_IT
        return hu, lungs, usable, disease


def _shifted(image: torch.Tensor, way: tuple[int, ...] | list[int]) -> torch.Tensor:
    """What lay ``way`` voxels before each voxel; at the slab's edges its own border goes on."""
    for axis, step in enumerate(way):
        index = (torch.arange(image.shape[axis], device=image.device) - step).clamp(
            0, image.shape[axis] - 1
        )
        image = image.index_select(axis, index)
    return image
