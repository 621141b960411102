"""A model on disk: a folder with ``manifest.json`` and one safetensors file a member, never a pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.config import NetworkConfig
from normnet.errors import ConfigError, ModelError
from normnet.io.atomic import write_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

MANIFEST = "manifest.json"
FORMAT = 1


def save_model(
    folder: Path, members: dict[str, dict[str, torch.Tensor]], kind: str, network: NetworkConfig, card: dict[str, Any]
) -> None:
    """Write members as float16 safetensors, then the manifest that names them with their sha256.

    Args:
        folder: Model folder; created.
        members: Member name to state dict.
        kind: ``"normnet"``, ``"lungs"`` or ``"lesions"``.
        network: What to build before loading.
        card: Anything else the manifest should tell (training cases, licences, settings, seeds).
    """
    from safetensors.torch import save

    entries = []
    for name, state in members.items():
        # Statistics of batch normalisation stay float32: variances of deep layers exceed what float16 holds.
        stored = {
            key: (v.half() if v.is_floating_point() and "running_" not in key else v).contiguous().cpu()
            for key, v in state.items()
        }
        data = save(stored)
        write_bytes(folder / f"{name}.safetensors", data)
        entries.append({"file": f"{name}.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
    manifest = {"format": FORMAT, "kind": kind, "network": network.model_dump(), "members": entries, **card}
    write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a model folder.

    Raises:
        ModelError: If it is missing, not JSON, of another kind or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            "NN-MOD-001", "no readable model manifest", str(path), "give a folder made by `normnet train`"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind or manifest.get("format") != FORMAT:
        raise ModelError(
            "NN-MOD-002", f"not a '{kind}' model of format {FORMAT}", str(path), "give another model folder"
        )
    return manifest


def load_members(folder: Path, kind: str) -> tuple[list[nn.Module], dict[str, Any]]:
    """Build and fill every member of a model folder, in evaluation mode, float32.

    Raises:
        ModelError: If a file is missing, altered (sha256), truncated, or does not fit the network.
    """
    import torch
    from safetensors.torch import load

    from normnet.network.unet import build_unet

    manifest = read_manifest(folder, kind)
    try:
        network = NetworkConfig(**manifest["network"])
        entries = [(str(entry["file"]), str(entry["sha256"])) for entry in manifest["members"]]
        if not entries:
            raise KeyError("members")
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            "NN-MOD-003", "incomplete model manifest", str(folder / MANIFEST), "train or copy it again"
        ) from error
    networks = []
    for name, sha256 in entries:
        path = folder / Path(name).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError("NN-MOD-004", "weights file missing", str(path), "copy the whole model folder") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ModelError("NN-MOD-005", "weights differ from their sha256", str(path), "copy the model folder again")
        module = build_unet(network)
        try:
            state = {key: (v.float() if v.is_floating_point() else v) for key, v in load(data).items()}
            module.load_state_dict(state)
        except Exception as error:  # safetensors and torch raise many kinds; all mean the same to a user
            raise ModelError("NN-MOD-006", "weights do not fit the network", str(path), "train again") from error
        if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
            raise ModelError("NN-MOD-007", "weights hold NaN or infinity", str(path), "train again")
        networks.append(module.eval())
    return networks, manifest
