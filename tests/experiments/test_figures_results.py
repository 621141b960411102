"""Figures of results and features on phantoms: panels, colours, the same picture every time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from normnet.datasets.manifest import Case
from normnet.experiments import figures
from normnet.experiments.bench import Data, Interrupted, Subject
from normnet.experiments.catalogue import Scale, experiments
from normnet.experiments.figures import FIGURES, draw_figure, features, results, save_figure
from normnet.experiments.figures.style import FALSE, MISSED, TRUE, fit
from normnet.network.unet import build_unet
from normnet.preparation.cache import prepare_normal
from normnet.preparation.prepare import prepare
from tests.phantoms import Phantom, reorient, thorax_phantom

SCALE = Scale(
    name="tiny",
    members=1,
    settings={
        "preparation": {"spacing_mm": [3.0, 3.0, 3.0], "pad_to": "crop", "align_vox": 1},
        "network": {"channels": [4, 8], "n_res_units": 0},
        "training": {"slab_vox": [16, 48, 48], "iterations": 1},
        "inference": {"slab_vox": 16},
        "synthesis": {
            "axes_small_vox": [2, 4],
            "axes_medium_vox": [4, 8],
            "axes_large_vox": [10, 16],
            "sigma_a_vox": [1, 4],
        },
        "postprocessing": {"k_d": 3, "k_f": 3, "dilation_vox": 1},
    },
)
CONFIG = SCALE.config()
SHAPE, SPACING_MM = (48, 96, 96), (3.3, 3.3, 3.3)
PANELS = {
    "figure1": 4,
    "figure4": 8,
    "figure5": 8,
    "figure6": 4,
    "figure8": 6,
    "figure9": 8,
    "supplementary-figure7": 6,
}


@cache
def phantom(seed: int, lesions: bool) -> Phantom:
    return thorax_phantom(SHAPE, SPACING_MM, lesions=lesions, seed=seed)


@dataclass
class StubBench:
    """Two normal phantoms, two with lesions, and networks that call all or nothing healthy.

    Args:
        logit: Every network's answer.
        with_reference: Otherwise the reference masks are empty.
        turned: Whether the scans lie in memory in another order.
    """

    logit: float = -10.0
    with_reference: bool = True
    turned: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        tests = {name: [Case(f"{name}_1", Path(name))] for name in ("coronacases", "radiopaedia")}
        self.data = Data([], tests, [])

    def stop(self) -> bool:
        return False

    def normals(self, config):
        phantoms = [phantom(seed, False) for seed in (0, 1)]
        return [
            prepare_normal(one.scan, one.lung_mask.astype(np.uint8), config) for one in phantoms
        ]

    def network(self, config, seed, for_training=False):
        """A constant answer; the first layer passes the image on, so its features are known."""
        torch.manual_seed(seed)
        network = build_unet(config.network).eval()
        first, last = network.model[0].conv, network.model[-1].conv
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(self.logit)
            first.weight.zero_()
            first.bias.zero_()
            first.weight[:, 0, 1, 1, 1] = 1
        return network

    def subject(self, case, config):
        one = phantom(7 if case.case_id == "coronacases_1" else 8, True)
        scan, labels, reference = (
            one.scan,
            one.lung_mask.astype(np.uint8),
            one.lesion_mask & self.with_reference,
        )
        if self.turned:
            order, flips = (2, 0, 1), (True, False, True)
            masks = [
                np.flip(m.transpose(order), [n for n in range(3) if flips[n]])
                for m in (labels, reference)
            ]
            scan, (labels, reference) = reorient(scan, order, flips), masks
        prepared = prepare(scan, labels, config.preparation, config.window)
        return Subject(case, scan, labels, prepared, reference)


@pytest.fixture(autouse=True, scope="module")
def few_points():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "N_POINTS", 40)
        yield


@pytest.fixture(scope="module")
def drawn(few_points) -> dict[str, Figure]:
    return {name: draw_figure(name, SCALE, StubBench()) for name in PANELS}


def images(figure: Figure) -> list[np.ndarray]:
    """The pictures, (h, w) or (h, w, 3), in order of their panels."""
    return [np.ma.filled(axis.images[0].get_array(), np.nan) for axis in figure.axes if axis.images]


def tinted(picture: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Where a grey was mixed with a colour: above the darkest channel its proportions are left."""
    above, wanted = picture - picture.min(axis=-1, keepdims=True), np.array(colour) - min(colour)
    length = np.linalg.norm(above, axis=-1) * np.linalg.norm(wanted)
    return (length > 0.05) & (above @ wanted > 0.999 * length)


