"""The paper's figures: one function each, ``draw(scale, bench)``, returns a matplotlib figure."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from normnet.errors import ConfigError
from normnet.experiments.bench import Bench
from normnet.experiments.catalogue import Scale
from normnet.io.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The module and the function of each experiment.
FIGURES = {
    "figure1": ("features", "draw_clusters"),
    "figure3": ("synthesis", "draw_generator"),
    "figure4": ("results", "draw_postprocessing"),
    "figure5": ("results", "draw_segmentations"),
    "figure6": ("features", "draw_heat_maps"),
    "figure7": ("baselines", "draw_baselines"),
    "figure8": ("results", "draw_thresholds"),
    "figure9": ("results", "draw_failures"),
    "supplementary-figure1": ("synthesis", "draw_lesions"),
    "supplementary-figure2": ("synthesis", "draw_numbers"),
    "supplementary-figure3": ("synthesis", "draw_prob_maps"),
    "supplementary-figure4": ("synthesis", "draw_filters"),
    "supplementary-figure5": ("synthesis", "draw_means"),
    "supplementary-figure6": ("synthesis", "draw_edges"),
    "supplementary-figure7": ("results", "draw_areas"),
}
DPI = 200


def draw_figure(name: str, scale: Scale, bench: Bench) -> Figure:
    """Draw a figure of the paper on the CTs at hand.

    Raises:
        ConfigError: NN-EXP-007 if matplotlib or scikit-learn is not installed.
    """
    module, function = FIGURES[name]
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        draw = getattr(importlib.import_module(f"normnet.experiments.figures.{module}"), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("matplotlib", "sklearn"):
            raise
        raise ConfigError(
            "NN-EXP-007", f"{error.name} is missing", name, "pip install 'normnet[figures]'"
        ) from error
    figure: Figure = draw(scale, bench)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG of 200 dots per inch, with the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=DPI, metadata={"Software": None})
