"""What a segmentation needs: the ensemble, the lesion and the lung networks, and their settings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.config import Config, InferenceConfig, LungsConfig, parse_manifest_config
from normnet.errors import ModelError
from normnet.lungs.external import ExternalLungs, find_external
from normnet.network.weights import load_members, read_manifest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """Loaded weights.

    Attributes:
        networks: Members of the ensemble.
        lung_networks: Members of the lung segmenter, or the model of another program in their
            place.
        lesion_networks: Members that segment disease directly, pale ground glass included.
        config: Settings that the ensemble is used with, and the lung model's own; those of a
            training are in the manifests alone.
        lesion_config: The same of the lesion networks.
        manifest: What the ensemble's manifest says.
        lung_manifest: What the lung model's manifest says.
        lesion_manifest: What the lesion model's manifest says.
    """

    networks: list[nn.Module]
    lung_networks: list[nn.Module] | ExternalLungs
    lesion_networks: list[nn.Module]
    config: Config
    lesion_config: Config
    manifest: dict[str, Any]
    lung_manifest: dict[str, Any]
    lesion_manifest: dict[str, Any]

    def asked(self, config: InferenceConfig) -> list[nn.Module]:
        """The members that vote under these settings."""
        return self.networks[: config.members_voting(len(self.networks))]


def shipped(name: str) -> Path:
    """Folder of a model that ships with the package: ``"normnet"``, ``"lungs"`` or ``"lesions"``."""
    return Path(str(resources.files("normnet") / "weights" / name))


def load_model(
    folder: str | Path | None = None,
    lungs: str | Path | None = None,
    lesions: str | Path | None = None,
) -> Model:
    """Load an ensemble, a lung segmenter and lesion networks.

    Settings of a model that this version does not know are left out, with one warning.

    Args:
        folder: Made by ``normnet train``; the shipped ensemble where None.
        lungs: As ``load_lungs`` takes it.
        lesions: Made by ``normnet train`` with the settings ``lesions``; the shipped ones where
            None.

    Raises:
        ModelError: If files are missing, altered or do not fit.
        ConfigError: If a setting in a manifest has a wrong value.
    """
    from normnet.inference.quicken import quicken

    folder = Path(folder) if folder else shipped("normnet")
    networks, manifest = load_members(folder, "normnet")
    networks = [quicken(network) for network in networks]
    lung_networks, lung_manifest = load_lungs(lungs)
    lesion_folder = Path(lesions) if lesions else shipped("lesions")
    lesion_networks, lesion_manifest = load_members(lesion_folder, "lesions")
    return Model(
        networks,
        lung_networks,
        [quicken(network) for network in lesion_networks],
        with_lungs(_known_settings(manifest, folder), lung_manifest),
        _known_settings(lesion_manifest, lesion_folder),
        manifest,
        lung_manifest,
        lesion_manifest,
    )


def settings_of(manifest: dict[str, Any], folder: Path) -> tuple[Config, list[str]]:
    """What a model is used with; returns and raises as ``parse_manifest_config``.

    Raises:
        ModelError: If the manifest holds no settings.
    """
    try:
        values = {**manifest["inference"], "network": manifest["network"]}
    except (KeyError, TypeError) as error:
        raise ModelError(
            "NN-MOD-003", "incomplete model manifest", str(folder), "train or copy it again"
        ) from error
    return parse_manifest_config(values, str(folder))


def with_lungs(config: Config, lung_manifest: dict[str, Any]) -> Config:
    """The settings with those of a lung model in the section ``lungs``: what its network sees is its own.

    Raises:
        ModelError: If the manifest holds something else in place of settings.
    """
    settings = lung_manifest.get("inference", {})
    if not isinstance(settings, dict):
        raise ModelError(
            "NN-MOD-003", "incomplete model manifest", "lung model", "train or copy it again"
        )
    values = settings.get("lungs")
    lungs = (
        LungsConfig()
        if values is None
        else parse_manifest_config({"lungs": values}, "lungs")[0].lungs
    )
    return config.model_copy(update={"lungs": lungs})


def _known_settings(manifest: dict[str, Any], folder: Path) -> Config:
    config, unknown = settings_of(manifest, folder)
    _warn_of_unknown(folder, unknown)
    return config


def _warn_of_unknown(folder: Path, settings: list[str]) -> None:
    if settings:
        text = f"settings unknown to this version are left out: {', '.join(settings)}"
        warnings.warn(f"model {folder.name}: {text}", stacklevel=4)


def load_lungs(
    path: str | Path | None = None,
) -> tuple[list[nn.Module] | ExternalLungs, dict[str, Any]]:
    """Load a lung segmenter.

    Args:
        path: Made by ``normnet train-lungs``, or what ``find_external`` knows; the shipped one
            where None.

    Returns:
        What ``segment_lungs`` takes, and the manifest.

    Raises:
        ModelError: If files are missing, altered or do not fit, or the program that it needs is not
            installed.
    """
    from normnet.lungs.programs import find_program

    path = Path(path) if path else shipped("lungs")
    external = find_external(path)
    if external is not None:
        find_program(external)
        return external, external.manifest
    networks, manifest = load_members(path, "lungs")
    lungs = manifest.get("inference")
    if isinstance(lungs, dict):
        _warn_of_unknown(path, parse_manifest_config(lungs, str(path))[1])
    n_seen = with_lungs(Config(), manifest).lungs.n_seen
    if manifest["network"].get("in_channels") != n_seen:
        found = f"its network sees {manifest['network'].get('in_channels')} slices, its settings say {n_seen}"
        raise ModelError("NN-MOD-008", found, str(path), "train it again")
    return networks, manifest


def read_lung_manifest(path: Path) -> dict[str, Any]:
    """What identifies a lung segmenter of any kind, before it is made ready."""
    external = find_external(path)
    return read_manifest(path, "lungs") if external is None else external.manifest
