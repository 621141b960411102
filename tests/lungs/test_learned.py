"""The shipped lung network on phantoms: both lungs in any storage, and doubts about a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from normnet.config import Config, LungsConfig, LungsTrainingConfig
from normnet.errors import ValueRangeError
from normnet.lungs.learned import SLICES_AT_ONCE, agree, doubt_lungs, predict_lungs, segment_lungs
from normnet.models import shipped, with_lungs
from normnet.network.unet import build_unet
from normnet.network.weights import read_manifest
from normnet.scan import Geometry, Scan
from normnet.training.lungs.segmenter import lung_network
from tests.phantoms import Phantom, reorient, thorax_phantom

CONFIG = with_lungs(Config(), read_manifest(shipped("lungs"), "lungs")).lungs
SEVEN = LungsConfig(neighbours_mm=(6.0, 20.0, 50.0))
STORAGES = [
    ((0, 1, 2), (True, False, False)),
    ((0, 1, 2), (False, True, True)),
    ((2, 0, 1), (False, False, True)),
    ((1, 2, 0), (True, True, False)),
]


def sides_of(phantom: Phantom) -> np.ndarray:
    """The true lungs, 1 right, 2 left."""
    left = np.arange(phantom.scan.shape[2]) >= phantom.scan.shape[2] / 2
    return np.where(phantom.lung_mask, np.where(left, 2, 1), 0).astype(np.uint8)


def stored_as(array: np.ndarray, scan: Scan, order, flips) -> np.ndarray:
    return reorient(replace(scan, volume_hu=array), order, flips).volume_hu


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom((32, 96, 110), (5.0, 3.3, 2.9))


@pytest.fixture(scope="module")
def found(phantom, lung_networks) -> np.ndarray:
    return segment_lungs(phantom.scan, lung_networks, CONFIG)


@pytest.mark.parametrize("spacing_mm", [(1.0, 2.9, 3.3), (2.5, 2.5, 2.5), (8.0, 1.3, 1.3)])
def test_both_lungs_with_their_lesions(lung_networks, spacing_mm):
    """The trachea, the consolidation and the ground glass of the phantom are where they belong."""
    shape = tuple(round(size / mm) for size, mm in zip((160, 320, 320), spacing_mm, strict=True))
    phantom = thorax_phantom(shape, spacing_mm)
    labels = segment_lungs(phantom.scan, lung_networks, CONFIG)
    expected = sides_of(phantom)
    assert labels.shape == phantom.scan.shape
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2}
    for side in (1, 2):
        assert dice(labels == side, expected == side) > 0.97
    assert (labels > 0)[phantom.lesion_mask].mean() > 0.97
    assert (labels > 0).sum() * phantom.scan.geometry.voxel_ml == pytest.approx(
        phantom.lung_ml, rel=0.04
    )


@pytest.mark.parametrize(("order", "flips"), STORAGES)
def test_any_storage_gives_the_same_labels(phantom, found, lung_networks, order, flips):
    labels = segment_lungs(reorient(phantom.scan, order, flips), lung_networks, CONFIG)
    np.testing.assert_array_equal(labels, stored_as(found, phantom.scan, order, flips))


def test_same_scan_same_labels(phantom, found, lung_networks):
    np.testing.assert_array_equal(segment_lungs(phantom.scan, lung_networks, CONFIG), found)


@pytest.mark.parametrize("hu", [-1000, 0, 40])
def test_no_lung_is_an_error(lung_networks, hu):
    """Air, water, tissue."""
    volume = hu + np.random.default_rng(0).normal(0, 10, (20, 64, 64))
    scan = Scan(np.rint(volume).astype(np.int16), Geometry((5.0, 5.0, 5.0)), "nothing")
    with pytest.raises(ValueRangeError) as caught:
        segment_lungs(scan, lung_networks, CONFIG)
    assert caught.value.code == "NN-VAL-020"
    assert "nothing" in str(caught.value)


def test_a_body_without_lungs_is_an_error(phantom, lung_networks):
    solid = replace(
        phantom.scan,
        volume_hu=np.where(phantom.lung_mask, 40, phantom.scan.volume_hu).astype(np.int16),
    )
    with pytest.raises(ValueRangeError) as caught:
        segment_lungs(solid, lung_networks, CONFIG)
    assert caught.value.code == "NN-VAL-020"


# --- what the network sees ---


class Watching(nn.Module):
    """Remembers the grey value of every slice it saw, and says lung."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        self.seen.append(
            stack[:, :, 0, 8]
        )  # beside what is padded to the right, mirrored to the left
        return torch.full_like(stack[:, :1], 5.0)


