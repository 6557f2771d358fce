"""What the system says of its processor and GPUs, without loading an engine to ask."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
GPU_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
GPU_FACTS = Path("/proc/driver/nvidia/gpus")

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""Flags of x86 processors that compute in bfloat16 themselves."""


def has_native_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor computes in bfloat16 itself; an engine that imitates it is slower than in float32."""
    return bool(BF16_FLAGS & set(_field(cpuinfo, "flags").split()))


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's model name."""
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def sees_gpu() -> bool:
    """Whether NVIDIA's driver shows a device."""
    return any(node.exists() for node in GPU_NODES)


def gpu_name(number: int, facts: Path = GPU_FACTS) -> str:
    """Return the model name of an NVIDIA GPU, in the order of their bus addresses."""
    folders = sorted(facts.iterdir()) if facts.is_dir() else []
    known = _field(folders[number] / "information", "Model") if number < len(folders) else ""
    return known or f"NVIDIA GPU {number}"


def _field(path: Path, name: str) -> str:
    """Return the value of the first line `name: value`, empty if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")
