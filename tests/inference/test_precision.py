"""The type that networks compute in follows from what the CPU can do and from the limits set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from normnet.inference.precision import autocast, choose_precision

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


@pytest.fixture
def able(monkeypatch):
    """A CPU that has everything, without limits."""
    for name in LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)


def test_bfloat16_where_the_cpu_has_it(able):
    assert choose_precision() == choose_precision("cpu") == "bfloat16"
    with autocast():
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("owner", "name", "answer"),
    [
        (torch.cpu, "_is_avx512_bf16_supported", False),
        (torch.backends.cpu, "get_cpu_capability", "AVX2"),
        (torch.backends.cpu, "get_cpu_capability", "DEFAULT"),
        (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", False),
    ],
)
def test_float32_where_it_lacks_something(able, monkeypatch, owner, name, answer):
    monkeypatch.setattr(owner, name, lambda: answer, raising=False)
    assert choose_precision() == "float32"
    with autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((9, 0), None, "bfloat16"),
        ((8, 0), None, "bfloat16"),
        ((7, 5), None, "float32"),  # a T4 emulates it
        ((7, 0), "6.0", "bfloat16"),  # another maker counts otherwise
    ],
)
def test_gpus(able, monkeypatch, capability, hip, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert choose_precision("cuda") == choose_precision("cuda:1") == expected


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "float32"),  # bfloat16 would be emulated
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", "float32"),
        ("DNNL_MAX_CPU_ISA", "AVX2_VNNI", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "ALL", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "", "bfloat16"),
    ],
)
def test_limits_of_onednn(able, monkeypatch, name, limit, expected):
    monkeypatch.setenv(name, limit)
    assert choose_precision() == expected


@pytest.mark.parametrize(
    "limits",
    [
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    ],
)
def test_limits_of_a_process(limits):
    """The real reports of torch, on any CPU."""
    code = "from normnet.inference.precision import choose_precision; print(choose_precision())"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **limits},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "float32"
