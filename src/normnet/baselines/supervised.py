"""The supervised rivals of the paper's Table III: COPLE-Net and Inf-Net, by name.

These models learn from lesion masks. They exist to be compared with; nothing of them is used by
``normnet segment`` or ships with the package.

Both see axial slices of the lungs' box, with the tissue around the lungs, as squares of 384 mm, in
one fixed window. Nothing is scaled slice by slice: that would stretch an empty slice until its
brightest pixel is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from normnet.baselines import coplenet, infnet
from normnet.baselines.slices import from_square, to_square
from normnet.config import WindowConfig
from normnet.errors import ConfigError, InputError, ModelError
from normnet.io.atomic import write_bytes
from normnet.preparation.prepare import Prepared
from normnet.preparation.window import scale_hu
from normnet.training.checkpoints import Checkpoint, load_newest, save_checkpoint, take_checkpoint
from normnet.training.divergence import check_loss
from normnet.training.member import stream

WINDOW = WindowConfig(low_hu=-1400.0, high_hu=100.0)
FIELD_MM = 384.0
FOREGROUND = 0.5  # share of the training slices that are drawn from those with a lesion
ROTATION_DEG, ZOOM = 15.0, 1.25  # the most a training slice is turned, enlarged or reduced
PREDICTED_TOGETHER = 16  # slices
CHECKPOINT_EVERY = 500


@dataclass(frozen=True)
class Supervised:
    """One method.

    Attributes:
        name: In the registry.
        label: In figures and tables.
        build: Makes an untrained network, from slices to logits.
        loss: Of (network, slices, lesions).
        size: Pixels per side of a slice.
        stride: The size is a multiple of it.
        window: HU that become [0, 1].
    """

    name: str
    label: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    size: int
    stride: int
    window: WindowConfig = WINDOW


SUPERVISED = {
    method.name: method
    for method in (
        Supervised(
            "cople-net",
            "COPLE-Net",
            coplenet.COPLENet,
            coplenet.compute_loss,
            384,
            coplenet.STRIDE,
        ),
        Supervised(
            "inf-net",
            "Inf-Net",
            infnet.InfNet,
            infnet.compute_loss,
            352,
            infnet.STRIDE,
        ),
    )
}


@dataclass(frozen=True)
class SupervisedSettings:
    """Size and length of a training.

    Attributes:
        size: Pixels per side of a slice, at most; ``Supervised.size`` may be less.
        batch: Number of slices.
        iterations: Number of batches.
        learning_rate: Of Adam at the start; it falls along a half cosine to 0.
    """

    size: int = 384
    batch: int = 16
    iterations: int = 6000
    learning_rate: float = 3e-4


class Labelled(NamedTuple):
    """The slices with lung of one CT.

    Attributes:
        slices: (N, size, size) uint8, 255 is the upper end of the window.
        lesions: The same shape, bool.
    """

    slices: Tensor
    lesions: Tensor


class Trained(NamedTuple):
    """A network ready to segment.

    Attributes:
        method: What it is.
        network: Its statistics are fixed.
        size: Pixels per side of a slice.
        facts: What is known of its training.
    """

    method: Supervised
    network: nn.Module
    size: int
    facts: dict[str, str]


def find_supervised(name: str) -> Supervised:
    """The method of that name.

    Raises:
        ConfigError: NN-BAS-020 if there is none.
    """
    if name not in SUPERVISED:
        known = ", ".join(SUPERVISED)
        raise ConfigError(
            "NN-BAS-020", f"no supervised method '{name}'", "baselines", f"there are {known}"
        )
    return SUPERVISED[name]


def slice_size(method: Supervised, settings: SupervisedSettings) -> int:
    """Pixels per side that the method sees, a multiple of its stride."""
    return max(1, min(settings.size, method.size) // method.stride) * method.stride


def cut_slices(
    method: Supervised, prepared: Prepared, lesion_mask: np.ndarray, size: int
) -> Labelled:
    """The slices with lung of a prepared CT.

    Args:
        method: Its window is used.
        prepared: The CT.
        lesion_mask: (z, y, x) bool on the prepared grid.
        size: Pixels per side.
    """
    shown = np.flatnonzero(prepared.lung_mask.any(axis=(1, 2))).tolist()
    slices = torch.empty((len(shown), size, size), dtype=torch.uint8)
    lesions = torch.empty((len(shown), size, size), dtype=torch.bool)
    for n, z in enumerate(shown):  # one at a time: a CT as float squares is large
        slices[n] = (255 * _squares(method, prepared, [z], size)[0, 0]).round().to(torch.uint8)
        mask = torch.from_numpy(np.asarray(lesion_mask[z : z + 1], np.float32))
        lesions[n] = to_square(mask, size, FIELD_MM, prepared.spacing_mm)[0, 0] >= 0.5
    return Labelled(slices, lesions)


def _squares(method: Supervised, prepared: Prepared, wanted: list[int], size: int) -> Tensor:
    """(N, 1, size, size) in [0, 1]."""
    seen = scale_hu(torch.from_numpy(prepared.volume_hu[wanted]).float(), method.window)
    return to_square(seen, size, FIELD_MM, prepared.spacing_mm).clip(0, 1)


class LabelledSampler:
    """Draws batches of slices; every CT is drawn equally often.

    Half of the slices are drawn from those with a lesion.

    Args:
        cases: CTs.
        device: Where all slices are kept.

    Raises:
        InputError: NN-BAS-021 if there is no lesion.
    """

    def __init__(self, cases: list[Labelled], device: str):
        self.cases = [
            Labelled(case.slices.to(device), case.lesions.to(device))
            for case in cases
            if len(case.slices)
        ]
        self.sick = [case.lesions.flatten(1).any(1).nonzero()[:, 0].tolist() for case in self.cases]
        if not any(self.sick):
            raise InputError(
                "NN-BAS-021", "no lesion to learn from", f"{len(cases)} CTs", "give more CTs"
            )

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(n, 1, size, size) slices in [0, 1] and lesions, 0 or 1, both turned and scaled."""
        slices, lesions = [], []
        picks = torch.rand((n, 3), generator=rng).tolist()
        for which, place, kind in picks:
            index = int(which * len(self.cases))
            case, sick = self.cases[index], self.sick[index]
            from_sick = kind < FOREGROUND and sick
            z = sick[int(place * len(sick))] if from_sick else int(place * len(case.slices))
            slices.append(case.slices[z])
            lesions.append(case.lesions[z])
        both = torch.stack([torch.stack(slices).float() / 255, torch.stack(lesions).float()], 1)
        grid = affine_grid(_draw_turns(n, rng), list(both.shape), align_corners=False)
        both = grid_sample(both, grid.to(both.device), align_corners=False)
        return both[:, :1], (both[:, 1:] >= 0.5).float()


