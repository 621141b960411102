"""Axial slices as the baselines see them: squares of a fixed size in mm, and the way back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from normnet.baselines.methods import Method
from normnet.config import Config
from normnet.errors import InputError
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.preparation.window import scale_hu


def to_square(slices: Tensor, size: int, field_mm: float, spacing_mm: tuple[float, ...]) -> Tensor:
    """Cut out the square around the middle; beyond the slices it is 0.

    Args:
        slices: (N, y, x) in [0, 1].
        size: Pixels per side of the result.
        field_mm: Side of the square.
        spacing_mm: Of the slices, (…, y, x).

    Returns:
        (N, 1, size, size); values do not change if the pixel size does not.
    """
    pads = _pads(slices.shape, field_mm, spacing_mm)
    return _scale(pad(slices[:, None], pads), (size, size))


def from_square(
    squares: Tensor, plane: tuple[int, ...], field_mm: float, spacing_mm: tuple[float, ...]
) -> Tensor:
    """Undo ``to_square``: (N, 1, size, size) to (N, *plane), 0 where the square does not reach."""
    left, right, top, bottom = _pads(plane, field_mm, spacing_mm)
    height, width = plane[0] + top + bottom, plane[1] + left + right
    return pad(_scale(squares, (height, width)), (-left, -right, -top, -bottom))[:, 0]


def _pads(
    shape: tuple[int, ...], field_mm: float, spacing_mm: tuple[float, ...]
) -> tuple[int, int, int, int]:
    """Pixels to add left, right, above and below; negative where some are cut off."""
    missing = [round(field_mm / mm) - n for mm, n in zip(spacing_mm[-2:], shape[-2:], strict=True)]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in missing)
    return left, right, top, bottom


def _scale(squares: Tensor, shape: tuple[int, int]) -> Tensor:
    if squares.shape[-2:] == shape:
        return squares
    return interpolate(squares, shape, mode="bilinear", antialias=True)


class SliceSampler:
    """Draws batches of slices with lung from healthy CTs held in memory.

    Args:
        cases: Cached normal CTs.
        config: Window and spacing.
        method: Field of view, and whether it sees the lungs alone.
        size: Pixels per side.

    Raises:
        InputError: NN-BAS-003 if there is no slice with lung.
    """

    def __init__(self, cases: list[NormalCase], config: Config, method: Method, size: int):
        self.config, self.method, self.size = config, method, size
        self.places: list[tuple[NormalCase, int]] = [
            (case, int(z))
            for case in cases
            for z in np.flatnonzero(case.lung_mask.any(axis=(1, 2)) & case.usable)
        ]
        if not self.places:
            raise InputError(
                "NN-BAS-003",
                "no usable slice with lung",
                f"{len(cases)} normal CTs",
                "give more CTs",
            )

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, 1, size, size) in [0, 1] on the device of ``rng``."""
        picks = torch.randint(len(self.places), (n,), generator=rng, device=rng.device)
        return torch.cat([self._slice(rng.device, *self.places[pick]) for pick in picks.tolist()])

    def _slice(self, device: torch.device, case: NormalCase, z: int) -> Tensor:
        hu = torch.tensor(case.codes[z], device=device).float() * STEP_HU + LOWEST_HU
        image = scale_hu(hu, self.config.window)
        if self.method.lungs_only:
            image = image * torch.tensor(case.lung_mask[z], device=device)
        return to_square(
            image[None], self.size, self.method.field_mm, self.config.preparation.spacing_mm
        )
