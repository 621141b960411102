"""A model on disk: ``manifest.json`` and one safetensors file per member, never a pickle.

``docs/model_format.md`` says what the manifest holds, and why older ones load.
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
FORMAT = 3
KINDS = ("normnet", "lungs", "lesions")
# Settings of format 1: lesions grew by fixed HU.
GROWTH = {"grow_vox", "grow_hu", "grow_sigma_vox", "prob_sure", "prob_possible"}
TRAINING_SECTIONS = ("synthesis", "ground_glass", "training", "variation", "lungs_training")


def split_settings(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings in the two groups of a manifest, without ``network``, which stands by itself.

    Returns:
        ``inference``, which using the model needs, and ``provenance``, which only its training
        needed.
    """
    rest = {name: section for name, section in settings.items() if name != "network"}
    provenance = {name: rest.pop(name) for name in TRAINING_SECTIONS if name in rest}
    return {"inference": rest, "provenance": provenance}


def _to_format_2(manifest: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept all settings in ``config``, and of a lung model the keys of ``lungs`` alone.

    Lungs had one neighbour on each side (``neighbour_mm``). The first lung models saw one slice;
    their ``network`` did not say so.
    """
    rest = {name: value for name, value in manifest.items() if name != "config"} | {"format": 2}
    network = manifest.get("network")
    if isinstance(network, dict):
        rest["network"] = network = {"in_channels": 1, **network}
    config = manifest.get("config")
    if not isinstance(config, dict):
        return rest
    if manifest.get("kind") == "lungs":
        saw_one = isinstance(network, dict) and network["in_channels"] == 1
        config = {"lungs": {"neighbours_mm": [] if saw_one else [6.0], **config}}
    lungs = config.get("lungs")
    if isinstance(lungs, dict) and "neighbour_mm" in lungs:
        others = {name: value for name, value in lungs.items() if name != "neighbour_mm"}
        config = {**config, "lungs": {**others, "neighbours_mm": [lungs["neighbour_mm"]]}}
    post = config.get("postprocessing")
    if isinstance(post, dict):  # prob_possible meant something else
        post = {name: value for name, value in post.items() if name not in GROWTH}
        config = {**config, "postprocessing": post}
    return {**rest, **split_settings(config)}


def _to_format_3(manifest: dict[str, Any]) -> dict[str, Any]:
    """Format 2 wrote null for what are words now; padding to 0, 0 was no padding, not aligned."""
    rest = {**manifest, "format": 3}
    if not isinstance(manifest.get("inference"), dict):
        return rest
    sections = dict(manifest["inference"])
    for name, key, word in (
        ("inference", "min_votes", "majority"),
        ("inference", "max_members", "all"),
        ("preparation", "pad_to", "crop"),
    ):
        section = sections.get(name)
        if isinstance(section, dict) and section.get(key, word) is None:
            sections[name] = {**section, key: word}
    section = sections.get("preparation")
    if isinstance(section, dict) and section.get("pad_to") == [0, 0]:
        sections["preparation"] = {**section, "pad_to": "crop", "align_vox": 1}
    return {**rest, "inference": sections}


# From the format of a manifest to the one after it; see docs/model_format.md.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _to_format_2,
    2: _to_format_3,
}


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
        card: Anything else for the manifest (training cases, licences, seeds, what
            ``split_settings`` returns).
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


def read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a model folder, in the newest form.

    Args:
        folder: Of a model.
        kind: ``"normnet"``, ``"lungs"`` or ``"lesions"``; any of them where None.

    Raises:
        ModelError: If it is missing, not JSON, of another kind or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            "NN-MOD-001",
            "no readable model manifest",
            str(path),
            "give a folder made by `normnet train`",
        ) from error
    fits = isinstance(manifest, dict) and manifest.get("kind") in (
        KINDS if kind is None else [kind]
    )
    if not fits or not isinstance(manifest.get("format"), int):
        raise ModelError(
            "NN-MOD-002",
            f"not a '{kind or 'normnet'}' model",
            str(path),
            "give another model folder",
        )
    while manifest["format"] in MIGRATIONS:
        manifest = MIGRATIONS[manifest["format"]](manifest)
    if manifest["format"] != FORMAT:
        found = f"model of format {manifest['format']}, this version reads up to {FORMAT}"
        raise ModelError("NN-MOD-009", found, str(path), "update normnet")
    return dict(manifest)


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
        except Exception as error:  # safetensors and torch raise many kinds for the same cause
            raise ModelError(
                "NN-MOD-006", "weights do not fit the network", str(path), "train again"
            ) from error
        if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
            raise ModelError("NN-MOD-007", "weights hold NaN or infinity", str(path), "train again")
        networks.append(module.eval())
    return networks, manifest
