"""``--config``: single keys of a user's file over a model's own settings."""

from __future__ import annotations

from normnet.config import Config, load_config, override, read_layers
from normnet.errors import ConfigError


def override_config(base: Config, source: str | None) -> Config:
    """Settings of a model with those of a file over them; the network stays.

    A user's file changes the keys that it names. Where it extends a shipped file, or where
    ``source`` is a shipped name, that file replaces all other settings but those of the lungs.

    Raises:
        ConfigError: As ``read_layers`` raises it, or if a user's file has a section ``network``.
    """
    if source is None:
        return base
    layers = read_layers(source, implied=None)
    shipped = [layer for layer in layers if layer.shipped]
    if shipped:
        extended = load_config(shipped[-1].name.removesuffix(".toml"))
        base = extended.model_copy(update={"network": base.network, "lungs": base.lungs})
    for layer in layers[len(shipped) :]:
        if "network" in layer.values:
            raise ConfigError(
                "NN-CFG-012",
                "the network of a trained model cannot change",
                layer.name,
                "remove [network]",
            )
        base = override(base, layer.values, layer.name)
    return base
