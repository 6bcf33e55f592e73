"""Which device computes, and how much memory it used: said loudly, never chosen in silence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psutil

from geodeform.errors import DeviceError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:n`` into a device that exists.

    ``auto`` takes the first NVIDIA GPU where there is one; a GPU asked for by name is never
    replaced by the CPU.

    Raises:
        DeviceError: If the name is none of these or the GPU is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and (kind == "cpu" or not index.isdigit())):
        raise DeviceError(f"Unknown device '{name}': use auto, cpu, cuda or cuda:N.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise DeviceError(
                f"Device '{name}' is not available ({count} NVIDIA GPUs found): "
                "use --device cpu, or check the driver and the CUDA build of torch."
            )
        return torch.device("cuda", int(index or 0))
    return torch.device("cpu")


def describe_device(device: torch.device) -> str:
    """One phrase for the banner, e.g. ``CPU (2 threads)`` or ``cuda:0 (NVIDIA H200)``."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"CPU ({threads} thread{'s' if threads > 1 else ''})"


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
