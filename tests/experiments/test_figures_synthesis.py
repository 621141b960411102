"""Figures of the generator on a phantom: panels, what they show, the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from normnet.config import Config
from normnet.errors import InputError
from normnet.experiments import figures
from normnet.experiments.catalogue import Scale, experiments
from normnet.experiments.figures import FIGURES, draw_figure, save_figure
from normnet.experiments.figures.style import FALSE, TRUE
from normnet.preparation.cache import NormalCase, prepare_normal
from tests.phantoms import thorax_phantom

SETTINGS = {
    "preparation": {
        "spacing_mm": [3.0, 3.0, 3.0],
        "pad_to": "crop",
        "align_vox": 1,
        "edge_cut_rim": True,
    },
    "training": {"slab_vox": [16, 64, 64]},
    "synthesis": {
        "axes_small_vox": [2, 4],
        "axes_medium_vox": [4, 8],
        "axes_large_vox": [10, 16],
        "sigma_a_vox": [1, 4],
        "sigma_b_fine_vox": [0.5, 1],
        "sigma_b_coarse_vox": [1, 3],
    },
}
SCALE = Scale(name="tiny", settings=SETTINGS)
PANELS = {
    "figure3": (3, 4),
    "supplementary-figure1": (2, 4),
    "supplementary-figure2": (2, 3),
    "supplementary-figure3": (4, 4),
    "supplementary-figure4": (2, 4),
    "supplementary-figure5": (2, 4),
    "supplementary-figure6": (3, 2),
}


class StubBench:
    """A bench with prepared normal CTs and nothing else."""

    def __init__(self, cases: list[NormalCase]):
        self.cases = cases

    def normals(self, config: Config) -> list[NormalCase]:
        return self.cases


def prepared(seed: int, settings: dict = SETTINGS) -> NormalCase:
    phantom = thorax_phantom(
        shape=(48, 96, 96), spacing_mm=(3.3, 3.3, 3.3), lesions=False, seed=seed
    )
    return prepare_normal(
        phantom.scan,
        phantom.lung_mask.astype(np.uint8),
        Scale(name="t", settings=settings).config(),
    )


@pytest.fixture(scope="module")
def bench() -> StubBench:
    return StubBench([prepared(0), prepared(1)])


@pytest.fixture(scope="module")
def drawn(bench) -> dict[str, Figure]:
    return {name: draw_figure(name, SCALE, bench) for name in PANELS}


def images(name: str, figure: Figure) -> np.ndarray:
    """Pictures of a figure by row and column, (h, w) or (h, w, 3)."""
    axes = figure.axes
    found = np.empty(len(axes), object)
    for k, axis in enumerate(axes):
        found[k] = np.asarray(axis.images[0].get_array())
    return found.reshape(PANELS[name])


def roughness(picture: np.ndarray) -> float:
    """Mean step between neighbours over the standard deviation."""
    return float(np.abs(np.diff(picture, axis=1)).mean() / picture.std())


def coloured(picture: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Where an overlay is near a colour."""
    return np.abs(picture - colour).max(axis=-1) < 0.15


@pytest.mark.parametrize("name", PANELS)
def test_panels_are_full(name, drawn):
    figure = drawn[name]
    assert FIGURES[name][0] == "synthesis"
    assert len(figure.axes) == np.prod(PANELS[name])
    for axis in figure.axes:
        assert axis.images[0].get_array().std() > 0.01
        assert axis.get_title()
        assert axis.get_aspect() == 1
        assert axis.get_ylim()[0] > axis.get_ylim()[1]  # front of the patient above
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert any(text.endswith("mm") for text in texts)


