"""Every stage on a device that is not the CPU; a GPU is not needed, see ``pretend_device``."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from normnet import pipeline, restoration
from normnet.config import (
    Config,
    InferenceConfig,
    NetworkConfig,
    PostprocessingConfig,
    PreparationConfig,
)
from normnet.inference import precision
from normnet.lungs import learned
from normnet.models import Members, Model
from normnet.network.lean import lean_unet
from normnet.network.unet import build_unet
from normnet.pipeline import Segmentation, segment
from tests.phantoms import Phantom, thorax_phantom
from tests.pretend_device import NAME, PretendDevice


class AirNetwork(torch.nn.Module):
    """Lung is what is as light as air in the slice itself."""

    def __init__(self, config: Config):
        super().__init__()
        self.layer = torch.nn.Conv2d(config.lungs.n_seen, 1, 1)
        low, high = config.lungs.low_hu, config.lungs.high_hu
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[0, config.lungs.n_seen // 2] = -40
            self.layer.bias.fill_(40 * (-500 - low) / (high - low))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image)


class Here(Executor):
    """Works in the thread that asks: the pretended device belongs to one thread."""

    def __init__(self, n_threads: int):
        del n_threads

    def submit(self, work, *arguments):
        done: Future = Future()
        done.set_result(work(*arguments))
        return done


def make_model() -> Model:
    """Random members as they are used, and lungs by a threshold; new networks with each call."""
    network = NetworkConfig(channels=(4, 8, 8), n_res_units=1)
    config = Config(
        network=network,
        preparation=PreparationConfig(spacing_mm=(4.0, 3.0, 3.0)),
        inference=InferenceConfig(prob_normal=0.5),
        postprocessing=PostprocessingConfig(lesion_networks=True, lungs_vox=2, prob_lesion=0.5),
    )
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(lean_unet(network, build_unet(network).state_dict()))
    parts = (members[:2], [AirNetwork(config).eval()], members[2:])
    return Model(*(Members(networks, config, {}) for networks in parts))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax_phantom()


@pytest.fixture
def pretended(monkeypatch):
    """The device; its networks compute in float32, for which torch has no autocast."""
    for module in (precision, learned):
        monkeypatch.setattr(module, "choose_precision", lambda device="cpu": "float32")
    for module in (learned, pipeline, restoration):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Here)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    with PretendDevice() as device:
        yield device


def arrays_of(found: Segmentation) -> list[np.ndarray]:
    return [found.lesion_mask, found.lung_labels, found.anomaly_codes, found.n_votes_normal]


def test_all_stages(phantom, pretended):
    """Nothing mixes devices, and the result is that of the CPU."""
    there = segment(phantom.scan, make_model(), device=NAME)
    assert min(pretended.n_bytes.values()) > phantom.scan.volume_hu.nbytes
    here = segment(phantom.scan, make_model())
    assert all(array.any() for array in arrays_of(here))
    for own, other in zip(arrays_of(there), arrays_of(here), strict=True):
        assert np.array_equal(own, other)


def test_device_refuses(pretended):
    """What a GPU refuses: tensors of two devices, and numpy."""
    there, here = torch.ones(3, device=NAME), torch.ones(3)
    with pytest.raises(RuntimeError, match="two devices"):
        there + here
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert float((there + here.to(NAME)).cpu().numpy().sum()) == 6
