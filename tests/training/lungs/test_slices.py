"""What the lung network learns from: slices of volumes and of archives."""

from __future__ import annotations

import numpy as np
import pytest

from normnet import read_ct
from normnet.config import LungsConfig
from normnet.errors import InputError, ResourceError
from normnet.io.formats.nifti import write_image
from normnet.io.masks import read_labels
from normnet.lungs.given import sort_lungs
from normnet.lungs.learned import seen_slices
from normnet.scan import Geometry, Scan
from normnet.training.lungs.slices import (
    archive_slices,
    fingerprints,
    read_lung_slices,
    volume_slices,
)
from tests.phantoms import ORIENTATIONS, reorient, thorax_phantom, write_nifti

CONFIG = LungsConfig(neighbours_mm=(6.0,))  # pixels of 1.5 mm
SEVEN = LungsConfig(neighbours_mm=(6.0, 20.0, 50.0))


def stairs(depth: int, slice_mm: float) -> tuple[Scan, np.ndarray]:
    """HU is ten times the slice's index; the mask is a quarter of every slice."""
    volume = np.broadcast_to(10 * np.arange(depth)[:, None, None], (depth, 32, 48)).astype(np.int16)
    mask = np.zeros(volume.shape, bool)
    mask[:, 8:24, 12:36] = True
    return Scan(volume, Geometry((slice_mm, 0.75, 0.75))), mask


