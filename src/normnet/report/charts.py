"""The numbers behind the charts of a report: places in the picture, which the templates draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Classes of the share of a zone that is lesion: those of the CT severity score of Pan et al. 2020
# (doi 10.1148/radiol.2020200370), which knows 0, < 5, 5 to 25, 26 to 49, 50 to 75 and > 75 %.
SHARE_CLASSES: tuple[tuple[str, float], ...] = (
    ("none", 0.0),
    ("below 5 %", 5.0),
    ("5 to 25 %", 25.0),
    ("25 to 50 %", 50.0),
    ("50 to 75 %", 75.0),
    ("above 75 %", math.inf),
)
N_TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the picture and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in the picture: x, y of its upper left corner, width and height."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """Bars over a horizontal axis, in a picture of ``width`` × ``height``.

    Attributes:
        series: Name of the series to its bars; later series lie in front.
        bands: Named stretches of the horizontal axis, as bars of the whole height.
        x_ticks, y_ticks: Marks of the axes.
        width, height: Of the field of the bars, without the texts of the axes.
    """

    series: dict[str, list[Bar]]
    bands: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: float = 400.0
    height: float = 200.0


def share_class(percent: float | None) -> int:
    """The number of the class of ``SHARE_CLASSES``; -1 where the share is unknown."""
    if percent is None:
        return -1
    return next(
        n for n, (_, most) in enumerate(SHARE_CLASSES) if percent <= most and (n == 0 or percent)
    )


def draw_density(quantification: Mapping[str, Any]) -> dict[str, Chart] | None:
    """How much lung, and how much lesion, has which density: two charts of one axis.

    Args:
        quantification: Its ``lung_density_histogram`` is drawn, its ``hu_bands`` lie behind.

    Returns:
        ``lung`` and ``lesion``; None where there is no histogram.
    """
    histogram = quantification.get("lung_density_histogram") or {}
    edges = [float(edge) for edge in histogram.get("edges_hu") or ()]
    values = {
        name: [float(ml) for ml in histogram.get(key) or ()]
        for name, key in (("lung", "lung_ml"), ("lesion", "lesion_ml"))
    }
    if len(edges) < 2 or any(len(row) != len(edges) - 1 for row in values.values()):
        return None
    low, high = edges[0], edges[-1]
    spans = [
        (
            name,
            max(low, _number(band.get("low_hu"), low)),
            min(high, _number(band.get("high_hu"), high)),
        )
        for name, band in (quantification.get("hu_bands") or {}).items()
    ]
    spans = [span for span in spans if span[1] < span[2]]
    return {name: draw_bars(edges, {name: row}, "HU", "ml", spans) for name, row in values.items()}


def draw_bars(
    edges: Sequence[float],
    values: Mapping[str, Sequence[float]],
    x_unit: str,
    y_unit: str,
    spans: Sequence[tuple[str, float, float]] = (),
    least_step: float = 0.0,
) -> Chart:
    """A chart of values in bins.

    Args:
        edges: Of the bins, ascending, one more than there are values.
        values: Name of a series to one value per bin.
        x_unit: Of the edges, for the titles of the bars.
        y_unit: Of the values.
        spans: (name, from, to) of the bands.
        least_step: Of the marks of the vertical axis: 1 where the values are counts.
    """
    chart = Chart({}, [], [], [])
    low, high = edges[0], edges[-1]
    top = max((max(row, default=0.0) for row in values.values()), default=0.0) or 1.0
    step = max(least_step, round_step(top / N_TICKS))
    top = step * math.ceil(top / step - 1e-9)

    def x_of(value: float) -> float:
        return (value - low) / (high - low) * chart.width

    for name, row in values.items():
        chart.series[name] = [
            Bar(
                x_of(left),
                chart.height * (1 - value / top),
                x_of(right) - x_of(left),
                chart.height * value / top,
                f"{left:g} to {right:g} {x_unit}: {value:.1f} {y_unit} {name}",
            )
            for left, right, value in zip(edges, edges[1:], row, strict=False)
            if value > 0
        ]
    chart.bands.extend(
        Bar(x_of(start), 0.0, x_of(stop) - x_of(start), chart.height, name)
        for name, start, stop in spans
    )
    x_step = round_step((high - low) / N_TICKS)
    first = math.ceil(low / x_step - 1e-9)
    last = math.floor(high / x_step + 1e-9)
    chart.x_ticks.extend(
        Tick(x_of(n * x_step), f"{n * x_step:g}".replace("-", "−")) for n in range(first, last + 1)
    )
    chart.y_ticks.extend(
        Tick(chart.height * (1 - n * step / top), f"{n * step:g}")
        for n in range(round(top / step) + 1)
    )
    return chart


def draw_distribution(
    values: Sequence[float], name: str, unit: str, n_bins: int = 20
) -> Chart | None:
    """A histogram of one number over many scans.

    Returns:
        None with fewer than two scans.
    """
    if len(values) < 2:
        return None
    step = round_step((max(values) - min(0.0, *values)) / n_bins or 1.0)
    low = math.floor(min(0.0, *values) / step)
    high = max(low + 1, math.floor(max(values) / step) + 1)
    edges = [n * step for n in range(low, high + 1)]
    counts, _ = np.histogram(values, edges)
    return draw_bars(edges, {name: [float(n) for n in counts]}, unit, "", least_step=1.0)


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below a number."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def count_votes(
    volume_hu: np.ndarray,
    lung_labels: np.ndarray,
    n_votes_normal: np.ndarray,
    n_members: int,
    bright_hu: float,
    voxel_ml: float,
) -> list[float]:
    """Millilitres of bright lung by the number of members that took it for normal tissue.

    Args:
        volume_hu: (z, y, x).
        lung_labels: Same shape, 0 outside.
        n_votes_normal: Same shape; 0 where the lung is not bright.
        n_members: How many voted.
        bright_hu: From this density on the ensemble votes.
        voxel_ml: Volume of a voxel.

    Returns:
        One number per count of votes, from 0 to ``n_members``.
    """
    counts = np.zeros(n_members + 1, np.int64)
    for plane_hu, labels, n_votes in zip(volume_hu, lung_labels, n_votes_normal, strict=True):
        bright = (labels > 0) & (plane_hu >= bright_hu)
        counts += np.bincount(n_votes[bright], minlength=n_members + 1)[: n_members + 1]
    return [float(n) * voxel_ml for n in counts]


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