@pytest.mark.parametrize(
    ("slice_mm", "apart"), [(2.0, (3, 10, 25)), (5.0, (1, 4, 10)), (8.0, (1, 2, 6))]
)
def test_a_slice_is_seen_with_its_neighbours(slice_mm, apart):
    """Every slice as it is and mirrored, in more than one batch; the outermost slices repeat."""
    depth = 2 * SLICES_AT_ONCE + 5
    volume = np.broadcast_to(
        np.float32(10 * np.arange(depth) - 1000)[:, None, None], (depth, 20, 24)
    )
    network = Watching()
    prob = predict_lungs(volume, slice_mm, [network], SEVEN)
    assert prob.shape == volume.shape
    assert prob.min() > 0.9
    for turn in (0, 1):
        grey = torch.cat(network.seen[turn::2])
        rows = ((grey * 1624 - 1024 + 1000) / 10).round().int().tolist()
        every = [*(-a for a in reversed(apart)), 0, *apart]
        assert rows == [[min(max(z + a, 0), depth - 1) for a in every] for z in range(depth)]


def test_a_network_of_seven_slices_finds_lungs_of_the_scans_shape(phantom):
    """Untrained, it says anything, but of every voxel."""
    torch.manual_seed(0)
    network = build_unet(
        lung_network(SEVEN, LungsTrainingConfig()).model_copy(update={"channels": (4, 8)})
    ).eval()
    volume = phantom.scan.volume_hu.astype(np.float32)
    prob = predict_lungs(volume, 5.0, [network], SEVEN)
    assert prob.shape == volume.shape
    assert 0 < prob.min() < prob.max() < 1
    above = volume.copy()
    above[20] = 500
    changed = (predict_lungs(above, 5.0, [network], SEVEN) != prob).any(axis=(1, 2))
    assert np.flatnonzero(changed).tolist() == [10, 16, 19, 20, 21, 24, 30]


# --- doubts ---


def test_whole_lungs_raise_no_doubt(phantom, found):
    assert doubt_lungs(phantom.scan, sides_of(phantom)) == ()
    assert doubt_lungs(phantom.scan, found) == ()


def with_consolidation(phantom: Phantom, where: np.ndarray) -> tuple[Scan, np.ndarray]:
    """The scan with solid lung there, and the true lungs without it."""
    where = where & phantom.lung_mask
    scan = replace(
        phantom.scan, volume_hu=np.where(where, 20, phantom.scan.volume_hu).astype(np.int16)
    )
    return scan, np.where(where, 0, sides_of(phantom)).astype(np.uint8)


def millimetres(phantom: Phantom) -> np.ndarray:
    """(3, z, y, x) from the middle of the phantom."""
    shape, spacing = np.array(phantom.scan.shape), np.array(phantom.scan.geometry.spacing_mm)
    return (np.indices(shape) - np.reshape((shape - 1) / 2, (3, 1, 1, 1))) * np.reshape(
        spacing, (3, 1, 1, 1)
    )


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (False, False, False)), *STORAGES])
def test_a_consolidation_left_out_raises_doubt(phantom, order, flips):
    """A solid band of 150 ml, 2 cm high, from the right wall inwards."""
    _, y_mm, x_mm = millimetres(phantom)
    scan, without = with_consolidation(phantom, (np.abs(y_mm) < 10) & (x_mm < -50))
    stored = reorient(scan, order, flips)
    assert doubt_lungs(stored, stored_as(sides_of(phantom), scan, order, flips)) == ()
    doubts = doubt_lungs(stored, stored_as(without, scan, order, flips))
    assert len(doubts) == 1
    assert "bays of the lung mask" in doubts[0]


def test_an_enclosed_consolidation_left_out_raises_doubt(phantom):
    """110 ml of solid lung with air all round."""
    ball = ((millimetres(phantom) - np.reshape((0, 0, -66), (3, 1, 1, 1))) ** 2).sum(0) <= 30**2
    assert doubt_lungs(*with_consolidation(phantom, ball)) != ()


@pytest.mark.parametrize(("side", "name"), [(1, "right"), (2, "left")])
@pytest.mark.parametrize(("order", "flips"), STORAGES[1:3])
def test_a_missing_lung_raises_doubt(phantom, side, name, order, flips):
    labels = sides_of(phantom)
    labels[labels == side] = 0
    stored = reorient(phantom.scan, order, flips)
    doubts = doubt_lungs(stored, stored_as(labels, phantom.scan, order, flips))
    assert [text.split(" lung ")[0] for text in doubts] == [f"no {name}"]


def test_the_network_keeps_a_consolidation(phantom, lung_networks):
    """34 ml of solid lung at the back, which a threshold would leave out."""
    ball = ((millimetres(phantom) - np.reshape((0, 45, -66), (3, 1, 1, 1))) ** 2).sum(0) <= 20**2
    scan, without = with_consolidation(phantom, ball)
    solid = (without == 0) & phantom.lung_mask
    labels = segment_lungs(scan, lung_networks, CONFIG)
    assert (labels == 1)[solid].mean() > 0.9


def test_slices_of_dense_tissue_agree():
    """The slices around a solid base overrule the one that says no; air does not change."""
    prob = np.ones((11, 4, 4), np.float32)
    prob[5] = 0
    hu = np.full(prob.shape, 40.0, np.float32)
    hu[:, :, 2:] = -850
    smooth = agree(prob, hu, 2.0, LungsConfig(smooth_mm=4.0))
    assert smooth[5, 0, 0] > 0.5
    assert smooth[5, 0, 2] == 0
    assert agree(prob, hu, 2.0, LungsConfig()) is prob
