"""The sub-pixel output layer gives the same logits."""

import pytest
import torch

from normnet.config import NetworkConfig
from normnet.inference.subpixel import use_subpixel_output
from normnet.network.unet import build_unet


@pytest.mark.parametrize("n_res_units", [0, 1])
def test_same_logits(n_res_units):
    torch.manual_seed(0)
    network = build_unet(
        NetworkConfig(channels=(4, 8, 16), n_res_units=n_res_units, rare_start=True)
    ).eval()
    image = torch.rand(1, 1, 12, 16, 20)
    with torch.inference_mode():
        before = network(image)
        after = use_subpixel_output(network)(image)
    replaced = not any(
        isinstance(part, torch.nn.ConvTranspose3d) for part in network.model[-1].modules()
    )
    assert replaced == (n_res_units == 0)
    assert before.std() > 0
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
