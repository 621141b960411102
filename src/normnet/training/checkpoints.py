"""Checkpoints that survive a killed process: the two newest, each with its sha256.

A file is written whole or not at all.
"""

from __future__ import annotations

import json
import secrets
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from normnet.errors import NormNetWarning, OutputError
from normnet.io.atomic import write_bytes
from normnet.io.fingerprint import sha256_of
from normnet.training.divergence import check_moments, check_weights

_NAMES = f"step-{'[0-9]' * 6}.ckpt"


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
        """Put the state back into modules, an optimizer and a generator like those it came from.

        Raises:
            OutputError: NN-OUT-013 if they are not like those.
        """
        try:
            network.load_state_dict(self.network)
            optimizer.load_state_dict(
                {"state": self.optimizer, "param_groups": optimizer.state_dict()["param_groups"]}
            )
            if average is not None:
                average.load_state_dict(self.average)
            if rng is not None:
                rng.set_state(self.generator["state"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise OutputError(
                "NN-OUT-013",
                "the checkpoints are of a training with other settings",
                f"iteration {self.step}",
                "choose another --out",
            ) from error


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

    Raises:
        ModelError: NN-TRN-020 if the state holds NaN or infinity.
    """
    moments = {index: _copied(state) for index, state in optimizer.state_dict()["state"].items()}
    mean = {} if average is None else _copied(average.state_dict())
    generator = {} if rng is None else {"state": rng.get_state()}
    state = _copied(network.state_dict())
    for weights in (state, mean):
        check_weights(weights, len(losses))
    check_moments(moments, len(losses))
    return Checkpoint(len(losses), state, moments, list(losses), mean, generator)


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``step-N.ckpt`` and delete all checkpoints but the two newest.

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
    for old in _newest_first(folder)[2:]:
        if _read(old) is not None:  # nothing else is ours to delete
            old.unlink()


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None.

    A newer one that is damaged gets another name, with a warning.
    """
    damaged, found = [], None
    for path in _newest_first(folder):
        found = _read(path)
        if found is not None:
            break
        damaged.append(path.name)
        with suppress(OSError):
            path.rename(path.with_name(f"damaged-{secrets.token_hex(4)}-{path.name}"))
    rest = "the one before it is used" if found else "the training begins anew"
    for name in damaged:
        found_damage = f"checkpoint {name} is damaged, {rest}"
        warnings.warn(found_damage, NormNetWarning, stacklevel=2)
    return found


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(_NAMES), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint of a file; None for a link, a folder and a damaged file."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        raw = path.read_bytes()
        data = raw[32:]
        if sha256_of(data) != raw[:32].hex():
            return None
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
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    whole = isinstance(losses, list) and len(losses) == step
    return Checkpoint(step, network, optimizer, losses, average, generator) if whole else None
