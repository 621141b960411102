"""Whether the baselines work: on a simple texture, and on the lungs of a healthy CT.

    python benchmarks/baselines.py texture
    python benchmarks/baselines.py lungs $NORMNET_DATA/cases.csv --out RUNS --scale small

``texture`` trains every method for a few seconds on stripes and asks it for a bright disk. It
prints the AUC over pixels. ``lungs`` takes the networks of ``normnet reproduce`` from its output
folder (a missing one is trained) and lets them rebuild a CT that no network has seen. It prints
SSIM inside the lungs: of the reconstruction, of a black image and of the mean training slice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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
from normnet.baselines.slices import SliceBank, to_square
from normnet.evaluation.tables import markdown_head, markdown_row
from normnet.preparation.window import scale_hu

TEXTURE = BaselineSettings(size=32, batch=8, iterations=100, learning_rate=3e-3, restore_steps=10)
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    for m in METHODS.values():
        t = time.process_time()
        print(m.name, round(find_disks(m), 4), f"{time.process_time() - t:.1f}", flush=True)
