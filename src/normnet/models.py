"""The loaded models that a segmentation needs: the ensemble, the lungs and the lesions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from normnet.config import Config, InferenceConfig, LungsConfig, parse_manifest_config
from normnet.errors import ModelError
from normnet.lungs.external import ExternalLungs
from normnet.lungs.programs import find_external
from normnet.network.weights import load_members, read_manifest

if TYPE_CHECKING:
    from torch import nn

Networks = TypeVar("Networks")


@dataclass(frozen=True)
class Members(Generic[Networks]):
    """The loaded networks of one model folder.

    Attributes:
        networks: In evaluation mode; or the lung model of another program in their place.
        config: Settings that the networks are used with.
        manifest: What the model's manifest says.
    """

    networks: Networks
    config: Config
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """Everything that a segmentation needs.

    Attributes:
        ensemble: Networks that vote for normal tissue, the paper's.
        lungs: Networks that find the lungs, or the model of another program.
        lesions: Networks that recognise disease, pale ground glass included.
    """

    ensemble: Members[list[nn.Module]]
    lungs: Members[list[nn.Module] | ExternalLungs]
    lesions: Members[list[nn.Module]]

    @property
    def config(self) -> Config:
        """The ensemble's settings, with the section ``lungs`` of the lung model."""
        return self.ensemble.config.model_copy(update={"lungs": self.lungs.config.lungs})

    def voters(self, config: InferenceConfig) -> list[nn.Module]:
        """The members of the ensemble that vote under these settings."""
        return self.ensemble.networks[: config.members_voting(len(self.ensemble.networks))]


def shipped(name: str) -> Path:
    """Folder of a shipped model: ``"normnet"``, ``"lungs"`` or ``"lesions"``."""
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
    return Model(_load("normnet", folder), load_lungs(lungs), _load("lesions", lesions))


def _load(kind: str, given: str | Path | None) -> Members[list[nn.Module]]:
    from normnet.inference.subpixel import use_subpixel_output

    folder = Path(given) if given else shipped(kind)
    networks, manifest = load_members(folder, kind)
    networks = [use_subpixel_output(network) for network in networks]
    return Members(networks, _known_settings(manifest, folder), manifest)


def settings_of(manifest: dict[str, Any], folder: Path) -> tuple[Config, list[str]]:
    """Settings that a model is used with.

    Args:
        manifest: Of the model.
        folder: Of the model, for messages.

    Returns:
        As ``parse_manifest_config``: the settings, and the names of the unknown ones.

    Raises:
        ModelError: If the manifest holds no settings.
        ConfigError: If a setting has a wrong value.
    """
    try:
        values = {**manifest["inference"], "network": manifest["network"]}
    except (KeyError, TypeError) as error:
        raise ModelError(
            "NN-MOD-003", "incomplete model manifest", str(folder), "train or copy it again"
        ) from error
    return parse_manifest_config(values, str(folder))


def with_lungs(config: Config, lung_manifest: dict[str, Any]) -> Config:
    """The settings with the section ``lungs`` of a lung model, since its networks need their own.

    Args:
        config: Settings of all stages.
        lung_manifest: Of the lung model; without settings, the section gets its default values.

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
        # The warning names the line that called load_model.
        warnings.warn(f"model {folder.name}: {text}", stacklevel=5)


def load_lungs(path: str | Path | None = None) -> Members[list[nn.Module] | ExternalLungs]:
    """Load a lung segmenter.

    Args:
        path: Made by ``normnet train-lungs``, or what ``find_external`` knows; the shipped one
            where None.

    Raises:
        ModelError: If files are missing, altered or do not fit, or the program that it needs is not
            installed.
    """
    from normnet.lungs.processes import find_program

    path = Path(path) if path else shipped("lungs")
    external = find_external(path)
    if external is not None:
        find_program(external)
        return Members(external, with_lungs(Config(), external.manifest), external.manifest)
    networks, manifest = load_members(path, "lungs")
    lungs = manifest.get("inference")
    if isinstance(lungs, dict):
        _warn_of_unknown(path, parse_manifest_config(lungs, str(path))[1])
    config = with_lungs(Config(), manifest)
    n_seen, n_own = config.lungs.n_seen, manifest["network"].get("in_channels")
    if n_own != n_seen:
        found = f"its network sees {n_own} slices, its settings say {n_seen}"
        raise ModelError("NN-MOD-008", found, str(path), "train it again")
    return Members(networks, config, manifest)


def read_lung_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a lung segmenter of any kind, without loading its networks."""
    external = find_external(path)
    return read_manifest(path, "lungs") if external is None else external.manifest
