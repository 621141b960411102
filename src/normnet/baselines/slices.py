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

AT_ONCE = 32  # slices that are brought to the size of a bank together


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


class SliceBank:
    """The slices with lung of healthy CTs as a method sees them: one tensor on the device.

    Args:
        images: (N, 1, size, size) uint8, 255 steps of the window.
    """

    def __init__(self, images: Tensor):
        self.images = images

    @classmethod
    def of(
        cls, cases: list[NormalCase], config: Config, method: Method, size: int, device: str = "cpu"
    ) -> SliceBank:
        """All usable slices with lung.

        Args:
            cases: Cached normal CTs.
            config: Window and spacing.
            method: Field of view, and whether it sees the lungs alone.
            size: Pixels per side.
            device: Torch device of the bank.

        Raises:
            InputError: NN-BAS-003 if there is no slice with lung.
        """
        parts = [
            _quantised(case, places[first : first + AT_ONCE], config, method, size)
            for case in cases
            for places in (find_slices(case),)
            for first in range(0, len(places), AT_ONCE)
        ]
        if not parts:
            raise InputError(
                "NN-BAS-003",
                "no usable slice with lung",
                f"{len(cases)} normal CTs",
                "give more CTs",
            )
        return cls(torch.cat(parts).to(device))

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """(n, 1, size, size) in [0, 1] on the device of the bank, which is that of ``rng``."""
        picks = torch.randint(len(self.images), (n,), generator=rng, device=rng.device)
        return (self.images[picks].float() / 255).contiguous(memory_format=torch.channels_last)


def find_slices(case: NormalCase) -> np.ndarray:
    """Numbers of the slices with lung that no list excludes."""
    return np.flatnonzero(case.lung_mask.any(axis=(1, 2)) & case.usable)


def _quantised(
    case: NormalCase, places: np.ndarray, config: Config, method: Method, size: int
) -> Tensor:
    """(n, 1, size, size) uint8."""
    hu = torch.from_numpy(case.codes[places]).float() * STEP_HU + LOWEST_HU
    images = scale_hu(hu, config.window)
    if method.lungs_only:
        images = images * torch.from_numpy(case.lung_mask[places])
    squares = to_square(images, size, method.field_mm, config.preparation.spacing_mm)
    return (squares.clamp(0, 1) * 255).round().to(torch.uint8)
