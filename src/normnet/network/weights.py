"""A model on disk: a folder with ``manifest.json`` and one safetensors file a member, never a pickle.

``docs/model_format.md`` says what the manifest holds, and how older ones go on loading.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.config import NetworkConfig
from normnet.errors import ConfigError, ModelError
from normnet.io.atomic import write_bytes
from normnet.io.fingerprint import sha256_of

if TYPE_CHECKING:
    import torch
    from torch import nn

MANIFEST = "manifest.json"
FORMAT = 2
GROWTH = {
    "grow_vox",
    "grow_hu",
    "grow_sigma_vox",
    "prob_sure",
    "prob_possible",
}  # settings of format 1
TRAINING_SECTIONS = ("synthesis", "ground_glass", "training", "variation")


def split_settings(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings as a manifest keeps them, without ``network``, which stands there by itself.

    Returns:
        ``inference``, which using the model needs, and ``provenance``, which only its training
        needed.
    """
    rest = {name: section for name, section in settings.items() if name != "network"}
    provenance = {name: rest.pop(name) for name in TRAINING_SECTIONS if name in rest}
    return {"inference": rest, "provenance": provenance}


def _split_config(manifest: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept all settings in one place, a lung model's own ones bare; its lungs had one neighbour each way."""
    rest = {name: value for name, value in manifest.items() if name != "config"} | {"format": 2}
    config = manifest.get("config")
    if not isinstance(config, dict):
        return rest
    if manifest.get("kind") == "lungs":
        config = {"lungs": config}
    lungs = config.get("lungs")
    if isinstance(lungs, dict) and "neighbour_mm" in lungs:
        others = {name: value for name, value in lungs.items() if name != "neighbour_mm"}
        config = {**config, "lungs": {**others, "neighbours_mm": [lungs["neighbour_mm"]]}}
    post = config.get("postprocessing")
    if isinstance(post, dict):  # growth by fixed HU; what could be lesion meant something else
        config = {
            **config,
            "postprocessing": {name: value for name, value in post.items() if name not in GROWTH},
        }
    return {**rest, **split_settings(config)}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _split_config
}  # format to the one after it


def save_model(
    folder: Path,
    members: dict[str, dict[str, torch.Tensor]],
    kind: str,
    network: NetworkConfig,
    card: dict[str, Any],
) -> None:
    """Write members as float16 safetensors, then the manifest that names them with their sha256.

    Args:
        folder: Model folder; created.
        members: Member name to state dict.
        kind: ``"normnet"``, ``"lungs"`` or ``"lesions"``.
        network: What to build before loading.
        card: Anything else the manifest should tell (training cases, licences, seeds, what
            ``split_settings`` gives).
    """
    from safetensors.torch import save

    entries = []
    for name, state in members.items():
        # Statistics of batch normalisation stay float32: variances of deep layers exceed what
        # float16 holds.
        stored = {
            key: (v.half() if v.is_floating_point() and "running_" not in key else v)
            .contiguous()
            .cpu()
            for key, v in state.items()
        }
        data = save(stored)
        write_bytes(folder / f"{name}.safetensors", data)
        entries.append(
            {
                "file": f"{name}.safetensors",
                "sha256": sha256_of(data),
                "bytes": len(data),
            }
        )
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "network": network.model_dump(),
        "members": entries,
        **card,
    }
    write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a model folder, in the newest form.

    Raises:
        ModelError: If it is missing, not JSON, of another kind or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            "NN-MOD-001",
            "no readable model manifest",
            str(path),
            "give a folder made by `normnet train`",
        ) from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("kind") != kind
        or not isinstance(manifest.get("format"), int)
    ):
        raise ModelError(
            "NN-MOD-002", f"not a '{kind}' model", str(path), "give another model folder"
        )
    while manifest["format"] in MIGRATIONS:
        manifest = MIGRATIONS[manifest["format"]](manifest)
    if manifest["format"] != FORMAT:
        found = f"model of format {manifest['format']}, this version reads up to {FORMAT}"
        raise ModelError("NN-MOD-009", found, str(path), "update normnet")
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
            "NN-MOD-003",
            "incomplete model manifest",
            str(folder / MANIFEST),
            "train or copy it again",
        ) from error
    networks = []
    for name, sha256 in entries:
        path = folder / Path(name).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                "NN-MOD-004", "weights file missing", str(path), "copy the whole model folder"
            ) from error
        if sha256_of(data) != sha256:
            raise ModelError(
                "NN-MOD-005",
                "weights differ from their sha256",
                str(path),
                "copy the model folder again",
            )
        module = build_unet(network)
        try:
            state = {
                key: (v.float() if v.is_floating_point() else v) for key, v in load(data).items()
            }
            module.load_state_dict(state)
        except (
            Exception
        ) as error:  # safetensors and torch raise many kinds; all mean the same to a user
            raise ModelError(
                "NN-MOD-006", "weights do not fit the network", str(path), "train again"
            ) from error
        if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
            raise ModelError("NN-MOD-007", "weights hold NaN or infinity", str(path), "train again")
        networks.append(module.eval())
    return networks, manifest
