"""Whether the baselines work: on a simple texture, and on the lungs of a healthy CT.

    python benchmarks/baselines.py texture
    python benchmarks/baselines.py lungs $NORMNET_DATA/cases.csv --networks FOLDER

``texture`` trains every method for a few seconds on stripes, asks it for bright disks and prints
the AUC over pixels. ``lungs`` lets trained networks rebuild a CT that none has seen, and prints
SSIM inside the lungs: of the reconstruction, of a black image and of the mean training slice. The
network of METHOD is the newest checkpoint in FOLDER/METHOD; where there is none, it is trained.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from normnet.baselines.fitting import (
    BaselineSettings,
    count_iterations,
    load_network,
    slice_size,
    train_on_bank,
)
from normnet.baselines.methods import METHODS, Method, Tuned, find_method
from normnet.baselines.slices import SliceBank, find_slices, to_square
from normnet.config import Config, load_config
from normnet.datasets.manifest import read_cases
from normnet.evaluation.tables import markdown_head, markdown_row
from normnet.preparation.cache import NormalCase
from normnet.training.checkpoints import load_newest
from normnet.training.normals import Preparer

TEXTURE = BaselineSettings(size=32, batch=8, iterations=30, learning_rate=3e-3, restore_steps=10)
N_TEXTURES, N_TESTED = 256, 16
DISK_PX, DISK_STEP = 3, 0.4  # radius, and by how much it is brighter


def draw_stripes(n: int, size: int, rng: torch.Generator) -> Tensor:
    """(n, 1, size, size) smooth stripes in two directions, 0.1 to 0.5, each with its own phases."""
    at = torch.arange(size) / size
    phases = torch.rand((2, n, 1), generator=rng)
    rows, columns = torch.sin(2 * torch.pi * (2 * at + phases))
    return 0.3 + 0.1 * (rows[:, None, :, None] + columns[:, None, None, :])


def draw_disks(n: int, size: int, rng: torch.Generator) -> Tensor:
    """(n, 1, size, size) bool, one disk each."""
    at = torch.arange(size)
    centres = torch.randint(2 * DISK_PX, size - 2 * DISK_PX, (2, n, 1), generator=rng)
    rows, columns = (at - centres) ** 2
    return (rows[:, :, None] + columns[:, None, :] <= DISK_PX**2)[:, None]


def compute_auc(score: np.ndarray, reference: np.ndarray) -> float:
    """Share of pairs (pixel of the reference, other pixel) in which the first scores higher."""
    ranks, n_inside = rankdata(score), int(reference.sum())
    n_outside = reference.size - n_inside
    above = ranks[reference].sum() - n_inside * (n_inside + 1) / 2
    return float(above / (n_inside * n_outside))


@cache
def train_on_stripes(name: str) -> tuple[nn.Module, SliceBank]:
    """The network of a method."""
    method = METHODS[name]
    rng = torch.Generator().manual_seed(0)
    stripes = draw_stripes(N_TEXTURES, TEXTURE.size, rng)
    bank = SliceBank((stripes * 255).round().to(torch.uint8))
    return load_network(method, TEXTURE, train_on_bank(method, bank, TEXTURE)), bank


def find_disks(method: Method) -> float:
    """AUC of a method's score for bright disks on stripes that it has not seen."""
    network, bank = train_on_stripes(method.trained_as or method.name)
    rng = torch.Generator().manual_seed(1)
    slices, disks = (draw(N_TESTED, TEXTURE.size, rng) for draw in (draw_stripes, draw_disks))
    slices = slices + DISK_STEP * disks
    with torch.no_grad():
        value = 0.0
        if method.tune:
            healthy = bank.sample(TEXTURE.batch, rng)
            value = method.tune(network, healthy, rng, TEXTURE.restore_steps)
        score = method.score(network, slices, rng, Tuned(value, TEXTURE.restore_steps))[1]
    return compute_auc(score.numpy().ravel(), disks.numpy().ravel())


def print_texture() -> None:
    """One row per method."""
    print(markdown_head(("method", "iterations", "AUC", "why less than 0.9")))
    for method in METHODS.values():
        auc = f"{find_disks(method):.3f}"
        n_steps = count_iterations(find_method(method.trained_as or method.name), TEXTURE)
        print(markdown_row((method.label, str(n_steps), auc, method.misses or "-")), flush=True)


