"""The picture shows the patient the radiological way, whatever the file's orientation."""

from types import SimpleNamespace

import numpy as np
import pytest

from normnet.quantification import quantify
from normnet.results.preview import LESION, LUNGS, choose_slices, draw_preview
from tests.phantoms import ORIENTATIONS, reorient, thorax_phantom


def _segmentation(scan, lesion_mask, labels):
    return SimpleNamespace(
        lesion_mask=lesion_mask,
        lung_labels=labels,
        volumes=quantify(lesion_mask, labels, scan.geometry.voxel_ml),
    )


@pytest.fixture(scope="module")
def case():
    phantom = thorax_phantom((32, 64, 64), (5.0, 5.0, 5.0), vessels=False)
    left = np.arange(64) >= 32  # x grows to the patient's left
    labels = np.where(phantom.lung_mask, np.where(left, 2, 1), 0).astype(np.uint8)
    return phantom.scan, phantom.lesion_mask & phantom.lung_mask, labels


def _pixels(picture, colour):
    """(row, column) of the pixels of one colour, the legend's strip and the header left out."""
    array = np.asarray(picture)[90:-50]
    return np.argwhere((array == colour).all(axis=-1))


def test_right_lung_is_on_the_left_of_every_tile(case):
    picture = draw_preview(case[0], _segmentation(*case))
    right = tuple(int(np.float32(c * 0.85).round()) for c in LUNGS[1])
    left = tuple(int(np.float32(c * 0.85).round()) for c in LUNGS[2])
    first_tile = (picture.width - 30) / 4
    rights, lefts = (_pixels(picture, colour) for colour in (right, left))
    in_first = [points[points[:, 1] < first_tile][:, 1] for points in (rights, lefts)]
    assert in_first[0].max() < in_first[1].min()


def test_same_picture_for_every_orientation(case):
    scan, lesions, labels = case
    expected = np.asarray(draw_preview(scan, _segmentation(*case)))
    for order, flips in ORIENTATIONS[::7]:
        turned = reorient(scan, order, flips)
        index = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        masks = [np.ascontiguousarray(array.transpose(order)[index]) for array in (lesions, labels)]
        picture = np.asarray(draw_preview(turned, _segmentation(turned, *masks)))
        tiles = slice(110, -50)  # the header tells the stored order, the tiles their slice number
        same = (np.abs(picture[tiles].astype(int) - expected[tiles]) < 8).all(axis=-1)
        assert same.mean() > 0.995, (order, flips)


def test_shape_follows_the_spacing():
    sizes = []
    for dz in (2.5, 10.0):
        phantom = thorax_phantom((round(160 / dz), 64, 64), (dz, 5.0, 5.0), vessels=False)
        labels = phantom.lung_mask.astype(np.uint8)
        sizes.append(
            draw_preview(
                phantom.scan, _segmentation(phantom.scan, phantom.lesion_mask, labels)
            ).size
        )
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] == pytest.approx(sizes[1][1], rel=0.06)


def test_lesions_are_shown_and_only_where_they_are(case):
    scan, lesions, labels = case
    assert len(_pixels(draw_preview(scan, _segmentation(scan, lesions, labels)), LESION)) > 100
    assert (
        len(
            _pixels(draw_preview(scan, _segmentation(scan, np.zeros_like(lesions), labels)), LESION)
        )
        == 0
    )


def test_slices_are_spread_and_hold_the_largest_lesion():
    lungs = np.zeros((100, 4, 4), np.uint8)
    lungs[10:90] = 1
    lesions = np.zeros(lungs.shape, bool)
    lesions[33, :2] = True
    lesions[60:70, 0, 0] = True
    chosen = choose_slices(lungs, lesions, 0, 8)
    assert 33 in chosen
    assert len(chosen) == 8
    assert chosen == sorted(set(chosen))
    assert max(np.diff(chosen)) <= 20
    assert chosen[0] >= 10
    assert chosen[-1] < 90


def test_few_slices_and_no_lung():
    lungs = np.zeros((5, 4, 4), np.uint8)
    assert choose_slices(lungs, lungs.astype(bool), 0, 8) == [0, 1, 2, 3, 4]
    phantom = thorax_phantom((8, 32, 32), (20.0, 10.0, 10.0), vessels=False)
    nothing = np.zeros(phantom.scan.shape, np.uint8)
    assert (
        draw_preview(phantom.scan, _segmentation(phantom.scan, nothing.astype(bool), nothing)).width
        > 1000
    )
