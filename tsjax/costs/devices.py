"""What a timing was taken on."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import jax


def device_description() -> dict[str, str]:
    """Describes the default device and the machine around it.

    Returns:
      platform ("cpu", "gpu"), device_kind, device_count, platform_version (of the runtime; names
      the CUDA version on a GPU), cpu_model, cpu_count (the CPUs that this process may use), jax,
      jaxlib (which holds XLA), cpu_mhz where the system tells, and on an NVIDIA GPU whose
      nvidia-smi answers driver, gpu_mhz, memory_mhz (clocks at this moment) and power_limit_w.
    """
    device = jax.devices()[0]
    found = {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": str(jax.device_count()),
        "platform_version": " ".join(device.client.platform_version.split()),
        "cpu_model": _cpuinfo("model name") or platform.processor() or "unknown",
        "cpu_count": str(_cpu_count()),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
    }
    if clock := _cpuinfo("cpu MHz"):
        found["cpu_mhz"] = clock
    return found | (_nvidia() if device.platform == "gpu" else {})


def _cpuinfo(key: str) -> str | None:
    """What Linux says of the first CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return None
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), None)


_NVIDIA = {
    "driver": "driver_version",
    "gpu_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
}


def _nvidia() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; nothing where it is missing or fails."""
    if not (program := shutil.which("nvidia-smi")):
        return {}
    query = [f"--query-gpu={','.join(_NVIDIA.values())}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    words = [word.strip() for word in done.stdout.partition("\n")[0].split(",")]
    if len(words) != len(_NVIDIA):
        return {}
    return {name: word for name, word in zip(_NVIDIA, words, strict=True) if "N/A" not in word}


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
