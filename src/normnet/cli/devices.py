"""``--device``: the device on which the networks run."""

from __future__ import annotations

from normnet.errors import ConfigError


def choose_device(name: str) -> str:
    """The name of a torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: If the name is none of these or the machine has no such device.
    """
    if name == "cpu":  # known without loading torch
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (number.isascii() and number.isdecimal())):
        raise ConfigError(
            "NN-CFG-010", f"unknown device '{name}'", "--device", "use auto, cpu or cuda"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "NN-CFG-011", f"no device '{name}' on this machine", "--device", "use --device cpu"
        )
    return name