def levels(slices) -> list[int]:
    """Of the middle ones."""
    return [int(item.image_hu[len(item.rows) // 2, 5, 5]) for item in slices]


# --- volumes ---


def test_pixels_are_as_wide_as_asked_for():
    """HU grows by one with every column of 0.75 mm: half of them are left, at the right places."""
    scan, mask = stairs(3, 5.0)
    columns = np.broadcast_to(np.arange(48, dtype=np.int16), scan.shape)
    first = volume_slices(Scan(columns, scan.geometry), mask, CONFIG)[0]
    assert first.image_hu.dtype == np.int16
    assert first.lung_mask.dtype == bool
    assert first.pixel_mm == 1.5
    assert first.image_hu.shape == first.lung_mask.shape == (3, 16, 24)
    np.testing.assert_array_equal(first.image_hu, np.broadcast_to(2 * np.arange(24), (3, 16, 24)))
    expected = np.zeros((16, 24), bool)
    expected[4:12, 6:18] = True
    np.testing.assert_array_equal(first.lung_mask, np.stack([expected] * 3))


@pytest.mark.parametrize(
    ("depth", "slice_mm", "thin", "thick"),
    [
        (12, 2.0, range(12), [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11)]),
        (24, 0.5, range(0, 24, 4), [(0, 12), (8, 20)]),
        (4, 5.0, range(4), [(0, 2), (1, 3), (2, 4)]),
        (3, 8.0, range(3), [(0, 2), (1, 3)]),
    ],
)
def test_thin_slices_and_thick_averages(depth, slice_mm, thin, thick):
    scan, mask = stairs(depth, slice_mm)
    averages = [int(10 * np.mean(range(*window))) for window in thick]
    assert levels(volume_slices(scan, mask, CONFIG)) == [10 * z for z in thin] + averages


def test_neighbours_below_and_above():
    """6 mm away, of thin slices and of thick ones; at the ends of the scan the last there is."""
    scan, mask = stairs(12, 2.0)
    slices = volume_slices(scan, mask, CONFIG)
    seen = [item.image_hu[:, 5, 5].tolist() for item in slices]
    assert seen[:12] == [[10 * max(0, z - 3), 10 * z, 10 * min(11, z + 3)] for z in range(12)]
    assert [item.rows for item in slices[:2]] == [(0, 0, 3), (0, 1, 4)]
    assert seen[12:14] == [[10, 10, 40], [10, 30, 60]]
    assert {item.heights_mm for item in slices} == {(-6.0, 0.0, 6.0)}


def test_seven_slices_are_seen():
    """6, 20 and 50 mm away, rounded to whole slices; copies of the outermost keep their height."""
    scan, mask = stairs(60, 2.5)
    slices = volume_slices(scan, mask, SEVEN)[:60]
    apart = np.array([-20, -8, -2, 0, 2, 8, 20])
    for z in (0, 1, 5, 30, 55, 59):
        rows = [min(max(z + a, 0), 59) for a in apart]
        assert list(slices[z].rows) == rows
        assert slices[z].image_hu[:, 5, 5].tolist() == [10 * row for row in rows]
        assert slices[z].image_hu.shape == slices[z].lung_mask.shape == (7, 16, 24)
        assert slices[z].heights_mm == tuple(2.5 * apart)


@pytest.mark.parametrize(
    ("slice_mm", "apart"),
    [(1.0, (6, 20, 50)), (5.0, (1, 4, 10)), (8.0, (1, 2, 6)), (30.0, (1, 1, 2))],
)
def test_neighbours_in_slices_of_any_thickness(slice_mm, apart):
    """At least the next one; the network's input and what it learned from are chosen alike."""
    seen = seen_slices(slice_mm, SEVEN)
    assert seen.tolist() == [*(-a for a in reversed(apart)), 0, *apart]
    assert seen_slices(slice_mm, CONFIG).tolist() == [-apart[0], 0, apart[0]]


def test_slices_share_the_volume_of_their_ct():
    """However many are seen with each, no voxel is kept twice."""
    scan, mask = stairs(12, 2.0)
    slices = volume_slices(scan, mask, SEVEN)
    assert len({id(item.volume_hu) for item in slices}) == 2  # thin and thick
    assert len({id(item.volume_mask) for item in slices}) == 2


def test_slices_without_lung_are_known_by_their_middle():
    scan, mask = stairs(12, 2.0)
    mask[4:] = False
    slices = volume_slices(scan, mask, SEVEN)[:12]
    assert [item.is_empty for item in slices] == [False] * 4 + [True] * 8
    assert slices[4].lung_mask.any()


def test_the_mask_of_a_thick_slice_is_what_most_of_it_is():
    scan, mask = stairs(12, 2.0)
    mask[[0, 5, 6]] = False  # thick slices: 0 to 2, 2 to 4, 4 to 6, 6 to 8, 8 to 10
    thick = volume_slices(scan, mask, CONFIG)[12:]
    assert [bool(item.lung_mask[1].any()) for item in thick] == [True, True, False, True, True]


def test_excluded_slices_are_in_no_average():
    scan, mask = stairs(12, 2.0)
    found = levels(volume_slices(scan, mask, CONFIG, frozenset({4})))
    assert found == [0, 10, 20, 30, 50, 60, 70, 80, 90, 100, 110, 10, 70, 90]


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[1::7])
def test_any_storage_gives_the_same_slices(order, flips):
    """Excluded slices are counted as the file stores them."""
    scan, mask = stairs(12, 2.0)
    volume = scan.volume_hu + np.random.default_rng(0).integers(0, 10, scan.shape).astype(np.int16)
    scan = Scan(volume, scan.geometry)
    mask[:, 8:12, 12:20] = False  # no symmetry
    expected = volume_slices(scan, mask, CONFIG, frozenset({1, 8}))
    stored = reorient(scan, order, flips)
    stored_mask = reorient(Scan(mask.astype(np.uint8), scan.geometry), order, flips).volume_hu
    excluded = frozenset({10, 3} if flips[order.index(0)] else {1, 8})
    found = volume_slices(stored, stored_mask, CONFIG, excluded)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image_hu, other.image_hu)
        np.testing.assert_array_equal(one.lung_mask, other.lung_mask)


# --- archives ---


def write_archive(path, *, packed=True, width=24, **changes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 16, width), dtype=np.uint8)
    masks = rng.random(images.shape) < 0.5
    stored = np.packbits(masks, axis=-1) if packed else masks
    parts = {"images": images, "masks": stored, "slope": 6.0, "inter": -1024.0, **changes}
    np.savez_compressed(path, **{name: value for name, value in parts.items() if value is not None})
    return images, masks


@pytest.mark.parametrize("width", [24, 20])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("config", "n_seen"), [(CONFIG, 3), (SEVEN, 7)])
def test_masks_as_bits_or_as_they_are(tmp_path, packed, width, config, n_seen):
    images, masks = write_archive(tmp_path / "slices.npz", packed=packed, width=width)
    slices = archive_slices(tmp_path / "slices.npz", config)
    assert len(slices) == 3
    for item, image, mask in zip(slices, images, masks, strict=True):
        np.testing.assert_array_equal(
            item.image_hu, np.stack([image.astype(int) * 6 - 1024] * n_seen)
        )
        np.testing.assert_array_equal(item.lung_mask, np.stack([mask] * n_seen))
        assert item.heights_mm == (0,) * n_seen
        assert item.image_hu.dtype == np.int16
        assert item.pixel_mm == 1.4


