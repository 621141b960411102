"""Train one member of the ensemble (Sec. IV-B3): one plain loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from normnet.config import Config
from normnet.errors import ResourceError
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.preparation.cache import NormalCase
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint, take_checkpoint
from normnet.training.divergence import check_loss
from normnet.training.group import ALONE, Group
from normnet.training.lesion_slabs import LesionSampler
from normnet.training.slabs import SlabSampler
from normnet.training.statistics import share_statistics
from normnet.training.workers import make_in_order

KINDS = (torch.float32, torch.bool, torch.bool)  # types of a batch: image, target, lungs


def train_member(
    cases: list[NormalCase],
    config: Config,
    *,
    seed: int,
    device: str = "cpu",
    workers: int = 0,
    group: Group = ALONE,
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Learn to recognise normal bright tissue, or another ``config.training.target``.

    Every iteration draws from a generator seeded by (seed, iteration), so a run that was stopped
    goes on exactly as if it had not been.

    Args:
        cases: Cached normal CTs.
        config: All settings.
        seed: Weights and slabs follow from it.
        device: Torch device of the network, and of the synthesis without workers.
        workers: Processes that make the slabs on the CPU ahead of the network, for a GPU with many
            cores beside it; the slabs are those of a training on the CPU. 0: one after the other on
            ``device``.
        group: The processes that train this member together, each with a share of every batch;
            the weights are those of one process within the rounding of floats.
        checkpoints: Folder to resume from and save to; only that of the first process is used.
        on_step: Called with (iteration, loss).
        stop: Called after every iteration; True in any process saves a checkpoint and returns
            early.

    Returns:
        The state after the last iteration done.

    Raises:
        InputError: NN-TRN-001 if no case holds a slab.
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written; NN-OUT-013 if it is of another training.
        ResourceError: NN-TRN-021 if a worker is killed, 033 if another process of the group has
            ended; a checkpoint is saved first where the state is whole.
    """
    checkpoints = checkpoints if group.is_first else None
    disease = config.training.target == "disease"
    sampler = LesionSampler(cases, config) if disease else SlabSampler(cases, config)
    torch.manual_seed(seed)
    network = build_unet(config.network).to(device)
    share_statistics(network, group)
    average = copy.deepcopy(network) if config.training.average > 0 else None
    optimizer = torch.optim.Adam(network.parameters(), lr=config.training.learning_rate)
    done, losses = 0, []
    resumed = group.from_first(lambda: load_newest(checkpoints) if checkpoints else None)
    if resumed is not None:
        resumed.restore(network, optimizer, average)
        done, losses = resumed.step, list(resumed.losses)

    # On CPUs oneDNN's bfloat16 3D convolutions now and then return garbage as gradients; there it
    # is float32.
    mixed = torch.device(device).type == "cuda"
    network.train()
    with closing(batches(sampler, config, seed, done + 1, device, workers, group)) as slabs:
        for step in range(done + 1, config.training.iterations + 1):
            try:
                image, target, inside = next(slabs)
            except ResourceError:  # between two iterations, so the state is whole
                if checkpoints and step > done + 1:
                    save_checkpoint(
                        checkpoints, take_checkpoint(network, optimizer, losses, average)
                    )
                raise
            for settings in optimizer.param_groups:
                settings["lr"] = learning_rate(step, config)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
                logits = network(image.to(memory_format=torch.channels_last_3d))
            loss = dice_cross_entropy(logits, target, inside if disease else None, group.total)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            group.average_gradients(network)
            optimizer.step()
            if average is not None:
                add_to_average(average, network, max(config.training.average, 1 / step))
            losses.append(round(loss.item(), 6))
            check_loss(losses[-1], step)
            on_step(step, losses[-1])
            stopping = group.any(stop())
            due = stopping or step % config.training.checkpoint_every == 0
            if checkpoints and (due or step == config.training.iterations):
                save_checkpoint(checkpoints, take_checkpoint(network, optimizer, losses, average))
            if stopping:
                break
    return take_checkpoint(network, optimizer, losses, average)


def batches(
    sampler: SlabSampler | LesionSampler,
    config: Config,
    seed: int,
    first: int,
    device: str,
    workers: int,
    group: Group = ALONE,
) -> Generator[list[torch.Tensor], None, None]:
    """Yield the batch of every iteration from ``first`` on, on ``device``.

    A batch is image, target and lungs, each (B, 1, D, H, W). It depends on (seed, iteration) and on
    the kind of device that makes it, not on the number of workers. Of a group, every process makes
    the whole batches of some iterations, and yields its share of each.

    Raises:
        ResourceError: NN-TRN-021 if a worker is killed, 033 if another process has ended.
    """
    size = config.training.batch
    steps = range(first, config.training.iterations + 1)
    made_on = torch.device("cpu" if workers else device)
    make = partial(_make_batch, sampler, size, seed, made_on)
    slab = (0, 1, *config.training.slab_vox)
    like = [torch.empty(slab, dtype=kind, device=made_on) for kind in KINDS]
    own: list[torch.Tensor] = []
    own_steps = steps[group.rank :: group.size]
    with closing(make_in_order(make, own_steps, workers)) as made:
        for place in range(len(steps)):
            owner = place % group.size
            if owner == 0:  # here all processes make their next batch at the same time
                own = next(made, [])
            yield [tensor.to(device) for tensor in group.deal(own, owner, size, like)]


def _make_batch(
    sampler: SlabSampler | LesionSampler, size: int, seed: int, made_on: torch.device, step: int
) -> list[torch.Tensor]:
    """The slabs of one iteration."""
    rng = torch.Generator(made_on).manual_seed(stream(seed, step))
    pairs = [sampler.sample(rng) for _ in range(size)]
    return [torch.stack([pair[k] for pair in pairs])[:, None] for k in range(3)]


@torch.no_grad()
def add_to_average(average: torch.nn.Module, network: torch.nn.Module, share: float) -> None:
    """Move a running mean of weights and statistics by ``share`` of the way to the network's."""
    for mean, value in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)


def stream(seed: int, step: int) -> int:
    """Seed of one iteration's generator; torch's CPU generator only looks at the lower 32 bits."""
    return (seed * 1_000_003 + step) % 2**32


def learning_rate(step: int, config: Config) -> float:
    """Constant as in the paper, or after a rise falling along a half cosine to ``falls_to``."""
    peak, least = config.training.learning_rate, config.training.falls_to
    if config.training.schedule == "constant":
        return peak
    warm_up = min(1.0, step / config.training.warm_up)
    falling = 0.5 * (1 + math.cos(math.pi * step / config.training.iterations))
    return peak * warm_up * (least + (1 - least) * falling)
