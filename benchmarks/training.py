"""Where a training waits: slabs per second against workers, and seconds per iteration without them.

    python benchmarks/training.py --config default --workers 0 1 2 --iterations 40
    torchrun --standalone --nproc-per-node 2 benchmarks/training.py --workers 0 --iterations 40

The slabs are cut from an artificial CT with two ellipsoid lungs. "waited" is the time of an
iteration in which the network has no batch; with several processes, sending the slabs counts too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from normnet.cli.devices import choose_device
from normnet.config import Config, load_config
from normnet.preparation.cache import STEP_HU, NormalCase
from normnet.preparation.prepare import LOWEST_HU
from normnet.training import member
from normnet.training.group import Group
from normnet.training.lesion_slabs import LesionSampler
from normnet.training.slabs import SlabSampler

SHAPE = (256, 320, 384)  # of the training grid
WARM_UP = 3  # iterations that are not counted


def artificial_case() -> NormalCase:
    """Two ellipsoid lungs of about -850 HU, with noise and no edges."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    lungs = np.zeros(SHAPE, bool)
    for centre in (106, 278):
        lungs |= ((z - 128) / 120) ** 2 + ((y - 160) / 130) ** 2 + ((x - centre) / 75) ** 2 <= 1
    noise = np.random.default_rng(0).normal(-850, 40, SHAPE)
    codes = np.clip((noise - LOWEST_HU) / STEP_HU, 0, 255).astype(np.uint8)
    return NormalCase("artificial", codes, lungs, np.zeros_like(lungs), np.ones(SHAPE[0], bool))


def slabs_per_second(
    sampler: SlabSampler | LesionSampler, config: Config, device: str, workers: int, group: Group
) -> float:
    """How many slabs all processes together make when no network uses them."""
    with closing(member.batches(sampler, config, 0, 1, device, workers, group)) as made:
        for _ in range(WARM_UP):
            next(made)
        start = time.perf_counter()
        n_batches = sum(1 for _ in made)
        return n_batches * config.training.batch / (time.perf_counter() - start)


def seconds_per_iteration(
    case: NormalCase, config: Config, device: str, workers: int, group: Group
) -> tuple[float, float]:
    """Seconds of an iteration of a training, and how long it waits for its slabs."""
    waited, ends = [], []
    make = member.batches

    def timed(*arguments: Any) -> Iterator[Any]:
        with closing(make(*arguments)) as made:
            while True:
                start = time.perf_counter()
                try:
                    batch = next(made)
                except StopIteration:
                    return
                waited.append(time.perf_counter() - start)
                yield batch

    member.batches = timed  # type: ignore[assignment]
    try:
        member.train_member(
            [case],
            config,
            seed=0,
            device=device,
            workers=workers,
            group=group,
            on_step=lambda step, loss: ends.append(time.perf_counter()),
        )
    finally:
        member.batches = make
    n = len(ends) - WARM_UP
    return (ends[-1] - ends[WARM_UP - 1]) / n, sum(waited[WARM_UP:]) / n


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="default", help="default, lesions, paper or a TOML")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="per process")
    parser.add_argument("--iterations", type=int, default=40, help=f"the first {WARM_UP} not timed")
    parser.add_argument("--slabs-only", action="store_true", help="train no network")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    group = Group.from_environment()
    device = choose_device(group.device(choose_device(args.device)))
    config = load_config(args.config)
    training = config.training.model_copy(update={"iterations": args.iterations})
    config = config.model_copy(update={"training": training})
    case = artificial_case()
    disease = training.target == "disease"
    sampler = LesionSampler([case], config) if disease else SlabSampler([case], config)
    rows = []
    with group.connected(device):
        for workers in args.workers:
            rate = slabs_per_second(sampler, config, device, workers, group)
            seconds = (np.nan, np.nan)
            if not args.slabs_only:
                seconds = seconds_per_iteration(case, config, device, workers, group)
            rows.append((workers, rate, *seconds))
    if not group.is_first:
        return
    slab = " x ".join(map(str, training.slab_vox))
    print(f"{args.config}: {training.batch} slabs of {slab} per iteration, {device}")
    print(f"{group.size} processes, torch threads in each: {torch.get_num_threads()}")
    print("workers   slabs/s   s per iteration   of it waited   share")
    for workers, rate, seconds, waited in rows:
        share = 100 * waited / seconds
        print(f"{workers:7} {rate:9.2f} {seconds:17.3f} {waited:14.3f} {share:5.0f} %")


if __name__ == "__main__":
    main()
