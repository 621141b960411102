"""Right and left by the place in the body: its spine, its outline, or the border of the scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normnet.filters import block_means, erode
from normnet.lungs.external import LEFT, RIGHT
from normnet.scan import Doubt

BLOCK_MM = 3.0
BONE_HU, SPINE_MM = 110.0, 18.0  # a vertebra fills a disc of this radius
SPINE_PER_CENT = 25.0  # of the slices may have less bone there: discs between vertebrae
SPINE_SHARE = 0.25  # of the disc; ribs reach 0.22
# Where a vertebra lies, in mm behind the most dorsal lung; it lies in front of it.
SPINE_FROM_MM, SPINE_TO_MM = -60.0, 25.0
IN_FRONT_SHARE = 0.15  # by which a spine at the front exceeds what lies at the back
IN_VIEW_SHARE = 0.45  # of the disc: half a vertebra at the edge of the scan is found
BODY_HU, BODY_SHARE, EDGE_MM = -300.0, 0.15, 9.0
HALF_BODY_MM = 170.0
# Of one border of the scan, and so many times more than of the other.
CUT_CM2, BORDER_SHARE, CUT_TIMES = 5.0, 0.1, 3.0
FRAGMENT_SHARE = 0.02  # of the lungs; smaller components follow the nearest large one
CROSSING_SHARE = 0.3  # of the width of the lungs: no single lung reaches so far across the middle
MIRRORED_SHARE = 0.25  # of what lies between the lungs, that is more on the right
MIRRORED_TIMES = (1.0, 1.35)  # the right lung; a right lung that shrank draws the heart over, too
ONE_LUNG_SHARE = 0.25  # of one lump: less across the middle is a lung that crosses it


class Middle(NamedTuple):
    """Where the middle of the body lies.

    Attributes:
        column: Index along x, which may be outside the scan.
        by: ``spine``; ``body``, its outline; ``border``, where the scan cuts the lung; or ``guess``
            where none of these is in view.
        in_front: Whether the spine lies in front of the lungs, so that the orientation is wrong.
    """

    column: float
    by: str
    in_front: bool = False


def find_middle(volume_hu: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, ...]) -> Middle:
    """Find the middle of the body between right and left.

    It is the spine: the thickest column of bone at the level of the dorsal lung. Where no spine is
    in view, it is the middle of the body's outline; where one edge of the body is in view, it is
    half a body away from that. Else it is the border of the scan that cuts the lung: beside the
    spine, lung is never far. Where nothing of this is in view, it is a guess: the border that shows
    more bone at the level of a spine, or the middle of the scan.

    Args:
        volume_hu: (z, y, x), turned to head, back, left.
        lungs: Same shape, bool, not empty.
        spacing_mm: (z, y, x).
    """
    sizes = [
        min(n, max(1, round(BLOCK_MM / own)))
        for n, own in zip(volume_hu.shape, spacing_mm, strict=True)
    ]
    block_mm = [size * own for size, own in zip(sizes, spacing_mm, strict=True)]
    levels = np.flatnonzero(lungs.any(axis=(1, 2)))
    chest = slice(levels[0], levels[-1] + 1)
    coarse_hu = block_means(volume_hu[chest], sizes)

    bone = coarse_hu > BONE_HU
    rows = np.cumsum(lungs.sum(axis=(0, 2)))
    back, front = (np.searchsorted(rows, part * rows[-1]) / sizes[1] for part in (0.99, 0.01))
    spine = _spine_shares(bone, float(back), block_mm)
    other = _spine_shares(bone[:, ::-1], float(bone.shape[1] - 1 - front), block_mm)
    in_front = bool(other.max() >= spine.max() + IN_FRONT_SHARE)
    if in_front:
        spine = other
    if spine.max() >= SPINE_SHARE:
        return Middle((int(spine.argmax()) + 0.5) * sizes[2] - 0.5, "spine", in_front)

    column = _middle_of_body(coarse_hu > BODY_HU, block_mm)
    if column is not None:
        return Middle((column + 0.5) * sizes[2] - 0.5, "body")

    cm2 = spacing_mm[0] * spacing_mm[1] / 100
    cut_cm2 = [float(lungs[..., edge].sum()) * cm2 for edge in (0, -1)]
    for by, (first, last), enough in (
        ("border", cut_cm2, CUT_CM2),
        ("guess", (spine[0], spine[-1]), BORDER_SHARE),
    ):
        if max(first, last) >= max(enough, CUT_TIMES * min(first, last)):
            return Middle(-0.5 if first > last else lungs.shape[2] - 0.5, by)
    return Middle((lungs.shape[2] - 1) / 2, "guess")


def _spine_shares(bone: np.ndarray, back: float, block_mm: list[float]) -> np.ndarray:
    """How much bone a disc holds in nearly all slices, near the dorsal end of the lungs.

    Args:
        bone: (z, y, x) bool.
        back: Row at which the lungs end.
        block_mm: (z, y, x) size of its elements.

    Returns:
        (x,) largest share of bone in a disc whose centre lies in this column.
    """
    import torch

    rows, columns = (
        np.arange(-int(SPINE_MM / mm), int(SPINE_MM / mm) + 1) * mm for mm in block_mm[1:]
    )
    disc = (rows[:, None] ** 2 + columns**2 <= SPINE_MM**2).astype(np.float32)
    start, stop = (
        int(np.clip(back + mm / block_mm[1], 0, bone.shape[1]))
        for mm in (SPINE_FROM_MM, SPINE_TO_MM)
    )
    if start >= stop:
        return np.zeros(bone.shape[2])
    reach = len(rows) // 2
    first = max(0, start - reach)
    near = bone[:, first : stop + reach]
    planes = np.concatenate([np.ones_like(near[:1]), near]).astype(np.float32)[:, None]
    with torch.inference_mode():
        counts = torch.nn.functional.conv2d(
            torch.from_numpy(planes),
            torch.from_numpy(disc)[None, None],
            padding=(reach, len(columns) // 2),
        )[:, 0, start - first : stop - first].numpy()
    in_view, filled = counts[0], counts[1:]
    share = np.percentile(filled, SPINE_PER_CENT, axis=0) / in_view
    share[in_view < IN_VIEW_SHARE * disc.sum()] = 0
    shares: np.ndarray = share.max(axis=0)
    return shares


def _middle_of_body(body: np.ndarray, block_mm: list[float]) -> float | None:
    """The column of the middle of the body's outline; None if no edge of the body is in view.

    Args:
        body: (z, y, x) bool.
        block_mm: (z, y, x) size of its elements.
    """
    filled = body.sum(axis=(0, 1))
    columns = np.flatnonzero(filled > BODY_SHARE * filled.max())
    if not len(columns):
        return None
    first, last = float(columns[0]), float(columns[-1])
    margin, half = EDGE_MM / block_mm[2], HALF_BODY_MM / block_mm[2]
    sees_right, sees_left = first >= margin, last <= len(filled) - 1 - margin
    if sees_right and sees_left:
        return (first + last) / 2
    if sees_right:
        return first + half
    return last - half if sees_left else None


def split_left_right(lungs: np.ndarray, middle: float) -> np.ndarray:
    """Separate the right lung from the left, also where they touch.

    The lungs are eroded until no large component reaches far across the middle; every voxel then
    gets the side of the nearest component. A lung that is not in view gets no voxel.

    Args:
        lungs: (z, y, x) bool, x to the patient's left.
        middle: Column of the middle of the body.

    Returns:
        uint8: 1 right, 2 left, 0 elsewhere.
    """
    import cc3d

    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    n_lung = int(lungs.sum())
    core = lungs
    for _ in range(8):
        labels = cc3d.connected_components(core, connectivity=6)
        statistics = cc3d.statistics(labels)
        own = np.where(statistics["centroids"][:, 2] < middle, RIGHT, LEFT).astype(np.uint8)
        own[0] = 0
        # a mask that fills its array has no background, and that no box
        boxes = [box[2] if box else slice(0, 0) for box in statistics["bounding_boxes"]]
        reach = np.array([min(middle - box.start, box.stop - middle) for box in boxes])
        large = (own > 0) & (statistics["voxel_counts"] >= FRAGMENT_SHARE * n_lung)
        if not (large & (reach > CROSSING_SHARE * (columns[-1] - columns[0]))).any():
            if not large.any():
                break
            sides = np.where(large, own, 0)
            for side in {RIGHT, LEFT} - set(sides.tolist()):  # only a rim of this lung is in view
                sides[(own == side) & (reach <= 0)] = side
            return _spread(sides.astype(np.uint8)[labels], lungs)
        core = erode(core)
        if not core.any():
            break
    on_left = np.arange(lungs.shape[2]) >= middle
    share_left = float((lungs & on_left).sum()) / n_lung
    if min(share_left, 1 - share_left) < ONE_LUNG_SHARE:
        on_left[:] = share_left > 0.5
    return np.where(lungs, np.where(on_left, LEFT, RIGHT), 0).astype(np.uint8)


def _spread(seeds: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Every voxel of the lungs gets the side of the nearest seed."""
    from scipy.ndimage import distance_transform_edt

    if np.array_equal(seeds > 0, lungs):
        return seeds
    nearest = distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return np.where(lungs, seeds[tuple(nearest)], 0).astype(np.uint8)


