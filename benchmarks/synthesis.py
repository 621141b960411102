"""Slabs per second of the lesion generator, beside Eqs. 2 to 9 written literally in numpy/scipy.

    python benchmarks/synthesis.py --slabs 20 --threads 2
    python benchmarks/synthesis.py --device cuda --alone --slabs 400 --threads 4

Both put lesions into the same 32 x 512 x 512 slab with two ellipsoid lungs (lambda = 1). They take
turns batch by batch, so that other work on the machine slows both alike. With `--device` the slabs
of normnet are made there and stay there; a batch ends when the device has made all of it. `--alone`
leaves the literal transcription out.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import ndimage

from normnet.config import SynthesisConfig, load_config
from normnet.synthesis.generator import synthesize_lesions

SLAB = (32, 512, 512)


def ellipsoid_lungs() -> np.ndarray:
    """Two lungs that fill about 30 % of the slab, bool."""
    z, y, x = np.ogrid[: SLAB[0], : SLAB[1], : SLAB[2]]
    lungs = np.zeros(SLAB, bool)
    for centre in (155, 357):
        lungs |= ((z - 16) / 150) ** 2 + ((y - 256) / 162) ** 2 + ((x - centre) / 80) ** 2 <= 1
    return lungs


def literal_ellipsoid(
    axes: np.ndarray, config: SynthesisConfig, rng: np.random.Generator
) -> np.ndarray:
    """A cube around one ellipsoid, deformed by smoothed random fields (Simard et al.), rotated."""
    reach = int(np.ceil(axes.max() * 1.5)) + 1
    offsets = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(offsets, offsets, offsets, indexing="ij")).astype(float)
    solid = ((grid / axes[:, None, None, None]) ** 2).sum(0) <= 1
    strength = rng.uniform(*config.elastic) * axes.mean()
    sigma = axes.mean() / 2
    shifts = [ndimage.gaussian_filter(rng.uniform(-1, 1, solid.shape), sigma) for _ in range(3)]
    shifts = [shift * strength / shift.std() for shift in shifts]
    deformed = ndimage.map_coordinates(
        solid.astype(float), [g + reach + s for g, s in zip(grid, shifts, strict=True)], order=1
    )
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    centre = np.full(3, float(reach))
    return ndimage.affine_transform(deformed, rotation, centre - rotation @ centre, order=1) >= 0.5


def literal_texture(
    shape: tuple[int, ...], config: SynthesisConfig, rng: np.random.Generator
) -> np.ndarray:
    """Eqs. 2 to 8 as they stand."""
    while True:
        a_upper, a_lower = rng.uniform(*config.a_limits), rng.uniform(*config.a_limits)
        if a_upper - a_lower > config.a_gap:
            break
    a_1 = rng.uniform(0, 1, shape)
    a_2 = ndimage.gaussian_filter(a_1, rng.uniform(*config.sigma_a_vox))  # Eq. 7
    a = (a_upper - a_lower) * (a_2 - a_2.min()) / (a_2.max() - a_2.min()) + a_lower  # Eq. 8
    b_1 = (rng.uniform(0, 1, shape) < a).astype(float)  # Eq. 2
    fine = rng.uniform() < config.prob_fine
    limits = config.sigma_b_fine_vox if fine else config.sigma_b_coarse_vox
    sigma_b = rng.uniform(*limits)  # Eq. 4
    b_2 = ndimage.gaussian_filter(b_1, sigma_b)  # Eq. 3
    passing = b_2[b_2 > config.mean_above]
    mean = passing.mean() if passing.size else np.percentile(b_2, 97.5)
    return np.clip(rng.uniform(*config.mu0) / max(mean, 1e-6) * b_2, 0, 1)  # Eqs. 5 and 6


def literal_lesions(
    thorax: np.ndarray, lungs: np.ndarray, config: SynthesisConfig, rng: np.random.Generator
) -> np.ndarray:
    """Sec. III-C for lambda = 1: shapes, connected components, a texture for each, maximum."""
    kinds = [config.axes_small_vox] * int(rng.integers(config.n_small[0], config.n_small[1] + 1))
    kinds += [config.axes_medium_vox] * int(
        rng.integers(config.n_medium[0], config.n_medium[1] + 1)
    )
    if rng.uniform() < config.prob_large:
        kinds.append(config.axes_large_vox)
    voxels = np.flatnonzero(lungs)
    blobs = np.zeros(lungs.shape, bool)
    for limits in kinds:
        solid = literal_ellipsoid(rng.uniform(*limits, size=3), config, rng)
        centre = np.unravel_index(rng.choice(voxels), lungs.shape)
        low = [c - n // 2 for c, n in zip(centre, solid.shape, strict=True)]
        target = tuple(
            slice(max(0, a), min(m, a + n))
            for a, n, m in zip(low, solid.shape, lungs.shape, strict=True)
        )
        source = tuple(slice(t.start - a, t.stop - a) for t, a in zip(target, low, strict=True))
        blobs[target] |= solid[source]
    labels, _ = ndimage.label(blobs, np.ones((3, 3, 3)))
    image = thorax.copy()
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = (labels[box] == number) & lungs[box]
        texture = literal_texture(inside.shape, config, rng) * inside
        image[box] = np.maximum(image[box], texture)  # Eq. 9
    return image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slabs", type=int, default=20, help="slabs each of the two makes")
    parser.add_argument(
        "--threads", type=int, default=2, help="slabs made at the same time, each on one thread"
    )
    parser.add_argument("--device", default="cpu", help="where normnet makes its slabs")
    parser.add_argument("--alone", action="store_true", help="without the literal transcription")
    args = parser.parse_args()
    # a slab is many small operations: whole slabs side by side gain more than split ones
    torch.set_num_threads(1)
    config = load_config("paper").synthesis
    lungs = ellipsoid_lungs()
    thorax = (np.random.default_rng(0).uniform(0, 0.3, SLAB) * lungs).astype(np.float32)
    thorax_tensor, lungs_tensor = (torch.from_numpy(a).to(args.device) for a in (thorax, lungs))
    n_lung = int(lungs.sum())

    def ours(seed: int) -> torch.Tensor:
        rng = torch.Generator(args.device).manual_seed(seed)
        return synthesize_lesions(thorax_tensor, lungs_tensor, n_lung, config, rng).image

    def literal(seed: int) -> np.ndarray:
        return literal_lesions(thorax, lungs, config, np.random.default_rng(seed))

    # (name, what makes a slab, what the slab is compared with)
    makers = [(f"normnet, {args.device}", ours, thorax_tensor)]
    if not args.alone:
        makers.append(("literal scipy", literal, thorax))
    n_makers = len(makers)
    seconds, cpu_seconds, share = (np.zeros(n_makers) for _ in range(3))
    rounds = -(-args.slabs // args.threads)
    with ThreadPoolExecutor(args.threads) as pool:
        for batch in range(rounds + 1):
            seeds = range(batch * args.threads, (batch + 1) * args.threads)
            for which, (_, make, healthy) in enumerate(makers):
                start, cpu_start = time.perf_counter(), time.process_time()
                images = list(pool.map(make, seeds))
                synchronize(args.device)
                if batch:  # the first of each is a warm-up
                    seconds[which] += time.perf_counter() - start
                    cpu_seconds[which] += time.process_time() - cpu_start
                    share[which] += sum(int((image > healthy).sum()) / n_lung for image in images)

    n = rounds * args.threads
    print(f"slab {SLAB}, lung {100 * lungs.mean():.0f} % of it, lambda 1")
    print(f"{n} slabs each, {args.threads} threads")
    for which, (name, _, _) in enumerate(makers):
        speed, cpu = n / seconds[which], cpu_seconds[which] / n
        brighter = 100 * share[which] / n
        print(
            f"{name:14} {speed:6.2f} slabs/s   {cpu:5.2f} CPU s per slab   "
            f"brighter voxels {brighter:.1f} % of the lung"
        )
    if not args.alone:
        ratio, cpu_ratio = seconds[1] / seconds[0], cpu_seconds[1] / cpu_seconds[0]
        print(f"ratio          {ratio:6.1f} times faster (CPU time {cpu_ratio:.1f})")


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
