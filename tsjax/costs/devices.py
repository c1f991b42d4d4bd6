"""What a timing was taken on."""

import os
import platform
from importlib import metadata
from pathlib import Path

import jax


def device_description() -> dict[str, str]:
    """Describes the default device and the machine around it.

    Returns:
      platform ("cpu", "gpu"), device_kind, device_count, platform_version (of the runtime; names
      the CUDA version on a GPU), cpu_model, cpu_count (the CPUs that this process may use), jax,
      jaxlib.
    """
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": str(jax.device_count()),
        "platform_version": " ".join(device.client.platform_version.split()),
        "cpu_model": _cpu_model(),
        "cpu_count": str(_cpu_count()),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
