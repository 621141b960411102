"""``--device``: the device on which the networks run, and whether it still works.

Error ids: NN-RES-009 the GPU does not answer this process any more.
"""

from __future__ import annotations

from normnet.errors import ConfigError, ResourceError
from normnet.memory import is_lack_of_memory

LOST_DEVICE = "NN-RES-009"


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


def is_lost(device: str) -> bool:
    """Whether a GPU refuses all that this process asks it, as after an illegal access.

    Args:
        device: Torch device.
    """
    if not device.startswith("cuda"):
        return False
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return not is_lack_of_memory(error)
    return False


def lost_device(where: str) -> ResourceError:
    """NN-RES-009.

    Args:
        where: The scan that was being worked on.
    """
    return ResourceError(
        LOST_DEVICE,
        "the GPU does not answer this process any more",
        where,
        "run the command again; finished scans are kept",
    )