def doubt_sides(
    volume_hu: np.ndarray, lung_labels: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[str, ...]:
    """Reasons why right and left may be wrong, and a lung that is not in view; one line each.

    Args:
        volume_hu: (z, y, x), turned to head, back, left; about 3 mm are fine enough.
        lung_labels: Same shape, 1 right, 2 left, not empty.
        spacing_mm: (z, y, x).
    """
    middle = find_middle(volume_hu, lung_labels > 0, spacing_mm)
    n_right, n_left = (int((lung_labels == side).sum()) for side in (RIGHT, LEFT))
    if min(n_right, n_left) < FRAGMENT_SHARE * max(n_right, n_left):
        missing, there = ("left", "right") if n_left < n_right else ("right", "left")
        found = f"no {missing} lung in view: all lung was taken for the {there} one"
        if middle.by == "guess":
            found += "; this is a guess, since neither spine nor body outline is in view"
        return (Doubt(found, "lung_missing"),)
    if middle.in_front:
        found = (
            "the spine lies in front of the lungs: the orientation of the image may be wrong, and "
            "right and left may be swapped"
        )
        return (Doubt(found, "orientation_unsure"),)
    if middle.by == "spine" and MIRRORED_TIMES[0] < n_left / n_right < MIRRORED_TIMES[1]:
        leftness = _heart_leftness(lung_labels, middle.column, spacing_mm)
        if leftness < -MIRRORED_SHARE:
            found = (
                "the heart lies on the right and the left lung is the larger one: the image may be "
                "mirrored, and right and left may be swapped"
            )
            return (Doubt(found, "orientation_unsure"),)
    return ()


def _heart_leftness(lung_labels: np.ndarray, middle: float, spacing_mm: tuple[float, ...]) -> float:
    """How far what lies between the lungs is on the left: 1 all of it, 0 half, -1 none.

    It counts in the lower half of the lungs and in front of the spine. 40 CTs of people with the
    heart on the left have -0.15 to 0.57.
    """
    levels = np.flatnonzero((lung_labels > 0).any(axis=(1, 2)))
    rows = np.cumsum((lung_labels > 0).sum(axis=(0, 2)))
    back = int(np.searchsorted(rows, 0.99 * rows[-1]) + SPINE_FROM_MM / spacing_mm[1])
    part = lung_labels[levels[0] : (levels[0] + levels[-1]) // 2 + 1, : max(back, 0)]
    right, left = part == RIGHT, part == LEFT
    n = part.shape[2]
    inner_right = n - 1 - right[..., ::-1].argmax(axis=2)
    inner_left = left.argmax(axis=2)
    between = right.any(axis=2) & left.any(axis=2) & (inner_left > inner_right)
    on_left = float(np.maximum(inner_left - middle, 0)[between].sum())
    on_right = float(np.maximum(middle - inner_right, 0)[between].sum())
    return (on_left - on_right) / max(on_left + on_right, 1.0)
