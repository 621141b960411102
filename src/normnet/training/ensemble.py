"""Train the members one after the other and write the model folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from normnet.config import Config
from normnet.network.weights import save_model, split_settings
from normnet.preparation.cache import NormalCase
from normnet.training.group import ALONE, Group
from normnet.training.member import train_member
from normnet.version import __version__


def train_ensemble(
    cases: list[NormalCase],
    config: Config,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    group: Group = ALONE,
    card: dict[str, Any] | None = None,
    on_step: Callable[[int, int, float], None] = lambda member, step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train ``config.training.members`` networks with consecutive seeds.

    A training that was stopped goes on from its checkpoints.

    Args:
        cases: Cached normal CTs.
        config: All settings; stored in the manifest.
        out: Model folder; checkpoints lie in ``out/checkpoints/member-K``.
        device: Torch device.
        workers: As ``train_member`` takes it.
        group: As ``train_member`` takes it; the first process writes.
        card: More facts for the manifest (licences, sources).
        on_step: Called with (member from 1, iteration, loss).
        stop: Called after every iteration; True saves a checkpoint and returns.

    Returns:
        Whether all members are finished and the model folder is complete.
    """
    members, losses = {}, {}
    for member in range(1, config.training.members + 1):
        state = train_member(
            cases,
            config,
            seed=config.training.seed + member - 1,
            device=device,
            workers=workers,
            group=group,
            checkpoints=out / "checkpoints" / f"member-{member}",
            on_step=partial(on_step, member),
            stop=stop,
        )
        if state.step < config.training.iterations:
            return False
        members[f"member-{member}"] = state.weights
        losses[f"member-{member}"] = state.losses
    facts = {
        "normnet": __version__,
        **split_settings(config.model_dump(exclude={"lungs_training"})),
        "training": {
            "cases": [case.case_id for case in cases],
            "seeds": [config.training.seed + k for k in range(config.training.members)],
            "final_loss": {
                name: round(sum(curve[-50:]) / len(curve[-50:]), 4)
                for name, curve in losses.items()
            },
            **(card or {}),
        },
    }
    if group.is_first:
        save_model(out, members, kind_of(config), config.network, facts)
    return True


def kind_of(config: Config) -> str:
    """Kind of the model that these settings train, as ``save_model`` takes it."""
    return "lesions" if config.training.target == "disease" else "normnet"
