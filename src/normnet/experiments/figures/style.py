"""How every figure looks: panels with equal voxels, small letters, scale bars and legends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

# the paper's green, blue and red
TRUE, MISSED, FALSE = (0.20, 0.75, 0.30), (0.20, 0.45, 1.00), (0.95, 0.25, 0.20)
BAR_MM = 50.0


def panels(
    n_rows: int, n_columns: int, aspect: float, width: float = 7.2
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes.

    Args:
        n_rows: Rows of panels.
        n_columns: Columns of panels.
        aspect: Height of a panel over its width.
        width: Of the figure, in inches; that of a page.

    Returns:
        The figure, and its axes as an array (n_rows, n_columns).
    """
    side = width / n_columns
    figure = Figure(figsize=(width, n_rows * (side * aspect + 0.22) + 0.3), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def show(axis: Axes, image: np.ndarray, title: str = "", top: float = 1.0) -> None:
    """Show a slice, (h, w) in grey from 0 to ``top`` or (h, w, 3) in colours.

    The front of the patient is above.
    """
    axis.imshow(image, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    if title:
        axis.set_title(title, fontsize=7, pad=2)


def overlay(
    image: np.ndarray,
    masks: Sequence[tuple[np.ndarray, tuple[float, float, float]]],
    alpha: float = 0.55,
) -> np.ndarray:
    """A grey slice with tinted masks, (h, w, 3) in [0, 1]."""
    picture = np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=-1)
    for mask, colour in masks:
        picture[mask] = (1 - alpha) * picture[mask] + alpha * np.array(colour)
    return picture


def scale_bar(axis: Axes, pixel_mm: float, length_mm: float = BAR_MM) -> None:
    """Draw a bar of ``length_mm`` at the lower left, white with a black edge."""
    height = axis.get_ylim()[0]
    left, y = 0.04 * axis.get_xlim()[1], 0.95 * height
    edge = [withStroke(linewidth=2.5, foreground="black")]
    axis.plot(
        [left, left + length_mm / pixel_mm],
        [y, y],
        color="white",
        linewidth=1.5,
        solid_capstyle="butt",
        path_effects=edge,
    )
    axis.text(
        left,
        y - 0.02 * height,
        f"{length_mm:g} mm",
        color="white",
        fontsize=6,
        va="bottom",
        path_effects=edge,
    )


def legend(figure: Figure, entries: Sequence[tuple[str, tuple[float, float, float]]]) -> None:
    """Explain the colours below the panels."""
    patches = [Patch(color=colour, label=label) for label, colour in entries]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=len(patches), fontsize=7, frameon=False
    )


def fit(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pad slices, (h, w) or (h, w, 3), with black until all have the same height over width."""
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    fitted = []
    for image in images:
        below = round(image.shape[1] * aspect) - image.shape[0]
        fitted.append(
            np.pad(image, [(below // 2, below - below // 2), *[(0, 0)] * (image.ndim - 1)])
        )
    return fitted


def without_titles(figure: Figure, n_rows: int) -> None:
    """Take away the height that ``panels`` reserves for the titles of ``n_rows`` rows."""
    figure.set_figheight(figure.get_figheight() - 0.18 * n_rows)


def row_label(axis: Axes, text: str) -> None:
    """Write what a row shows, upwards beside its first panel."""
    axis.text(
        -0.03, 0.5, text, transform=axis.transAxes, rotation=90, ha="right", va="center", fontsize=7
    )


def colour_bar(figure: Figure, image: AxesImage, label: str) -> None:
    """Show below the panels which colour is which value."""
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6)
