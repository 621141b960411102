"""A model on disk: ``manifest.json`` and one safetensors file per member, never a pickle.

``docs/model_format.md`` says what the manifest holds, and why older ones load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.config import NetworkConfig
from normnet.errors import ModelError
from normnet.io.atomic import write_bytes
from normnet.io.fingerprint import sha256_of
from normnet.io.limits import MAX_MANIFEST_BYTES, MAX_MEMBER_BYTES, MAX_MEMBERS, MAX_WEIGHTS
from normnet.network.unet import build_unet, count_weights

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
        ModelError: NN-MOD-001 if it is missing or not JSON, 002 of another kind, 009 of a newer
            format, 003 or 010 if its network or its list of members cannot be.
    """
    path = folder / MANIFEST
    manifest = _read_json(path)
    fits = isinstance(manifest, dict) and manifest.get("kind") in (
        KINDS if kind is None else [kind]
    )
    if not fits or type(manifest.get("format")) is not int:
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
    network_of(manifest, folder)
    _check_members(manifest, path)
    return dict(manifest)


def _read_json(path: Path) -> Any:
    try:
        if not path.is_file():  # a pipe would block
            raise FileNotFoundError(path)
        with path.open("rb") as handle:
            content = handle.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {MAX_MANIFEST_BYTES} bytes")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            "NN-MOD-001",
            "no readable model manifest",
            str(path),
            "give a folder made by `normnet train`",
        ) from error


def network_of(manifest: dict[str, Any], folder: Path) -> NetworkConfig:
    """The network of a manifest, checked before anything of its size is built.

    Raises:
        ModelError: NN-MOD-003 if it is missing or wrong, NN-MOD-010 if it is too large or not that
            of its kind.
    """
    path = folder / MANIFEST
    try:
        network = NetworkConfig(**manifest["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(path) from error
    n_weights = count_weights(network)
    n_axes = 2 if manifest["kind"] == "lungs" else 3
    found = None
    if n_weights > MAX_WEIGHTS:
        found = f"a network of {n_weights} weights; at most {MAX_WEIGHTS}"
    elif network.spatial_dims != n_axes:
        found = f"a network for {network.spatial_dims} dimensions, not for {n_axes}"
    elif n_axes == 3 and network.in_channels != 1:
        found = f"a network of {network.in_channels} input channels, not of 1"
    if found:
        raise ModelError("NN-MOD-010", found, str(path), "train or copy it again")
    return network


def _check_members(manifest: dict[str, Any], path: Path) -> None:
    """Raise NN-MOD-003 for a list of members that is not a list of files and sums."""
    members = manifest.get("members")
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
        raise _incomplete(path)
    for member in members:
        texts = isinstance(member, dict) and [member.get("file"), member.get("sha256")]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise _incomplete(path)
    if len({member["file"] for member in members}) < len(members):
        raise _incomplete(path)


def _incomplete(path: Path) -> ModelError:
    found = "incomplete model manifest"
    return ModelError("NN-MOD-003", found, str(path), "train or copy it again")


def member_files(manifest: dict[str, Any], folder: Path) -> list[Path]:
    """The files of weights, in the order of the members; none of them is read.

    Raises:
        ModelError: NN-MOD-004 if one is missing, NN-MOD-011 if one is too large.
    """
    files = []
    for member in manifest["members"]:
        path = folder / Path(member["file"]).name
        try:
            if not path.is_file():  # a pipe would block
                raise FileNotFoundError(path)
            n_bytes = path.stat().st_size
        except OSError as error:
            raise ModelError(
                "NN-MOD-004", "weights file missing", str(path), "copy the whole model folder"
            ) from error
        if n_bytes > MAX_MEMBER_BYTES:
            found = f"a weights file of {n_bytes} bytes; at most {MAX_MEMBER_BYTES}"
            raise ModelError("NN-MOD-011", found, str(path), "copy the model folder again")
        files.append(path)
    return files


def load_members(
    folder: Path, kind: str, for_training: bool = False
) -> tuple[list[nn.Module], dict[str, Any]]:
    """Build and fill every member of a model folder, in evaluation mode, float32.

    Args:
        folder: Of a model.
        kind: As ``read_manifest`` takes it.
        for_training: As ``build_unet`` makes them, so that they can be trained on; else for use
            alone, without MONAI where they have batch normalisation.

    Raises:
        ModelError: As ``read_manifest`` and ``member_files`` raise it; or if a file is altered
            (sha256), truncated, or does not fit the network, or if its weights cannot be.
    """
    manifest = read_manifest(folder, kind)
    network = network_of(manifest, folder)
    networks = []
    files = member_files(manifest, folder)
    for path, member in zip(files, manifest["members"], strict=True):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                "NN-MOD-004", "weights file not readable", str(path), "check its permissions"
            ) from error
        if sha256_of(data) != member["sha256"]:
            raise ModelError(
                "NN-MOD-005",
                "weights differ from their sha256",
                str(path),
                "copy the model folder again",
            )
        networks.append(_build_member(network, data, path, for_training))
    return networks, manifest


def _build_member(network: NetworkConfig, data: bytes, path: Path, for_training: bool) -> nn.Module:
    """A network with the weights of one file.

    Raises:
        ModelError: NN-MOD-006 if they do not fit, 007 if one is not finite, 012 if a variance is
            negative.
    """
    import torch
    from safetensors.torch import load

    misfit = ModelError("NN-MOD-006", "weights do not fit the network", str(path), "train again")
    if len(data) < 2 * count_weights(network):  # before anything of that size is built
        raise misfit
    try:
        stored = load(data)
        if for_training or network.norm != "batch":
            module = build_unet(network).eval()
            module.load_state_dict(stored)
        else:
            from normnet.network.lean import lean_unet

            module = lean_unet(network, stored)
    except Exception as error:  # safetensors and torch raise many kinds for the same cause
        raise misfit from error
    for name, value in stored.items():
        if value.is_floating_point() == name.endswith("num_batches_tracked"):
            raise misfit
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise ModelError("NN-MOD-007", "weights hold NaN or infinity", str(path), "train again")
        if name.endswith("running_var") and (value < 0).any():
            raise ModelError("NN-MOD-012", "a negative variance", str(path), "train again")
    return module