@pytest.mark.parametrize("name", ["figure3", *(f"supplementary-figure{n}" for n in (1, 2, 4, 6))])
def test_same_bytes(name, bench, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    save_figure(drawn[name], tmp_path / "1.png")
    save_figure(draw_figure(name, SCALE, bench), tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize("name", list(PANELS)[1:6])
def test_varied_panels_differ(name, drawn):
    for row in images(name, drawn[name]):
        for k, picture in enumerate(row):
            for other in row[:k]:
                assert picture.shape != other.shape or np.abs(picture - other).max() > 0.02


def test_steps_of_the_generator(drawn):
    (
        (healthy, ellipsoids, deformed, _),
        (noise, prob_map, salt, filtered),
        (scaled, alone, image, target),
    ) = images("figure3", drawn["figure3"])
    assert (ellipsoids != deformed).any()
    assert (image >= healthy).all()
    assert noise.min() < 0.05
    assert noise.max() > 0.95
    assert prob_map.max() <= 0.3
    assert set(np.unique(salt)) == {0, 1}
    assert filtered.std() < salt.std()
    correlation = np.corrcoef(scaled.ravel(), filtered.ravel())[0, 1]
    assert correlation > 0.9
    assert (image >= alone).all()

    lesions, normal = coloured(target, FALSE), coloured(target, TRUE)
    assert lesions[image != healthy].all()
    assert (healthy[normal] >= 1 / 3).all()
    assert normal[(healthy >= 1 / 3) & ~lesions].all()
    assert normal.any()


def test_only_one_setting_is_varied(drawn):
    """The healthy lung round the lesion, and all draws, are those of the other panels."""
    for name in ("supplementary-figure3", "supplementary-figure4", "supplementary-figure5"):
        for row in images(name, drawn[name])[1::2]:
            same = np.logical_and.reduce([picture == row[0] for picture in row])
            assert 0.2 < same.mean() < 0.95
    scaled_maps = images("supplementary-figure3", drawn["supplementary-figure3"])[2]
    for other in scaled_maps[1:]:
        assert np.corrcoef(scaled_maps[0].ravel(), other.ravel())[0, 1] > 0.9999


def test_sigma_a_smooths_the_map_and_its_limits_shift_it(drawn):
    smooth, _, scaled, _ = images("supplementary-figure3", drawn["supplementary-figure3"])
    rough = [roughness(picture) for picture in smooth]
    assert rough == sorted(rough, reverse=True)
    for picture, (low, high) in zip(
        scaled, [(0, 0.15), (0.075, 0.225), (0.15, 0.3), (0, 0.3)], strict=True
    ):
        assert low <= picture.min() < picture.max() <= high
    means = [picture.mean() for picture in scaled]
    assert means[0] < means[1] < means[2]


def test_sigma_b_smooths(drawn):
    rough = [
        roughness(picture)
        for picture in images("supplementary-figure4", drawn["supplementary-figure4"])[0]
    ]
    assert rough == sorted(rough, reverse=True)


def test_mu_0_brightens(drawn):
    for row in images("supplementary-figure5", drawn["supplementary-figure5"]):
        means = [picture.mean() for picture in row]
        assert means == sorted(means)
        assert means[-1] > 1.1 * means[0]


def test_numbers_are_those_of_table_4(drawn):
    titles = [axis.get_title() for axis in drawn["supplementary-figure2"].axes[:3]]
    wanted = [
        ("(iii)", r"F[3\lambda, 8\lambda]", r"0.1\lambda"),
        ("default", r"F[5\lambda, 10\lambda]", r"0.2\lambda"),
    ]
    for title, parts in zip(
        titles, [*wanted, ("(iv)", r"F[7\lambda, 12\lambda]", r"0.3\lambda")], strict=True
    ):
        assert all(part in title for part in parts)


def test_edges_are_the_cases_own(bench, drawn):
    shown = images("supplementary-figure6", drawn["supplementary-figure6"])
    for case, picture in zip(bench.cases, shown[1], strict=True):
        z = case.lung_mask.sum(axis=(1, 2)).argmax()
        assert case.edge_mask[z].any()
        assert coloured(picture, FALSE).sum() == case.edge_mask[z].sum()


def test_padding_is_cut_off(bench, drawn):
    """The paper pads to 512 x 512; the pictures show the lungs."""
    case = bench.cases[0]
    pads = ((0, 0), (20, 30), (30, 20))
    wide = replace(
        case,
        codes=np.pad(case.codes, pads),
        lung_mask=np.pad(case.lung_mask, pads),
        edge_mask=np.pad(case.edge_mask, pads),
    )
    padded = draw_figure("figure3", SCALE, StubBench([wide]))
    for one, other in zip(
        images("figure3", drawn["figure3"]).flat, images("figure3", padded).flat, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_no_slab_is_an_error_for_people(bench):
    case = replace(bench.cases[0], usable=np.zeros(len(bench.cases[0].usable), bool))
    with pytest.raises(InputError, match="NN-TRN-001"):
        draw_figure("figure3", SCALE, StubBench([case]))


def test_every_figure_is_listed():
    known = experiments()
    for name in PANELS:
        assert known[name].kind == "figure"
        assert known[name].where.split()[-1] == name.removeprefix("supplementary-").removeprefix(
            "figure"
        )
        assert known[name].title
        assert known[name].cost
