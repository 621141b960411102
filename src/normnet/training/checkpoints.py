"""Checkpoints that survive a killed process: the two newest, each with its sha256.

A file is written whole or not at all.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from normnet.errors import NormNetWarning
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
        average: Running mean of the state dict; empty where there is none.
        generator: State of the random generator; empty where each iteration has an own seed.
    """

    step: int
    network: dict[str, torch.Tensor]
    optimizer: dict[int, dict[str, torch.Tensor]]
    losses: list[float]
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    generator: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """State dict of the trained model: the running mean, or the network as it is."""
        return self.average or self.network

    def restore(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None = None,
        rng: torch.Generator | None = None,
    ) -> None:
        """Put the state back into modules, an optimizer and a generator like those it came from."""
        network.load_state_dict(self.network)
        optimizer.load_state_dict(
            {"state": self.optimizer, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        if average is not None:
            average.load_state_dict(self.average)
        if rng is not None:
            rng.set_state(self.generator["state"])


def take_checkpoint(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    average: nn.Module | None = None,
    rng: torch.Generator | None = None,
) -> Checkpoint:
    """Copy the state of a training to the CPU.

    Args:
        network: As it is.
        optimizer: Of its parameters.
        losses: One per iteration done.
        average: Running mean of the network, where there is one.
        rng: Generator of the batches, where it is one for all iterations.
    """
    moments = {index: _copied(state) for index, state in optimizer.state_dict()["state"].items()}
    mean = {} if average is None else _copied(average.state_dict())
    generator = {} if rng is None else {"state": rng.get_state()}
    state = _copied(network.state_dict())
    return Checkpoint(len(losses), state, moments, list(losses), mean, generator)


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``step-N.ckpt`` and delete all but the two newest.

    Raises:
        OutputError: If it cannot be written.
    """
    tensors = {f"network.{name}": value.contiguous() for name, value in checkpoint.network.items()}
    tensors |= {f"average.{name}": value.contiguous() for name, value in checkpoint.average.items()}
    tensors |= {f"generator.{name}": value for name, value in checkpoint.generator.items()}
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
    """The newest checkpoint that is whole; a damaged one is left out with a warning."""
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        raw = path.read_bytes()
        data = raw[32:]
        if sha256_of(data) != raw[:32].hex():
            found = f"checkpoint {path.name} is damaged, the one before it is used"
            warnings.warn(found, NormNetWarning, stacklevel=2)
            continue
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load(data)
        network, average, generator = (
            {key[len(kind) :]: value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("network.", "average.", "generator.")
        )
        optimizer: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                optimizer.setdefault(int(index), {})[name] = value
        step, losses = int(header["step"]), json.loads(header["losses"])
        return Checkpoint(step, network, optimizer, losses, average, generator)
    return None
