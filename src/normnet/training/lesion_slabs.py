"""Training pairs of the lesion networks: healthy lungs on the coarse grid, varied, with dense and pale disease."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import grid_sample, interpolate

from normnet.config import Config
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.coarse import pool_lungs
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu
from normnet.synthesis.ground_glass import FLUID_HU, insert_ground_glass, unit_noise
from normnet.synthesis.shapes import smooth_displacement, uniform
from normnet.synthesis.textures import gaussian_filter
from normnet.training.slabs import TrainingPair, find_slabs, no_slab, thick_slices

CONTROL_POINTS = 10  # an axis, of regional density
ELASTIC_POINTS = 5  # an axis, of the displacement
ANTERIOR_SHARE = 0.2  # slabs whose density grows to the front: prone patients


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
        self.places: list[tuple[torch.Tensor, torch.Tensor]] = []  # HU float16 and lungs, (d, h, w)
        self.max_lung_vox = 0  # the fullest slab of the set, |M_max|
        for case in cases:
            hu = torch.tensor(case.codes).float() * STEP_HU + LOWEST_HU
            hu, lungs = pool_lungs(hu, torch.tensor(case.lung_mask), (factor,) * 3)
            hu = hu.half()
            for start, n_lung in find_slabs(lungs.numpy(), case.usable[::factor], min(depth, len(hu))):
                part = slice(start, start + depth)
                self.places.append((hu[part], lungs[part]))
                self.max_lung_vox = max(self.max_lung_vox, n_lung)
        if not self.places:
            raise no_slab(depth * factor, len(cases))

    def sample(self, rng: torch.Generator) -> TrainingPair:
        """One pair on the device of ``rng``; the target is the synthetic disease."""
        config, training, device = self.config, self.config.training, rng.device
        index = int(torch.randint(len(self.places), (), generator=rng, device=device))
        hu, lungs = (part.to(device).float() for part in self.places[index])
        hu, lungs = self._deform_and_crop(hu, lungs > 0, rng)
        hu = self._vary_lungs(hu, rng)
        if training.flip:
            axes = [axis for axis in range(3) if uniform((0, 1), rng) < 0.5]
            hu, lungs = torch.flip(hu, axes), torch.flip(lungs, axes)
        disease = torch.zeros_like(lungs)
        if uniform((0, 1), rng) >= config.ground_glass.prob_empty:
            hu, disease = insert_ground_glass(hu, lungs, self.max_lung_vox, config.synthesis, config.ground_glass, rng)
        hu, lungs, disease = self._vary_scanner(hu, lungs, disease, rng)
        disease = disease & lungs
        return TrainingPair(scale_hu(hu, config.window) * lungs, disease, lungs, disease)

    def _deform_and_crop(
        self, hu: torch.Tensor, lungs: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A slab around a random lung voxel of a larger or smaller, turned and bent patient; no lung beyond the CT."""
        variation, device, slab = self.config.variation, rng.device, self.config.training.slab_vox
        zooms = [uniform(variation.zoom, rng) for _ in range(2)]
        angle = math.radians(uniform(variation.rotate_deg, rng))
        bend = uniform(variation.elastic_vox, rng)
        hits = lungs.nonzero()
        centre = hits[int(torch.randint(len(hits), (), generator=rng, device=device))].tolist()
        lines, middle = [], []
        for c, n, width, zoom in zip(centre, hu.shape, slab, (zooms[0], zooms[1], zooms[1]), strict=True):
            lines.append((torch.arange(width, device=device) - (width - 1) / 2) / zoom)
            half = min((width - 1) / 2 / zoom, (n - 1) / 2)
            middle.append(min(max(float(c), half), n - 1 - half))
        z, y, x = torch.meshgrid(*lines, indexing="ij")
        cos, sin = math.cos(angle), math.sin(angle)
        points = torch.stack([cos * x - sin * y, sin * x + cos * y, z])  # (3, d, h, w): x, y, z
        if bend > 0:
            points += bend * smooth_displacement(points.shape[1:], ELASTIC_POINTS, rng)
        for line, m, n in zip(points, reversed(middle), reversed(hu.shape), strict=True):
            line.add_(m).mul_(2 / max(n - 1, 1)).sub_(1)
        grid = points.permute(1, 2, 3, 0)[None]
        both = torch.stack([hu, lungs.float()])[None]
        hu, lungs = grid_sample(both, grid, padding_mode="border", align_corners=True)[0]
        return hu, (lungs > 0.5) & (grid[0].abs() <= 1).all(-1)

    def _vary_lungs(self, hu: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Calibration, depth of breath, dependent and regional density: all of it healthy."""
        variation, device = self.config.variation, rng.device
        hu = (hu - LOWEST_HU) * uniform(variation.scale, rng) + LOWEST_HU
        if uniform((0, 1), rng) < variation.prob_breath:
            hu = hu + uniform(variation.breath, rng) * (FLUID_HU - hu)
        if uniform((0, 1), rng) < variation.prob_gradient:
            ramp = torch.linspace(-1, 1, hu.shape[1], device=device)[:, None]
            if uniform((0, 1), rng) < ANTERIOR_SHARE:
                ramp = -ramp
            hu = hu + uniform(variation.gradient, rng) * ramp * (FLUID_HU - hu)
        if uniform((0, 1), rng) < variation.prob_regional:
            control = unit_noise(tuple(min(CONTROL_POINTS, n) for n in hu.shape), 1.0, rng)
            hills = interpolate(control[None, None], size=hu.shape, mode="trilinear")[0, 0]
            hu = hu + uniform(variation.regional, rng) * hills * (FLUID_HU - hu)
        return hu

    def _vary_scanner(
        self, hu: torch.Tensor, lungs: torch.Tensor, disease: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
            hu = hu + unit_noise(tuple(hu.shape), uniform((0.3, 0.8), rng), rng) * uniform(training.noise_hu, rng)
        if uniform((0, 1), rng) < training.prob_thick:
            slice_mm = self.config.preparation.spacing_mm[0] * self.config.preparation.pool_vox
            factor = max(2, round(uniform(training.thick_mm, rng) / slice_mm))
            hu, disease = thick_slices(hu, factor), thick_slices(disease.float(), factor) > 0.5
            lungs = thick_slices(lungs.float(), factor) > uniform(variation.lung_share, rng)
        return hu, lungs, disease
