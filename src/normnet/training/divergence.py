"""A training that diverges is stopped: its weights would be of no use."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from normnet.errors import ModelError


def check_loss(loss: float, step: int) -> None:
    """Stop at the first loss that is NaN or infinite.

    Args:
        loss: Of this iteration.
        step: The iteration.

    Raises:
        ModelError: NN-TRN-020.
    """
    if not math.isfinite(loss):
        raise _diverged(f"the loss is {loss}", step)


def check_weights(state: dict[str, torch.Tensor], step: int) -> None:
    """Stop where a weight is NaN or infinite, or becomes infinite in the float16 of a model folder.

    Args:
        state: State dict; its running statistics are stored as float32.
        step: Iterations done.

    Raises:
        ModelError: NN-TRN-020.
    """
    stored = (
        value if "running_" in name or not value.is_floating_point() else value.half()
        for name, value in state.items()
    )
    if not _all_finite(stored):
        raise _diverged("weights are NaN or infinite", step)


def check_moments(moments: dict[int, dict[str, torch.Tensor]], step: int) -> None:
    """Stop where the state of the optimizer is NaN or infinite: the weights would change no more.

    Args:
        moments: State of each parameter.
        step: Iterations done.

    Raises:
        ModelError: NN-TRN-020.
    """
    if not _all_finite(value for state in moments.values() for value in state.values()):
        raise _diverged("gradients are NaN or infinite", step)


def _all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _diverged(found: str, step: int) -> ModelError:
    return ModelError(
        "NN-TRN-020",
        f"the training has diverged: {found}",
        f"iteration {step}",
        "lower the learning rate and choose another --out; checkpoints from before stay",
    )