def test_pixel_size_and_hu_of_an_archive(tmp_path):
    images, _ = write_archive(tmp_path / "slices.npz", pixel_mm=0.9)
    first = archive_slices(tmp_path / "slices.npz", CONFIG, to_hu=(20.0, -1100.0))[0]
    assert first.pixel_mm == 0.9
    np.testing.assert_array_equal(
        first.image_hu[1], np.clip(images[0].astype(int) * 20 - 1100, -1024, 3071)
    )


def test_an_archive_may_lack_hu_where_they_are_given(tmp_path):
    write_archive(tmp_path / "slices.npz", slope=None, inter=None)
    assert len(archive_slices(tmp_path / "slices.npz", CONFIG, to_hu=(6.0, -1024.0))) == 3


@pytest.mark.parametrize(
    "changes",
    [{"slope": None}, {"images": None}, {"masks": None}, {"masks": np.ones((2, 16, 3), np.uint8)},
     {"masks": np.ones((3, 16, 2), np.uint8)}, {"masks": np.ones((3, 16, 23), bool)},
     {"masks": np.array([None, None, None])}],
)  # fmt: skip
def test_incomplete_archives(tmp_path, changes):
    write_archive(tmp_path / "slices.npz", **changes)
    with pytest.raises(InputError) as caught:
        archive_slices(tmp_path / "slices.npz", CONFIG)
    assert caught.value.code == "NN-DAT-003"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[:100],
        lambda data: data[:-30],
        lambda data: b"x" * 99,
        lambda data: data[:200] + bytes(100) + data[300:],
    ],
)
def test_damaged_archives(tmp_path, damage):
    path = tmp_path / "slices.npz"
    write_archive(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        archive_slices(path, CONFIG)
    assert caught.value.code == "NN-DAT-003"


def test_what_is_no_archive(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    for path in (tmp_path / "nothing.npz", tmp_path / "array.npy", tmp_path):
        with pytest.raises(InputError) as caught:
            archive_slices(path, CONFIG)
        assert caught.value.code == "NN-DAT-003"


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.full((3, 16, 24), np.nan, np.float32)},
        {"images": np.full((3, 16, 24), np.inf, np.float32)},
        {"images": np.zeros((0, 16, 24), np.uint8), "masks": np.zeros((0, 16, 3), np.uint8)},
        {"images": np.zeros((16, 24), np.uint8)},
        {"images": np.array([{}], dtype=object)},
        {"images": np.array(["a"])},
        {"masks": np.zeros((3, 16, 24), np.float32)},
        {"masks": np.zeros((3, 16, 23), bool)},
        {"masks": np.zeros((2, 16, 24), bool)},
        {"slope": np.nan},
        {"slope": 0.0},
        {"slope": "six"},
        {"inter": np.inf},
        {"pixel_mm": np.nan},
        {"pixel_mm": -1.4},
        {"pixel_mm": np.array([1.0, 2.0])},
    ],
)
def test_archives_of_wrong_values(tmp_path, changes):
    write_archive(tmp_path / "slices.npz", **changes)
    with pytest.raises(InputError) as caught:
        archive_slices(tmp_path / "slices.npz", CONFIG)
    assert caught.value.code == "NN-DAT-003"


def test_archives_that_inflate_without_end(tmp_path):
    images = np.zeros((64, 512, 512), np.uint8)
    write_archive(tmp_path / "slices.npz", images=images, masks=images)
    with pytest.raises(ResourceError) as caught:
        archive_slices(tmp_path / "slices.npz", CONFIG)
    assert caught.value.code == "NN-RES-003"


# --- manifests ---

DEPTHS = {"train": 8, "unmarked": 10, "heldout": 14, "dev": 22, "no_mask": 38}
N_SLICES = {
    name: 2 * depth - 1 for name, depth in DEPTHS.items()
}  # 5 mm: all of them and all pairs


