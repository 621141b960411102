"""What a segmentation needs: the ensemble, the lung networks, and the settings they were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normnet.config import Config, InferenceConfig, parse_config
from normnet.errors import ModelError
from normnet.network.weights import load_members

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """Loaded weights.

    Attributes:
        networks: Members of the ensemble.
        lung_networks: Members of the lung segmenter.
        config: Settings of the ensemble.
        manifest: What the ensemble's manifest says.
        lung_manifest: What the lung model's manifest says.
    """

    networks: list[nn.Module]
    lung_networks: list[nn.Module]
    config: Config
    manifest: dict[str, Any]
    lung_manifest: dict[str, Any]

    def asked(self, config: InferenceConfig) -> list[nn.Module]:
        """The members that vote under these settings."""
        return self.networks[: config.max_members]


def shipped(name: str) -> Path:
    """Folder of a model that ships with the package: ``"normnet"`` or ``"lungs"``."""
    return Path(str(resources.files("normnet") / "weights" / name))


def load_model(folder: str | Path | None = None, lungs: str | Path | None = None) -> Model:
    """Load an ensemble and a lung segmenter.

    Args:
        folder: Made by ``normnet train``; the shipped ensemble where None.
        lungs: Made by ``normnet train-lungs``; the shipped one where None.

    Raises:
        ModelError: If files are missing, altered or do not fit.
    """
    from normnet.inference.quicken import quicken

    folder = Path(folder) if folder else shipped("normnet")
    networks, manifest = load_members(folder, "normnet")
    networks = [quicken(network) for network in networks]
    lung_folder = Path(lungs) if lungs else shipped("lungs")
    lung_networks, lung_manifest = load_members(lung_folder, "lungs")
    if lung_manifest["network"].get("in_channels") != 3:
        raise ModelError(
            "NN-MOD-008", "lung model of an older kind, it sees one slice only", str(lung_folder), "train it again"
        )
    return Model(networks, lung_networks, parse_config(manifest["config"], str(folder)), manifest, lung_manifest)