def _draw_turns(n: int, rng: torch.Generator) -> Tensor:
    """(n, 2, 3) rotations with a zoom; half of them also change right and left."""
    angle, zoom, mirror = torch.rand((3, n), generator=rng)
    angle = (2 * angle - 1) * math.radians(ROTATION_DEG)
    zoom, side = ZOOM ** (2 * zoom - 1), torch.where(mirror < 0.5, -1.0, 1.0)
    still = torch.zeros(n)
    rows = [
        torch.stack([zoom * angle.cos() * side, -zoom * angle.sin(), still], 1),
        torch.stack([zoom * angle.sin() * side, zoom * angle.cos(), still], 1),
    ]
    return torch.stack(rows, 1)


def train_supervised(
    method: Supervised,
    cases: list[Labelled],
    settings: SupervisedSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Learn lesions from masks.

    Every iteration draws from a generator seeded by (seed, iteration), so a run that was stopped
    goes on exactly as if it had never stopped.

    Args:
        method: What to train.
        cases: Slices of CTs, from ``cut_slices`` with the size of ``slice_size``.
        settings: Size and length.
        seed: Weights, slices and dropout follow from it.
        device: Torch device; CUDA trains in bfloat16.
        checkpoints: Folder to resume from and save to.
        on_step: Called with (iteration, loss).
        stop: Called after every iteration; True saves a checkpoint and returns early.

    Returns:
        The state after the last iteration done.

    Raises:
        InputError: NN-BAS-021 if there is no lesion.
        ModelError: NN-TRN-020 if the training diverges; the checkpoints from before stay.
        OutputError: If a checkpoint cannot be written.
    """
    sampler = LabelledSampler(cases, device)
    torch.manual_seed(seed)
    network = _place(method.build(), device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    losses: list[float] = []
    resumed = load_newest(checkpoints) if checkpoints else None
    if resumed is not None:
        resumed.restore(network, optimizer)
        losses = list(resumed.losses)
    network.train()
    for step in range(len(losses) + 1, settings.iterations + 1):
        rng = torch.manual_seed(stream(seed, step))  # for dropout too
        done = (step - 1) / settings.iterations
        optimizer.param_groups[0]["lr"] = (
            settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
        )
        slices, lesions = sampler.sample(settings.batch, rng)
        with _precision(device):
            loss = method.loss(
                network, slices.contiguous(memory_format=torch.channels_last), lesions
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(round(loss.item(), 6))
        check_loss(losses[-1], step)
        on_step(step, losses[-1])
        stopping = stop()
        last = stopping or step == settings.iterations
        if checkpoints and (last or step % CHECKPOINT_EVERY == 0):
            save_checkpoint(checkpoints, take_checkpoint(network, optimizer, losses))
        if stopping:
            break
    return take_checkpoint(network, optimizer, losses)


def _place(network: nn.Module, device: str) -> nn.Module:
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _precision(device: str) -> torch.autocast:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def as_trained(method: Supervised, state: Checkpoint, size: int, device: str = "cpu") -> Trained:
    """The network after a training, ready to segment; ``facts`` hold its length and last loss."""
    network = method.build()
    network.load_state_dict(state.network)
    return Trained(method, _place(network, device).eval(), size, describe(state))


def describe(state: Checkpoint) -> dict[str, str]:
    """Iterations, and the mean loss of the last 100."""
    last = state.losses[-100:]
    return {"iterations": str(state.step), "loss": f"{sum(last) / max(1, len(last)):.4f}"}


def save_trained(path: Path, trained: Trained) -> None:
    """Write a safetensors file: weights as float32, and the name, size and facts.

    Raises:
        OutputError: If it cannot be written whole.
    """
    weights = {
        name: value.cpu().contiguous() for name, value in trained.network.state_dict().items()
    }
    about = {"method": trained.method.name, "size": str(trained.size), **trained.facts}
    write_bytes(path, save(weights, metadata=about))


def load_trained(path: Path, device: str = "cpu") -> Trained:
    """Read what ``save_trained`` wrote.

    Raises:
        ModelError: NN-BAS-022 if it is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        method, size = SUPERVISED[facts.pop("method")], int(facts.pop("size"))
        network = method.build()
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ModelError(
            "NN-BAS-022",
            "not a network of a supervised method",
            path.name,
            "delete the file, so that it is trained anew",
        ) from error
    return Trained(method, _place(network, device).eval(), size, facts)


@torch.no_grad()
def predict_lesions(trained: Trained, prepared: Prepared, device: str = "cpu") -> np.ndarray:
    """Lesions of a CT: where the probability exceeds one half, inside the lungs.

    Args:
        trained: The network, on ``device``.
        prepared: The CT.
        device: Torch device.

    Returns:
        (z, y, x) bool on the prepared grid.
    """
    lesion_mask = np.zeros(prepared.lung_mask.shape, bool)
    shown = np.flatnonzero(prepared.lung_mask.any(axis=(1, 2))).tolist()
    for first in range(0, len(shown), PREDICTED_TOGETHER):
        part = shown[first : first + PREDICTED_TOGETHER]
        slices = _squares(trained.method, prepared, part, trained.size).to(device)
        with _precision(device):
            logits = trained.network(slices.contiguous(memory_format=torch.channels_last))
        probability = from_square(
            logits.float().sigmoid(), lesion_mask.shape[1:], FIELD_MM, prepared.spacing_mm
        )
        lesion_mask[part] = (probability > 0.5).cpu().numpy()
    lesion_mask &= prepared.lung_mask
    return lesion_mask