@pytest.fixture
def manifest(tmp_path):
    rows = ["case_id,file,lung_mask,split,nodule_slices"]
    for name, depth in DEPTHS.items():
        phantom = thorax_phantom((depth, 32, 32), (5.0, 10.0, 10.0), lesions=False, vessels=False)
        write_nifti(phantom.scan, tmp_path / f"{name}.nii.gz")
        write_image(tmp_path / f"{name}_lung.nii.gz", phantom.lung_mask, phantom.scan.geometry)
    rows += [
        "train,train.nii.gz,train_lung.nii.gz,train,",
        "unmarked,unmarked.nii.gz,unmarked_lung.nii.gz,,",
    ]
    rows += [f"{name},{name}.nii.gz,{name}_lung.nii.gz,{name}," for name in ("heldout", "dev")]
    rows += ["no_mask,no_mask.nii.gz,,train,", "gone,gone.nii.gz,train_lung.nii.gz,train,"]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_only_training_cases_with_a_mask_count(manifest):
    slices = read_lung_slices([manifest], CONFIG)
    assert len(slices) == N_SLICES["train"] + N_SLICES["unmarked"]
    assert sum(item.lung_mask.any() for item in slices) > 20


def test_cases_left_out_and_archives_beside_lists(manifest, tmp_path):
    write_archive(tmp_path / "slices.npz", slope=None, inter=None)
    slices = read_lung_slices(
        [manifest, tmp_path / "slices.npz"], CONFIG, frozenset({"train"}), (6.0, -1024.0)
    )
    assert len(slices) == N_SLICES["unmarked"] + 3
    slices = read_lung_slices(
        [manifest, tmp_path / "slices.npz"], SEVEN, frozenset({"train"}), (6.0, -1024.0)
    )
    assert {len(item.rows) for item in slices} == {len(item.heights_mm) for item in slices} == {7}


def test_suspect_slices_of_a_list(manifest):
    manifest.write_text(
        manifest.read_text().replace(
            "train_lung.nii.gz,train,\nun", "train_lung.nii.gz,train,0\nun"
        )
    )
    slices = read_lung_slices([manifest], CONFIG)
    assert len(slices) == N_SLICES["train"] - 2 + N_SLICES["unmarked"]


def test_organs_of_a_mask_are_no_lung(manifest, tmp_path):
    """Lungs by their labels, as ``prepare`` reads them."""
    slices = read_lung_slices([manifest], CONFIG)
    path = tmp_path / "train_lung.nii.gz"
    scan = read_ct(tmp_path / "train.nii.gz")
    labels = sort_lungs(read_labels(path, scan), scan)[0]
    labels[(scan.volume_hu > -50) & (scan.volume_hu < 100) & (labels == 0)] = 4
    write_image(path, labels, scan.geometry)
    again = read_lung_slices([manifest], CONFIG)
    for one, other in zip(slices, again, strict=True):
        np.testing.assert_array_equal(one.lung_mask, other.lung_mask)


def test_nothing_to_learn_from(manifest, tmp_path):
    with pytest.raises(InputError) as caught:
        read_lung_slices([manifest], CONFIG, frozenset({"train", "unmarked"}))
    assert caught.value.code == "NN-DAT-005"
    write_archive(tmp_path / "empty.npz", masks=np.zeros((3, 16, 3), np.uint8))
    with pytest.raises(InputError) as caught:
        read_lung_slices([tmp_path / "empty.npz"], CONFIG)
    assert caught.value.code == "NN-DAT-005"


def test_neither_list_nor_archive(tmp_path):
    with pytest.raises(InputError) as caught:
        read_lung_slices([tmp_path / "ct.nii.gz"], CONFIG)
    assert caught.value.code == "NN-DAT-004"


def test_fingerprints_change_with_what_is_read(manifest, tmp_path):
    """A CT, a mask, excluded slices and an archive; not what is left out or not for training."""
    write_archive(tmp_path / "slices.npz")
    inputs = [manifest, tmp_path / "slices.npz"]

    def changed() -> list[str]:
        nonlocal before
        found = fingerprints(inputs)
        names = [
            f"{name} {case}"
            for name, hashes in found.items()
            for case in hashes
            if hashes[case] != before[name][case]
        ]
        before = found
        return names

    before = fingerprints(inputs)
    assert {name: list(cases) for name, cases in before.items()} == {
        "1: cases.csv": ["train", "unmarked"],
        "2: slices.npz": ["archive"],
    }
    assert changed() == []
    for name in ("train.nii.gz", "unmarked_lung.nii.gz", "dev.nii.gz"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"x")
    assert changed() == ["1: cases.csv train", "1: cases.csv unmarked"]
    manifest.write_text(manifest.read_text().replace("lung.nii.gz,train,", "lung.nii.gz,train,3"))
    write_archive(tmp_path / "slices.npz", inter=-1000.0)
    assert changed() == ["1: cases.csv train", "2: slices.npz archive"]
    assert list(fingerprints(inputs, frozenset({"train"}))["1: cases.csv"]) == ["unmarked"]
