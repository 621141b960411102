"""Checkpoints that survive being killed: the two newest, each with its sha256, written whole or not at all."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from normnet.io.atomic import write_bytes
from normnet.io.fingerprint import sha256_of


@dataclass(frozen=True)
class Checkpoint:
    """Everything a member needs to go on as if it had never stopped.

    Attributes:
        step: Iterations done.
        network: State dict.
        optimizer: State of each parameter: ``exp_avg``, ``exp_avg_sq``, ``step``.
        losses: Loss of every iteration so far.
        average: Running mean of the state dict; empty where none is kept.
    """

    step: int
    network: dict[str, torch.Tensor]
    optimizer: dict[int, dict[str, torch.Tensor]]
    losses: list[float]
    average: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What a model is made of: the running mean, or the network as it is."""
        return self.average or self.network

    def restore(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> None:
        """Put the state back into modules and an optimizer like those that it was taken of."""
        network.load_state_dict(self.network)
        optimizer.load_state_dict(
            {"state": self.optimizer, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        if average is not None:
            average.load_state_dict(self.average)


def take_checkpoint(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    average: nn.Module | None = None,
) -> Checkpoint:
    """The state of a training, copied to the CPU.

    Args:
        network: As it is.
        optimizer: Of its parameters.
        losses: One an iteration done.
        average: Running mean of the network, where one is kept.
    """
    moments = {index: _copied(state) for index, state in optimizer.state_dict()["state"].items()}
    mean = {} if average is None else _copied(average.state_dict())
    return Checkpoint(len(losses), _copied(network.state_dict()), moments, list(losses), mean)


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``step-N.ckpt`` and delete all but the two newest.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors = {f"network.{name}": value.contiguous() for name, value in checkpoint.network.items()}
    tensors |= {f"average.{name}": value.contiguous() for name, value in checkpoint.average.items()}
    for index, state in checkpoint.optimizer.items():
        tensors |= {
            f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()
        }
    data = save(
        tensors, metadata={"step": str(checkpoint.step), "losses": json.dumps(checkpoint.losses)}
    )
    path = folder / f"step-{checkpoint.step:06d}.ckpt"
    write_bytes(path, bytes.fromhex(sha256_of(data)) + data)
    for old in sorted(folder.glob("step-*.ckpt"))[:-2]:
        old.unlink()


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged one is passed over with a warning."""
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        raw = path.read_bytes()
        data = raw[32:]
        if sha256_of(data) != raw[:32].hex():
            warnings.warn(
                f"checkpoint {path.name} is damaged, the one before it is used", stacklevel=2
            )
            continue
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load(data)
        network, average = (
            {key[8:]: value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("network.", "average.")
        )
        optimizer: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                optimizer.setdefault(int(index), {})[name] = value
        return Checkpoint(
            int(header["step"]), network, optimizer, json.loads(header["losses"]), average
        )
    return None
