"""What a timing was taken on."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import jax

_CPUINFO = Path("/proc/cpuinfo")


def device_description() -> dict[str, str]:
    """Describes the default device and the machine around it.

    Returns:
      platform ("cpu", "gpu"), device_kind, device_count, platform_version (of the runtime; names
      the CUDA version on a GPU), cpu_model, cpu_count (the CPUs that this process may use), jax,
      jaxlib (which holds XLA), cpu_mhz where the system tells, malloc (the settings of glibc's
      allocator) where there are any, and on an NVIDIA GPU whose nvidia-smi answers driver, gpu_mhz,
      memory_mhz (clocks at this moment) and power_limit_w.
    """
    device = jax.devices()[0]
    found = {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": str(jax.device_count()),
        "platform_version": " ".join(device.client.platform_version.split()),
        "cpu_model": _said(_CPUINFO, "model name") or platform.processor() or "unknown",
        "cpu_count": str(_cpu_count()),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
    }
    if clock := _said(_CPUINFO, "cpu MHz"):
        found["cpu_mhz"] = clock
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        found["malloc"] = tunables
    return found | (_nvidia() if device.platform == "gpu" else {})


def free_bytes() -> int | None:
    """Bytes that programs may still take on the default device, None where that is not known.

    On a CPU it is the memory that Linux has available, or what is left of a container's limit
    where that is less.
    """
    if stats := jax.devices()[0].memory_stats():
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    available = _said(Path("/proc/meminfo"), "MemAvailable")
    if available is None:
        return None
    free = 1024 * int(available.split()[0])
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    # There is no such file, or it says "max".
    except (OSError, ValueError):
        return free
    # Files that it has read are given up before anything fails.
    cached = _said(group / "memory.stat", "inactive_file", " ") or "0"
    return min(free, limit - used + int(cached))


def _said(path: Path, key: str, separator: str = ":") -> str | None:
    """The value of the first line with a key in one of Linux's files of keys and values."""
    if not path.is_file():
        return None
    lines = (line.partition(separator) for line in path.read_text().splitlines())
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
