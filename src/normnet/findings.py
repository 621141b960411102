"""What is found in a prepared CT: the vote, the lesion networks, Eq. 10 (Fig. 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from normnet.config import Config
from normnet.inference.lesions import predict_lesions
from normnet.inference.voting import Votes, predict_normal
from normnet.models import Model
from normnet.postprocessing import LesionSteps, postprocess
from normnet.preparation.prepare import Prepared


class Findings(NamedTuple):
    """Everything found in a prepared CT; arrays are (z, y, x) on its grid.

    Attributes:
        votes: What the ensemble says.
        normal_mask: Bool, what counts as normal.
        prob_lesion: Float32, what the lesion networks say; None without them.
        steps: The images of the post-processing.
    """

    votes: Votes
    normal_mask: np.ndarray
    prob_lesion: np.ndarray | None
    steps: LesionSteps


def find_lesions(
    prepared: Prepared,
    model: Model,
    config: Config,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Findings:
    """Find the lesions of a prepared CT.

    Args:
        prepared: The thorax.
        model: Its ensemble votes; its lesion networks are used where the settings say so.
        config: Settings of all stages.
        device: Torch device.
        on_progress: Called with (stage, steps done, steps in all) for the stages ``inference`` and
            ``postprocessing``.
    """
    votes = predict_normal(
        prepared.thorax,
        model.voters(config.inference),
        config.network.stride,
        config.inference,
        device,
        lambda done, total: on_progress("inference", done, total),
    )
    prob_lesion = None
    if config.postprocessing.lesion_networks:
        lesions = model.lesions
        prob_lesion = predict_lesions(prepared, lesions.networks, lesions.config, device)
    on_progress("inference", 1, 1)
    findings = postprocess_votes(prepared, votes, config, prob_lesion)
    on_progress("postprocessing", 1, 1)
    return findings


def postprocess_votes(
    prepared: Prepared, votes: Votes, config: Config, prob_lesion: np.ndarray | None = None
) -> Findings:
    """What follows from the answers of the networks.

    Args:
        prepared: The thorax.
        votes: Of the ensemble on it.
        config: The rule of the vote, the bright threshold and the post-processing.
        prob_lesion: (z, y, x) float32 of the lesion networks on it; None without them.
    """
    normal_mask = votes.normal_mask(config.inference)
    steps = postprocess(
        prepared.thorax,
        prepared.volume_hu,
        prepared.lung_mask,
        normal_mask,
        config.window.tau,
        config.postprocessing,
        prob_lesion,
        prepared.device,
    )
    return Findings(votes, normal_mask, prob_lesion, steps)
