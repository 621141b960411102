"""Train one member of the ensemble (Sec. IV-B3): one plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from normnet.config import Config
from normnet.network.losses import dice_cross_entropy
from normnet.network.unet import build_unet
from normnet.preparation.cache import NormalCase
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint
from normnet.training.lesion_slabs import LesionSampler
from normnet.training.slabs import SlabSampler


def train_member(
    cases: list[NormalCase],
    config: Config,
    *,
    seed: int,
    device: str = "cpu",
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Learn to recognise normal bright tissue, or what else ``config.training.target`` says.

    Every iteration draws from a generator seeded by (seed, iteration), so a run that was stopped goes on
    exactly as if it had not been.

    Args:
        cases: Cached normal CTs.
        config: All settings.
        seed: Weights and slabs follow from it.
        device: Torch device of network and synthesis.
        checkpoints: Folder to resume from and save to.
        on_step: Called with (iteration, loss).
        stop: Asked after every iteration; True saves a checkpoint and returns early.

    Returns:
        The state after the last iteration done.
    """
    disease = config.training.target == "disease"
    sampler = LesionSampler(cases, config) if disease else SlabSampler(cases, config)
    torch.manual_seed(seed)
    network = build_unet(config.network).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.training.learning_rate)
    done, losses = 0, []
    resumed = load_newest(checkpoints) if checkpoints else None
    if resumed is not None:
        network.load_state_dict(resumed.network)
        optimizer.load_state_dict({"state": resumed.optimizer, "param_groups": optimizer.state_dict()["param_groups"]})
        done, losses = resumed.step, list(resumed.losses)

    # On CPUs oneDNN's bfloat16 3D convolutions now and then return garbage as gradients; there it is float32.
    mixed = torch.device(device).type == "cuda"
    network.train()
    for step in range(done + 1, config.training.iterations + 1):
        rng = torch.Generator(device).manual_seed(stream(seed, step))
        pairs = [sampler.sample(rng) for _ in range(config.training.batch)]
        image = torch.stack([pair.image for pair in pairs])[:, None].to(memory_format=torch.channels_last_3d)
        target = torch.stack([pair.target for pair in pairs])[:, None]  # (B, 1, D, H, W)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
            logits = network(image)
        inside = torch.stack([pair.lung_mask for pair in pairs])[:, None] if disease else None
        loss = dice_cross_entropy(logits, target, inside)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 6))
        on_step(step, losses[-1])
        stopping = stop()
        if checkpoints and (
            stopping or step % config.training.checkpoint_every == 0 or step == config.training.iterations
        ):
            save_checkpoint(checkpoints, _state(step, network, optimizer, losses))
        if stopping:
            break
    return _state(len(losses), network, optimizer, losses)


def stream(seed: int, step: int) -> int:
    """Seed of one iteration's generator; torch's CPU generator only looks at the lower 32 bits."""
    return (seed * 1_000_003 + step) % 2**32


def learning_rate(step: int, config: Config) -> float:
    """Constant as in the paper, or falling along a half cosine to 2 % of its start."""
    peak = config.training.learning_rate
    if config.training.schedule == "constant":
        return peak
    warm_up = min(1.0, step / 50)
    return peak * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.training.iterations)))


def _state(step: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> Checkpoint:
    return Checkpoint(
        step,
        {name: value.detach().cpu().clone() for name, value in network.state_dict().items()},
        {
            index: {k: v.detach().cpu().clone() for k, v in state.items()}
            for index, state in optimizer.state_dict()["state"].items()
        },
        list(losses),
    )
