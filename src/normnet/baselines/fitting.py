"""Train a baseline on the slices of normal CTs: one plain loop for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from normnet.baselines.methods import Method, Tuned
from normnet.baselines.slices import SliceSampler
from normnet.config import Config
from normnet.preparation.cache import NormalCase
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint, take_checkpoint
from normnet.training.divergence import check_loss
from normnet.training.member import stream

CHECKPOINT_EVERY = 500


@dataclass(frozen=True)
class BaselineSettings:
    """Size and length of a training; the defaults are the paper's (Sec. IV-C).

    Attributes:
        size: Pixels per side of a slice; ``Method.max_size`` may be less.
        batch: Number of slices.
        iterations: Of every stage.
        learning_rate: Of Adam.
        restore_steps: Steps of a restoration (``vae-restoration``).
    """

    size: int = 512
    batch: int = 16
    iterations: int = 6000
    learning_rate: float = 3e-4
    restore_steps: int = 150


def train_baseline(
    method: Method,
    cases: list[NormalCase],
    config: Config,
    settings: BaselineSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Learn what normal slices look like.

    Every iteration draws from a generator seeded by (seed, iteration), so a run that was stopped
    goes on exactly as if it had never stopped.

    Args:
        method: What to train; a method that is ``trained_as`` another one learns the same.
        cases: Cached normal CTs.
        config: Window and spacing.
        settings: Size and length.
        seed: Weights and slices follow from it.
        device: Torch device.
        checkpoints: Folder to resume from and save to.
        on_step: Called with (iteration, its last loss).
        stop: Called after every iteration; True saves a checkpoint and returns early.

    Returns:
        The state after the last iteration done.

    Raises:
        InputError: NN-BAS-003 if no CT has a slice with lung.
        ConfigError: NN-BAS-002 if the network cannot have this size.
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written.
    """
    sampler = SliceSampler(cases, config, method, slice_size(method, settings))
    torch.manual_seed(seed)
    network = _build(method, settings, device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, betas=method.betas
    )
    n_steps, losses = count_iterations(method, settings), []
    resumed = load_newest(checkpoints) if checkpoints else None
    if resumed is not None:
        resumed.restore(network, optimizer)
        losses = list(resumed.losses)
    for step in range(len(losses) + 1, n_steps + 1):
        rng = torch.Generator(device).manual_seed(stream(seed, step))
        network.train()
        sample = partial(sampler.sample, settings.batch, rng)
        for part, loss in method.updates(network, sample, rng, (step - 1) / n_steps):
            optimizer.zero_grad(set_to_none=True)  # weights without a gradient do not change
            weights = list(part.parameters())
            for weight, gradient in zip(
                weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True
            ):
                weight.grad = gradient
            optimizer.step()
            check_loss(loss.item(), step)
        losses.append(round(loss.item(), 6))
        on_step(step, losses[-1])
        stopping = stop()
        if checkpoints and (stopping or step % CHECKPOINT_EVERY == 0 or step == n_steps):
            save_checkpoint(checkpoints, take_checkpoint(network, optimizer, losses))
        if stopping:
            break
    return take_checkpoint(network, optimizer, losses)


def slice_size(method: Method, settings: BaselineSettings) -> int:
    """Pixels per side that the method sees."""
    return min(settings.size, method.max_size)


def count_iterations(method: Method, settings: BaselineSettings) -> int:
    """Iterations of all stages."""
    return settings.iterations * method.n_stages


def load_network(
    method: Method, settings: BaselineSettings, state: Checkpoint, device: str = "cpu"
) -> nn.Module:
    """The trained network, ready to score: fixed statistics; Monte-Carlo dropout stays active."""
    network = _build(method, settings, device)
    network.load_state_dict(state.network)
    return network.eval()


def tune(
    method: Method,
    network: nn.Module,
    cases: list[NormalCase],
    config: Config,
    settings: BaselineSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Tuned:
    """Let the method choose its value on a batch of healthy slices after the training.

    The arguments are those of ``train_baseline``.
    """
    if method.tune is None:
        return Tuned(n_steps=settings.restore_steps)
    rng = torch.Generator(device).manual_seed(stream(seed, 0))
    slices = SliceSampler(cases, config, method, slice_size(method, settings)).sample(
        settings.batch, rng
    )
    with torch.no_grad():
        return Tuned(
            method.tune(network, slices, rng, settings.restore_steps), settings.restore_steps
        )


def _build(method: Method, settings: BaselineSettings, device: str) -> nn.Module:
    network: nn.Module = method.build(slice_size(method, settings))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
