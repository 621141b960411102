"""The processes that train one network together, as ``torchrun`` starts them.

Only this module reads what torchrun says in the environment. The processes contact the address that
torchrun was given, and each other.

Error ids: NN-TRN-030 the environment is incomplete, 031 more processes than slabs in a batch, 032 a
command that runs as one process, 033 another process has ended, 034 the processes do not have the
same settings and cases, 035 one GPU for several processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from normnet.errors import ConfigError, InputError, ResourceError
from normnet.training.record import difference

Made = TypeVar("Made")
# The first process prepares CTs while the others wait; what ends is noticed at once nevertheless.
WAIT = timedelta(days=7)
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Group:
    """One process of those that train a network together; by default it is alone.

    Alone, every method does nothing, or returns what it was given.

    Attributes:
        rank: Number of this process, from 0. Process 0, the first, alone writes and prints.
        size: Number of processes.
        local_rank: Number of this process among those of the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Group:
        """What torchrun says; one process where it has not started this one.

        Raises:
            ConfigError: NN-TRN-030.
        """
        if _number("WORLD_SIZE", "1") == 1:
            return cls()
        missing = [name for name in (*_NAMES, "MASTER_ADDR", "MASTER_PORT") if not _said(name)]
        if missing:
            raise _incomplete(f"{missing[0]} is missing")
        rank, size, local_rank = (_number(name) for name in _NAMES)
        if not 0 <= local_rank <= rank < size:
            raise _incomplete(f"RANK {rank} of {size}, LOCAL_RANK {local_rank}")
        return cls(rank, size, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The torch device of this process: of several on a machine, each has its own GPU.

        Args:
            name: ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            ConfigError: NN-TRN-035.
        """
        kind, _, number = name.partition(":")
        if self.size == 1 or kind == "cpu":
            return name
        if number:
            raise ConfigError(
                "NN-TRN-035",
                f"one GPU, {name}, for several processes",
                "--device",
                "use --device cuda: each process takes its own GPU",
            )
        return f"{kind}:{self.local_rank}"

    @contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """Connect the processes while the block runs: by NCCL for GPUs, by Gloo for CPUs.

        Args:
            device: Torch device of this process.

        Raises:
            ResourceError: NN-TRN-033.
        """
        if self.size == 1:
            yield
            return
        backend = "gloo"
        if device != "cpu":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        with _noticing_the_end():
            distributed.init_process_group(
                backend, rank=self.rank, world_size=self.size, timeout=WAIT
            )
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def check_batch(self, batch: int) -> None:
        """See that every process has a slab to learn from.

        Args:
            batch: Slabs per iteration.

        Raises:
            ConfigError: NN-TRN-031.
        """
        if self.size > batch:
            raise ConfigError(
                "NN-TRN-031",
                f"{self.size} processes for a batch of {batch}",
                "torchrun",
                f"start at most {batch} processes, or raise training.batch in a --config",
            )

    def check_same(self, facts: dict[str, Any]) -> None:
        """See that all processes train the same.

        Args:
            facts: What must be the same, of types that JSON knows.

        Raises:
            InputError: NN-TRN-034 in the process that differs from the first.
        """
        found = difference(self.from_first(lambda: facts), facts)
        if found:
            raise InputError(
                "NN-TRN-034",
                f"not all processes have the same settings and cases: {found}",
                f"process {self.rank}",
                "give all machines the same command and files",
            )

    def from_first(self, make: Callable[[], Made]) -> Made:
        """Make something in the first process and give it to all.

        Raises:
            ResourceError: NN-TRN-033.
        """
        made = [make() if self.is_first else None]
        if self.size > 1:
            with _noticing_the_end():
                distributed.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def after_first(self, act: Callable[[], Made]) -> Made:
        """Act in the first process, then in all others: they find the files that it has written.

        Raises:
            ResourceError: NN-TRN-033.
        """
        done = [act()] if self.is_first else []
        self.from_first(lambda: None)
        return done[0] if done else act()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process.

        Raises:
            ResourceError: NN-TRN-033.
        """
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8)
        with _noticing_the_end():
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def total(self, part: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, through which gradients flow back into every process.

        Where each process derives the same loss of such sums, the mean of their gradients is the
        gradient of that loss.

        Args:
            part: Of this process, of the same shape in each.

        Raises:
            ResourceError: NN-TRN-033, also when gradients are computed.
        """
        return part if self.size == 1 else _Total.apply(part)  # type: ignore[no-untyped-call]

    def average_gradients(self, network: nn.Module) -> None:
        """Give all processes the mean of their gradients.

        Raises:
            ResourceError: NN-TRN-033.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = _summed(torch.cat([gradient.flatten() for gradient in gradients])) / self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def deal(
        self, batch: list[torch.Tensor], owner: int, n_slabs: int, like: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Give each process its share of the batch that one of them has made.

        The shares follow each other in the order of the processes, and differ by at most one slab.

        Args:
            batch: Tensors of ``n_slabs`` slabs each; only the owner's is looked at.
            owner: Rank of the process that has made it.
            n_slabs: In the whole batch.
            like: Empty tensors of the type, the device and the shape of the batch's.

        Returns:
            The tensors of this process's share.

        Raises:
            ResourceError: NN-TRN-033.
        """
        if self.size == 1:
            return batch
        ends = [n_slabs * rank // self.size for rank in range(self.size + 1)]
        own = slice(ends[self.rank], ends[self.rank + 1])
        if self.rank == owner:
            share = [tensor[own] for tensor in batch]
            others = [rank for rank in range(self.size) if rank != owner]
            transfers = [
                distributed.P2POp(distributed.isend, tensor[ends[rank] : ends[rank + 1]], rank)
                for rank in others
                for tensor in batch
            ]
        else:
            n_own = own.stop - own.start
            share = [tensor.new_empty((n_own, *tensor.shape[1:])) for tensor in like]
            transfers = [distributed.P2POp(distributed.irecv, tensor, owner) for tensor in share]
        with _noticing_the_end():
            for transfer in distributed.batch_isend_irecv(transfers):
                transfer.wait()
        return share

    def wait_for_the_end(self) -> None:
        """In another process than the first, wait until the first has ended or disconnected."""
        with suppress(ResourceError):
            self.from_first(lambda: None)


ALONE = Group()


def refuse_group(command: str) -> None:
    """Refuse to run as several processes.

    Args:
        command: Its name.

    Raises:
        ConfigError: NN-TRN-032.
    """
    size = Group.from_environment().size
    if size > 1:
        raise ConfigError(
            "NN-TRN-032",
            f"{command} runs as one process, not as {size}",
            "torchrun",
            f"start it with 'normnet {command}'",
        )


class _Total(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum over their losses."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(part: torch.Tensor) -> torch.Tensor:
    whole = part.clone(memory_format=torch.contiguous_format)
    with _noticing_the_end():
        distributed.all_reduce(whole)
    return whole


@contextmanager
def _noticing_the_end() -> Iterator[None]:
    """Give an error an id that comes when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            "NN-TRN-033",
            "another process of the training has ended",
            "torchrun",
            "see what it says; the same command goes on from the last checkpoint",
        ) from error


def _said(name: str) -> str:
    return os.environ.get(name, "").strip()


def _number(name: str, default: str = "") -> int:
    text = _said(name) or default
    if not text.isdecimal():
        raise _incomplete(f"{name} is no number")
    return int(text)


def _incomplete(found: str) -> ConfigError:
    return ConfigError(
        "NN-TRN-030",
        f"what torchrun says is incomplete: {found}",
        "the environment",
        "start it with torchrun, or unset WORLD_SIZE",
    )