def compute_ssim(images: Tensor, others: Tensor) -> Tensor:
    """SSIM of every pixel (Wang et al. 2004, DOI 10.1109/TIP.2003.819861), values from 0 to 1.

    Args:
        images: (B, 1, h, w).
        others: Same shape.
    """
    at = torch.arange(11) - 5
    row = torch.exp(-(at**2) / (2 * 1.5**2))
    kernel = (row[:, None] * row / row.sum() ** 2)[None, None]

    def smooth(values: Tensor) -> Tensor:
        return conv2d(pad(values, (5, 5, 5, 5), mode="reflect"), kernel)

    mean, other = smooth(images), smooth(others)
    variances = smooth(images**2) - mean**2 + smooth(others**2) - other**2
    covariance = smooth(images * others) - mean * other
    level = (2 * mean * other + 0.01**2) / (mean**2 + other**2 + 0.01**2)
    return level * (2 * covariance + 0.03**2) / (variances + 0.03**2)


def print_lungs(args: argparse.Namespace) -> None:
    """One row per method that shows a reconstruction or a restoration."""
    config, listed = load_config("default"), read_cases(args.manifest)
    preparer = Preparer(args.normals, config, None, False, "cpu")
    normals = [preparer.load(case)[0] for case in listed if case.split == "train"]
    held = preparer.load(next(case for case in listed if case.case_id == args.case))[0]
    held = replace(held, usable=np.arange(len(held.usable)) % args.every == 0)
    settings = BaselineSettings(
        args.size, iterations=args.iterations, learning_rate=args.lr, restore_steps=args.steps
    )
    columns = ("method", "size", "iterations", "loss", "SSIM", "SSIM of black", "SSIM of mean")
    print(markdown_head(columns))
    for method in METHODS.values():
        if method.image_title in ("reconstruction", "restoration"):
            print(markdown_row(rebuild(method, normals, held, config, settings, args.networks)))


def rebuild(
    method: Method,
    normals: list[NormalCase],
    held: NormalCase,
    config: Config,
    settings: BaselineSettings,
    networks: Path,
) -> list[str]:
    """The row of a method."""
    size, trained = slice_size(method, settings), find_method(method.trained_as or method.name)
    bank = SliceBank.of(normals, config, method, size)
    folder = networks / trained.name
    state = load_newest(folder) or train_on_bank(trained, bank, settings, checkpoints=folder)
    network = load_network(trained, settings, state)
    rng = torch.Generator().manual_seed(0)
    slices = SliceBank.of([held], config, method, size).images.float() / 255
    lungs = torch.from_numpy(held.lung_mask[find_slices(held)]).float()
    inside = to_square(lungs, size, method.field_mm, config.preparation.spacing_mm) > 0.5
    with torch.no_grad():
        value = (
            method.tune(network, bank.sample(16, rng), rng, settings.restore_steps)
            if method.tune
            else 0.0
        )
        tuned = Tuned(value, settings.restore_steps)
        shown = torch.cat([method.score(network, part, rng, tuned)[0] for part in slices.split(8)])
    mean = (bank.images.float().mean(0, keepdim=True) / 255).expand_as(slices)
    found = (
        float(compute_ssim(slices, image)[inside].mean()) for image in (shown, slices * 0, mean)
    )
    loss = f"{np.mean(state.losses[-50:]):.1f}"
    return [method.label, str(size), str(state.step), loss, *(f"{value:.3f}" for value in found)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    commands.add_parser("texture").set_defaults(run=lambda args: print_texture())
    lungs = commands.add_parser("lungs")
    lungs.set_defaults(run=print_lungs)
    lungs.add_argument("manifest", type=Path)
    lungs.add_argument("--networks", type=Path, required=True)
    lungs.add_argument("--normals", type=Path, default=Path("cache/normals"))
    lungs.add_argument("--case", default="covidctmd_normal002")
    lungs.add_argument("--every", type=int, default=6, help="every n-th slice of the CT")
    lungs.add_argument("--size", type=int, default=64)
    lungs.add_argument("--iterations", type=int, default=1000)
    lungs.add_argument("--lr", type=float, default=3e-4)
    lungs.add_argument("--steps", type=int, default=10, help="of a restoration")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
