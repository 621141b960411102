"""``--config``: single keys of a user's file over a model's own settings."""

from __future__ import annotations

import tomllib
from pathlib import Path

from normnet.config import Config, load_config, parse_config
from normnet.errors import ConfigError


def override_config(base: Config, source: str | None) -> Config:
    """Settings of a model with those of a file (or of ``paper``, ``default``) over them; the network stays.

    Raises:
        ConfigError: If the file is missing, not TOML, or holds unknown keys or wrong values.
    """
    if source is None:
        return base
    if source in ("paper", "default"):
        return load_config(source).model_copy(update={"network": base.network, "lungs": base.lungs})
    load_config(source)  # names what is wrong with the file
    values = base.model_dump()
    for name, section in tomllib.loads(Path(source).read_text()).items():
        if name == "network":
            raise ConfigError(
                "NN-CFG-012",
                "the network of a trained model cannot change",
                source,
                "remove [network]",
            )
        values[name] = {**values[name], **section}
    return parse_config(values, source)
