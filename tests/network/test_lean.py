"""The network as it is used gives what MONAI's gives, and parts of it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from normnet.config import NetworkConfig
from normnet.network.lean import lean_unet
from normnet.network.unet import build_unet


def trained(config):
    """A network whose statistics and slopes are not those of the start."""
    torch.manual_seed(0)
    network = build_unet(config)
    sides = (2 * config.stride,) * config.spatial_dims
    for _ in range(3):
        network(2 * torch.randn(2, config.in_channels, *sides) + 1)
    for name, value in network.named_parameters():
        if name.endswith("A.weight"):
            value.data.fill_(0.3)
    return network.eval(), torch.rand(2, config.in_channels, *sides)


CONFIGS = [
    NetworkConfig(spatial_dims=dims, in_channels=n_in, channels=channels, n_res_units=units)
    for dims, n_in in ((2, 3), (3, 1))
    for channels in ((4, 8), (4, 8, 8, 16))
    for units in (0, 1, 2)
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_logits_are_those_of_monai(config):
    network, image = trained(config)
    with torch.inference_mode():
        expected = network(image)
        answer = lean_unet(config, network.state_dict())(image)
    assert expected.std() > 0.01
    tolerance = 0.0 if config.n_res_units else 1e-6
    torch.testing.assert_close(answer, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_part_is_that_of_the_whole(config):
    network, image = trained(config)
    lean = lean_unet(config, network.state_dict())
    n = image.shape[-1]
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        whole = lean(image)
        for _ in range(20):
            ends = np.sort(rng.integers(0, n + 1, (config.spatial_dims, 2)), axis=1)
            box = [slice(int(a), int(max(a + 1, b))) for a, b in np.minimum(ends, [n - 1, n])]
            part = lean(image, box)
            torch.testing.assert_close(part, whole[(..., *box)], atol=1e-5, rtol=1e-5)
        planes = lean(image, [slice(1, 2)])
        torch.testing.assert_close(planes, whole[:, :, 1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_that_do_not_fit(change):
    config = CONFIGS[0]
    state = build_unet(config).state_dict()
    name = next(iter(state))
    if change == "missing":
        del state[name]
    elif change == "more":
        state["model.9.conv.weight"] = torch.zeros(1)
    else:
        state[name] = state[name][..., :2]
    with pytest.raises((KeyError, ValueError)):
        lean_unet(config, state)


def test_a_model_is_used_without_monai():
    code = (
        "import sys; from normnet import load_model; load_model();sys.exit('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
