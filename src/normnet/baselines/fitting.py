"""Train a baseline on the slices of normal CTs: one plain loop for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from normnet.baselines.methods import Method, Tuned
from normnet.baselines.slices import SliceBank
from normnet.config import Config
from normnet.preparation.cache import NormalCase
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint, take_checkpoint
from normnet.training.divergence import check_loss
from normnet.training.member import stream

CHECKPOINT_EVERY = 500
READ_EVERY = 50  # iterations between two looks at the losses on a GPU: each look waits for it


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
    """Learn what the slices of normal CTs look like: ``train_on_bank`` of all of them.

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

    Raises:
        InputError: NN-BAS-003 if no CT has a slice with lung.
        ConfigError: NN-BAS-002 if the network cannot have this size.
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written.
    """
    bank = SliceBank.of(cases, config, method, slice_size(method, settings), device)
    return train_on_bank(
        method,
        bank,
        settings,
        seed=seed,
        checkpoints=checkpoints,
        on_step=on_step,
        stop=stop,
    )


def train_on_bank(
    method: Method,
    bank: SliceBank,
    settings: BaselineSettings,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Learn what the slices of a bank look like, on the bank's device.

    Every iteration draws from a generator seeded by (seed, iteration), so a run that was stopped
    goes on exactly as if it had never stopped. A GPU works in bfloat16 where the method allows it,
    and ``on_step`` is called for ``READ_EVERY`` iterations at once.

    Args:
        method: What to train.
        bank: Slices at the size of the training.
        settings: Size and length.
        seed: Weights and slices follow from it.
        checkpoints: Folder to resume from and save to.
        on_step: Called with (iteration, its last loss).
        stop: Called after every iteration; True saves a checkpoint and returns early.

    Returns:
        The state after the last iteration done.

    Raises:
        ConfigError: NN-BAS-002 if the network cannot have this size.
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written.
    """
    device = bank.images.device
    on_gpu = device.type == "cuda"
    torch.manual_seed(seed)
    network = _build(method, settings, device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, betas=method.betas
    )
    n_steps = count_iterations(method, settings)
    losses: list[float] = []
    unread: list[Tensor] = []
    resumed = load_newest(checkpoints) if checkpoints else None
    if resumed is not None:
        resumed.restore(network, optimizer)
        losses = list(resumed.losses)
    for step in range(len(losses) + 1, n_steps + 1):
        rng = torch.Generator(device).manual_seed(stream(seed, step))
        network.train()
        sample = partial(bank.sample, settings.batch, rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and method.mixed):
            updates = method.updates(network, sample, rng, (step - 1) / n_steps)
            unread.append(torch.stack([_descend(optimizer, *update) for update in updates]))
        if not on_gpu or len(unread) == READ_EVERY:
            _read(unread, losses, on_step)
        if stop():
            break
        if checkpoints and step % CHECKPOINT_EVERY == 0:
            _read(unread, losses, on_step)
            save_checkpoint(checkpoints, take_checkpoint(network, optimizer, losses))
    _read(unread, losses, on_step)
    state = take_checkpoint(network, optimizer, losses)
    if checkpoints:
        save_checkpoint(checkpoints, state)
    return state


def _descend(optimizer: torch.optim.Optimizer, part: nn.Module, loss: Tensor) -> Tensor:
    """One step of a part of the network; weights without a gradient do not change."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=list(part.parameters()))  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _read(unread: list[Tensor], losses: list[float], on_step: Callable[[int, float], None]) -> None:
    """Move the losses from the device into the list; the last one of an iteration counts."""
    read = iter(torch.cat(unread).tolist() if unread else ())
    for values in unread:
        for value in (own := [next(read) for _ in values]):
            check_loss(value, len(losses) + 1)
        losses.append(round(own[-1], 6))
        on_step(len(losses), losses[-1])
    unread.clear()


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
    bank = SliceBank.of(cases, config, method, slice_size(method, settings), device)
    slices = bank.sample(settings.batch, rng)
    with torch.no_grad():
        return Tuned(
            method.tune(network, slices, rng, settings.restore_steps), settings.restore_steps
        )


def _build(method: Method, settings: BaselineSettings, device: torch.device | str) -> nn.Module:
    network: nn.Module = method.build(slice_size(method, settings))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
