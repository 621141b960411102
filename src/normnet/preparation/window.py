"""HU to grey values, the same for every network."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from normnet.config import LungsConfig, WindowConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

Image = TypeVar("Image", "np.ndarray", "torch.Tensor")


def scale_hu(image_hu: Image, window: WindowConfig | LungsConfig) -> Image:
    """HU, an array or a tensor, to [0, 1] between the window's ends, clipped beyond them."""
    return ((image_hu - window.low_hu) / (window.high_hu - window.low_hu)).clip(0, 1)