def shown_slice(bench: StubBench) -> tuple[np.ndarray, ...]:
    """Thorax, lungs and reference in the slice with the most lesion, cut to the lungs."""
    subject = bench.subject(results.spread_cases(bench, 1)[0], CONFIG)
    box = results.crop_box(subject)
    reference = results.reference_on_grid(subject)[box]
    z = int(reference.sum(axis=(1, 2)).argmax())
    return subject.prepared.thorax[box][z], subject.prepared.lung_mask[box][z], reference[z]


@pytest.mark.parametrize("name", PANELS)
def test_panels_are_full(name, drawn):
    figure = drawn[name]
    assert FIGURES[name][0] in ("results", "features")
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == PANELS[name]
    for axis in panels:
        assert axis.get_aspect() == 1
        assert axis.get_ylim()[0] > axis.get_ylim()[1]  # front of the patient above
    assert np.ptp(images(figure)[0]) > 0.5
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert any(text.endswith("mm") for text in texts)


@pytest.mark.parametrize("name", PANELS)
def test_same_bytes(name, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    save_figure(drawn[name], tmp_path / "1.png")
    save_figure(draw_figure(name, SCALE, StubBench()), tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize("name", ["figure4", "figure5", "supplementary-figure7"])
def test_colours_of_the_result(name, drawn):
    """Nothing healthy: lesions are found, vessels are false; all healthy: all is missed."""
    place = 3 if name == "figure5" else -1
    found = images(drawn[name])[place]
    _, lungs, reference = shown_slice(StubBench())
    found = found[(found.shape[0] - lungs.shape[0]) // 2 :][
        : lungs.shape[0]
    ]  # a slice may be in a higher black one
    y, x = (int(n.mean()) for n in np.nonzero(reference))
    assert reference[y, x]
    assert tinted(found, TRUE)[y, x]
    assert not tinted(found, TRUE)[~reference].any()
    assert tinted(found, FALSE)[lungs & ~reference].any()
    assert not tinted(found, FALSE)[reference | ~lungs].any()

    missed = images(draw_figure(name, SCALE, StubBench(logit=10)))[place]
    missed = missed[(missed.shape[0] - lungs.shape[0]) // 2 :][: lungs.shape[0]]
    np.testing.assert_array_equal(tinted(missed, MISSED), reference)
    assert not tinted(missed, TRUE).any()
    assert not tinted(missed, FALSE).any()


def test_failures_leave_out_what_was_found(drawn):
    pictures = images(draw_figure("figure9", SCALE, StubBench(logit=10)))
    assert any(tinted(picture, MISSED).any() for picture in pictures if picture.ndim == 3)
    pictures = images(drawn["figure9"])
    assert not any(tinted(picture, TRUE).any() for picture in pictures if picture.ndim == 3)
    assert any(tinted(picture, FALSE).any() for picture in pictures if picture.ndim == 3)


def test_failures_begin_with_the_worst():
    pictures = images(draw_figure("figure9", SCALE, StubBench(logit=-10, with_reference=False)))
    areas = [int(tinted(picture, FALSE).sum()) for picture in pictures if picture.ndim == 3]
    assert areas[0] >= areas[1] > 0
    assert areas[2] >= areas[3]


def test_steps_of_the_postprocessing():
    thorax, lungs, _ = shown_slice(StubBench())
    for logit in (-10, 10):
        a, b, c, d, e, f, g, _ = images(draw_figure("figure4", SCALE, StubBench(logit=logit)))
        np.testing.assert_array_equal(a, thorax)
        np.testing.assert_array_equal(b, lungs)
        healthy = thorax if logit > 0 else 0 * thorax
        np.testing.assert_array_equal(c, healthy)
        np.testing.assert_array_equal(f, thorax - healthy)
        np.testing.assert_array_equal(d, np.where(thorax >= CONFIG.window.tau, thorax - healthy, 0))
        assert e.any() == g.any() == (logit < 0)


def test_scans_are_turned():
    plain, turned = (
        images(draw_figure("figure5", SCALE, StubBench(turned=turned))) for turned in (False, True)
    )
    for one, other in zip(
        plain[::3], turned[::3], strict=True
    ):  # (a) and (d) of the first CT, (c) of the other
        assert one.shape == other.shape
        assert (
            np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9
        )  # the grid begins at another corner


def test_thresholds(drawn):
    thorax, lungs, _ = shown_slice(StubBench())
    pictures = images(drawn["figure8"])
    window = CONFIG.window
    for picture, threshold in zip(pictures[1:], results.THRESHOLDS_HU, strict=True):
        bright = np.isfinite(picture)
        assert not bright[~lungs].any()
        assert (picture[bright] >= threshold).all()
        assert (
            thorax[lungs & ~bright] < (threshold - window.low_hu) / (window.high_hu - window.low_hu)
        ).all()
    counts = [int(np.isfinite(picture).sum()) for picture in pictures[1:]]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] > 0


def test_target_of_areas():
    image, lesions, target, *_, healthy, _ = images(
        draw_figure("supplementary-figure7", SCALE, StubBench(logit=10))
    )
    in_lesion, in_target = tinted(lesions, results.SYNTHETIC), tinted(target, results.HEALTHY)
    assert in_lesion.any()
    assert not (in_lesion & in_target).any()
    assert (in_lesion | in_target)[image > 0].all()
    assert tinted(healthy, results.HEALTHY).any()
    assert in_target[image < CONFIG.window.tau].any()  # air too


def test_heat_maps_show_the_first_block(drawn):
    """It passes every second voxel on, so the lesion is hot and nothing outside the lungs is."""
    _, lungs, reference = shown_slice(StubBench())
    thorax, *_, heat, _ = images(drawn["figure6"])
    above = (thorax.shape[0] - lungs.shape[0]) // 2
    thorax, heat = (picture[above:][: lungs.shape[0]] for picture in (thorax, heat))
    assert not heat[~lungs].any()
    assert heat[reference].mean() > 3 * heat[lungs & ~reference].mean()
    assert np.corrcoef(thorax[lungs], heat[lungs])[0, 1] > 0.6


def test_features_are_those_of_the_voxels():
    """The skip connection brings the first channels, here the image, to the last layer."""
    rng = np.random.default_rng(0)
    image = rng.random((7, 10, 12), np.float32)
    masks = [rng.random(image.shape) < 0.2 for _ in range(2)]
    network = StubBench().network(CONFIG, 0)
    for mask, found in zip(
        masks, features._voxel_features(network, image, masks, CONFIG, "cpu"), strict=True
    ):
        shared = itertools.product(range(4), range(5), range(6))  # cells of 2 x 2 x 2 voxels
        cells = [2 * np.array(cell) for cell in shared]
        wanted = [
            image[tuple(low)] for low in cells if mask[tuple(slice(a, a + 2) for a in low)].any()
        ]
        np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-4)
        assert found.shape == (len(wanted), 4 + 8)


def test_clusters_have_equal_numbers(drawn):
    figure = drawn["figure1"]
    (axis,) = (axis for axis in figure.axes if axis.collections)
    sizes = [len(points.get_offsets()) for points in axis.collections]
    assert sizes == [sizes[0]] * 3
    assert 10 < sizes[0] <= 40


def test_only_bright_voxels_are_compared(monkeypatch):
    seen = []

    def voxel_features(network, image, masks, *_):
        seen.extend((image, mask) for mask in masks)
        return [np.zeros((int(mask.sum()), 4), np.float32) for mask in masks]

    monkeypatch.setattr(features, "_voxel_features", voxel_features)
    features._class_features(StubBench().network(CONFIG, 0), CONFIG, StubBench())
    assert len(seen) == 2 * features.N_PAIRS + 2
    for image, mask in seen:
        assert (image[mask] >= CONFIG.window.tau - 1e-4).all()
    assert any(mask.any() for _, mask in seen)


def test_cases_come_of_every_set():
    bench = StubBench()
    bench.data.tests["coronacases"].append(Case("coronacases_2", Path("c")))
    names = [case.case_id for case in results.spread_cases(bench, None)]
    assert names == ["coronacases_1", "radiopaedia_1", "coronacases_2"]
    assert len(results.spread_cases(bench, 2)) == 2


def test_stops_between_cases(monkeypatch):
    monkeypatch.setattr(StubBench, "stop", lambda self: True)
    with pytest.raises(Interrupted):
        draw_figure("figure5", SCALE, StubBench())


def test_fitted_slices_have_one_aspect():
    small, tall = fit([np.ones((10, 20)), np.ones((30, 40, 3))])
    assert small.shape == (15, 20)
    assert tall.shape == (30, 40, 3)
    assert small.sum() == 200
    assert small[2:12].all()


def test_every_figure_is_listed():
    known = experiments()
    for name in PANELS:
        assert known[name].kind == "figure"
        assert known[name].where.split()[-1] == name.removeprefix("supplementary-").removeprefix(
            "figure"
        )
        assert known[name].title
        assert known[name].cost
