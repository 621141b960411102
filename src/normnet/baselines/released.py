"""Released checkpoints of COPLE-Net and Inf-Net as safetensors files of this package.

Their files are pickles. They are converted once, offline, with ``weights_only``: nothing in them is
run. The names of the weights are those of the public code (github.com/HiLab-git/COPLE-Net,
github.com/DengPingFan/Inf-Net).
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from normnet.baselines.supervised import Trained, find_supervised, save_trained
from normnet.errors import ModelError

# Public name to ours: every rule is applied, one after the other.
RULES = {
    "cople-net": (
        (r"\.conv_conv\.", "."),
        (r"\.se_layers\.", ".layers."),
        (r"^in_conv\.", "first."),
        (r"^(down|up)(\d)\.conv\.", r"\1.\2."),
        (r"^up(\d)\.conv1x1\.", r"narrow.\1."),
        (r"^bridge(\d)\.conv\.", r"bridge.\1."),
        (r"^aspp\.conv_(\d)\.", r"pyramid.\1."),
        (r"^aspp\.conv_1x1\.", "mix."),
        (r"^out_conv\.", "last."),
    ),
    "inf-net": (
        (r"^resnet\.conv1\.", "backbone.stem."),
        (r"^resnet\.bn1\.", "backbone.stem.7."),
        (r"^resnet\.layer(\d)\.", r"backbone.stages.\1."),
        (r"\.conv1\.(?=\w+$)", ".first.0."),
        (r"\.bn1\.(?=\w+$)", ".first.1."),
        (r"\.convs\.(\d)\.", r".groups.\1.0."),
        (r"\.bns\.(\d)\.", r".groups.\1.1."),
        (r"\.conv3\.(?=\w+$)", ".last.0."),
        (r"\.bn3\.(?=\w+$)", ".last.1."),
        (r"\.downsample\.", ".shortcut."),
        (r"^rfb(\d)_1\.", r"context.\1."),
        (r"\.branch(\d)\.", r".branches.\1."),
        (r"\.conv_cat\.", ".merge."),
        (r"\.conv_res\.", ".shortcut."),
        (r"^ParDec\.conv_upsample(\d)\.", r"decoder.up.\1."),
        (r"^ParDec\.conv_concat(\d)\.", r"decoder.join.\1."),
        (r"^ParDec\.conv4\.", "decoder.last.0."),
        (r"^ParDec\.conv5\.", "decoder.last.1."),
        (r"^ra(\d)_conv(\d)\.", r"reverse.\1.\2."),
        (r"^edge_conv(\d)\.", r"edge.\1."),
        (r"\.conv\.(?=\w+$)", ".0."),
        (r"\.bn\.(?=\w+$)", ".1."),
    ),
}
WRAPPERS = ("model_state_dict", "state_dict")
# The classifier of the backbone, and counters of a profiler: not used.
UNUSED = re.compile(r"^resnet\.fc\.|(^|\.)total_(ops|params)$")


def convert_checkpoint(path: Path, name: str, out: Path) -> None:
    """Write a released checkpoint as a safetensors file that ``load_trained`` reads.

    Args:
        path: A file of ``torch.save``: a state dict, or a dict that holds one under
            ``model_state_dict`` or ``state_dict``; names may begin with ``module.``.
        name: Of the method.
        out: The file to write.

    Raises:
        ConfigError: NN-BAS-020 if there is no such method.
        ModelError: NN-BAS-023 if the file cannot be read safely; NN-BAS-024 if its weights are not
            those of the method.
        OutputError: If it cannot be written whole.
    """
    method = find_supervised(name)
    network = method.build()
    weights = {
        rename(key, name): value.float() if value.is_floating_point() else value
        for key, value in _read(path).items()
        if not UNUSED.search(key)
    }
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - weights), sorted(weights.keys() - expected)
    shapes = [
        key for key in expected if key in weights and weights[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        found = [
            f"{len(keys)} {what} ({keys[0]})"
            for what, keys in (
                ("missing", missing),
                ("unknown", unexpected),
                ("of another shape", shapes),
            )
            if keys
        ]
        raise ModelError(
            "NN-BAS-024",
            f"not the weights of {method.name}: {', '.join(found)}",
            path.name,
            "give the checkpoint of the method's public code",
        )
    network.load_state_dict(weights)
    save_trained(out, Trained(method, network, method.size, {"source": "released checkpoint"}))


def rename(key: str, name: str) -> str:
    """Our name of a weight of the public code of the method ``name``."""
    for pattern, ours in RULES[name]:
        key = re.sub(pattern, ours, key)
    return key


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = next((content[key] for key in WRAPPERS if key in content), content)
        weights = {key.removeprefix("module."): value for key, value in content.items()}
        if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError("no tensors")
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(
            "NN-BAS-023",
            "not a state dict of torch that can be read without running code of the file",
            path.name,
            "give the .pt or .pth file as it was released",
        ) from error
    return weights
