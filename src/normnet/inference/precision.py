"""The type that the networks compute in: bfloat16, or float32 on a device without bfloat16.

A CPU without instructions for bfloat16 emulates them, which takes up to 35 times as long as
float32; older GPUs emulate them, too, or have no convolutions for them. The choice follows from
what torch and oneDNN report, never from a measured time, so that one machine always gives the same
masks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Sets of instructions without bfloat16 up to which a user can limit oneDNN. It accepts both names
# of the variable, the first one before the second, in any case.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
WITHOUT_BFLOAT16 = {
    "sse41",
    "avx",
    "avx2",
    "avx2_vnni",
    "avx2_vnni_2",
    "avx512_core",
    "avx512_core_vnni",
}


def choose_precision(device: str = "cpu") -> str:
    """The type that networks compute in on a device, ``"bfloat16"`` or ``"float32"``.

    Of CPUs only x86 with AVX512_BF16 (those with AMX have it, too) compute in bfloat16, of NVIDIA
    GPUs those from compute capability 8.0 (Ampere) on; other devices always do.
    ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA`` are obeyed.

    Args:
        device: Torch device.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda" and torch.version.hip is None:
        return "bfloat16" if torch.cuda.get_device_capability(place)[0] >= 8 else "float32"
    if place.type != "cpu":
        return "bfloat16"
    native = (
        torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and _onednn_limit() not in WITHOUT_BFLOAT16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return "bfloat16" if native else "float32"


def describe_backend(device: str = "cpu") -> str:
    """The library and the kind of device of the networks, as in ``torch 2.13.0, cpu``.

    Args:
        device: Torch device.
    """
    import torch

    return f"torch {torch.__version__}, {torch.device(device).type}"


def autocast(device: str = "cpu") -> torch.autocast:
    """The context in which networks compute in the type of ``choose_precision``.

    Args:
        device: Torch device.
    """
    import torch

    mixed = choose_precision(device) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed)


def _onednn_limit() -> str:
    """The set of instructions that oneDNN may use at most, in small letters; empty: no limit."""
    return next((os.environ[name].lower() for name in LIMITS if os.environ.get(name)), "")
