"""The loaded models that a segmentation needs: the ensemble, the lungs and the lesions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from normnet.config import Config, InferenceConfig, LungsConfig, parse_manifest_config
from normnet.errors import ConfigError, ModelError, NormNetWarning
from normnet.lungs.external import ExternalLungs
from normnet.lungs.programs import find_external
from normnet.network.weights import load_members, member_files, read_manifest

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


def read_manifests(
    folder: str | Path | None = None,
    lungs: str | Path | None = None,
    lesions: str | Path | None = None,
) -> list[dict[str, Any]]:
    """The manifests of the models that ``load_model`` would load, without loading them.

    Returns:
        Those of the ensemble, the lungs and the lesion networks.

    Raises:
        ModelError: If one cannot be read or is wrong, or if a file of weights is missing.
    """
    ensemble = _read_whole(_place(folder, "normnet"), "normnet")
    lung_manifest = read_lung_manifest(_place(lungs, "lungs"))
    return [ensemble, lung_manifest, _read_whole(_place(lesions, "lesions"), "lesions")]


def _place(given: str | Path | None, kind: str) -> Path:
    return shipped(kind) if given is None else Path(given)


def _read_whole(folder: Path, kind: str) -> dict[str, Any]:
    """A manifest whose settings are right and whose files of weights are there."""
    manifest = read_manifest(folder, kind)
    member_files(manifest, folder)
    if kind == "lungs":
        _lung_settings(manifest, folder)
    else:
        settings_of(manifest, folder)
    return manifest


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
        ModelError: If files are missing, altered or do not fit, or if a manifest holds what cannot
            be.
    """
    return Model(_load("normnet", folder), load_lungs(lungs), _load("lesions", lesions))


def _load(kind: str, given: str | Path | None) -> Members[list[nn.Module]]:
    folder = _place(given, kind)
    _read_whole(folder, kind)  # a wrong setting is found before torch and weights are loaded
    networks, manifest = load_members(folder, kind)
    return Members(networks, _known_settings(manifest, folder), manifest)


def settings_of(manifest: dict[str, Any], folder: Path) -> tuple[Config, list[str]]:
    """Settings that a model is used with.

    Args:
        manifest: Of the model.
        folder: Of the model, for messages.

    Returns:
        As ``parse_manifest_config``: the settings, and the names of the unknown ones.

    Raises:
        ModelError: NN-MOD-003 if the manifest holds no settings, 010 if a setting has a wrong
            value.
    """
    try:
        values = {**manifest["inference"], "network": manifest["network"]}
    except (KeyError, TypeError) as error:
        raise _no_settings(str(folder)) from error
    return _parse(values, str(folder))


def _no_settings(where: str) -> ModelError:
    return ModelError("NN-MOD-003", "incomplete model manifest", where, "train or copy it again")


def _parse(values: dict[str, Any], where: str) -> tuple[Config, list[str]]:
    """As ``parse_manifest_config``, but a wrong value is the model's fault."""
    try:
        return parse_manifest_config(values, where)
    except ConfigError as error:
        raise ModelError("NN-MOD-010", error.found, where, "train or copy it again") from error


def with_lungs(config: Config, lung_manifest: dict[str, Any]) -> Config:
    """The settings with the section ``lungs`` of a lung model, since its networks need their own.

    Args:
        config: Settings of all stages.
        lung_manifest: Of the lung model; without settings, the section gets its default values.

    Raises:
        ModelError: NN-MOD-003 if the manifest holds something else in place of settings, 010 if a
            setting has a wrong value.
    """
    settings = lung_manifest.get("inference", {})
    if not isinstance(settings, dict):
        raise _no_settings("lung model")
    values = settings.get("lungs")
    lungs = LungsConfig() if values is None else _parse({"lungs": values}, "lungs")[0].lungs
    return config.model_copy(update={"lungs": lungs})


def _known_settings(manifest: dict[str, Any], folder: Path) -> Config:
    config, unknown = settings_of(manifest, folder)
    _warn_of_unknown(folder, unknown)
    return config


def _warn_of_unknown(folder: Path, settings: list[str]) -> None:
    if settings:
        text = f"settings unknown to this version are left out: {', '.join(settings)}"
        # The warning names the line that called load_model.
        warnings.warn(f"model {folder.name}: {text}", NormNetWarning, stacklevel=5)


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

    path = _place(path, "lungs")
    external = find_external(path)
    if external is not None:
        find_program(external)
        return Members(external, with_lungs(Config(), external.manifest), external.manifest)
    config = _lung_settings(_read_whole(path, "lungs"), path)
    networks, manifest = load_members(path, "lungs")
    lungs = manifest.get("inference", {})
    _warn_of_unknown(path, _parse(lungs, str(path))[1])
    return Members(networks, config, manifest)


def _lung_settings(manifest: dict[str, Any], folder: Path) -> Config:
    """The settings of a lung model, which say how many slices its network sees.

    Raises:
        ModelError: NN-MOD-008 if its network sees another number of slices; else as ``with_lungs``.
    """
    config = with_lungs(Config(), manifest)
    n_seen, n_own = config.lungs.n_seen, manifest["network"].get("in_channels", 1)
    if n_own != n_seen:
        found = f"its network sees {n_own} slices, its settings say {n_seen}"
        raise ModelError("NN-MOD-008", found, str(folder), "train it again")
    return config


def read_lung_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a lung segmenter of any kind, without loading its networks.

    Raises:
        ModelError: As ``read_manifests`` raises it.
    """
    external = find_external(path)
    return _read_whole(path, "lungs") if external is None else external.manifest
