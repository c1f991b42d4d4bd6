"""What every result says of itself, and how it is written to a file."""

import dataclasses
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import tsjax
from tsjax import costs

PACKAGES = ("flax", "optax", "orbax-checkpoint", "numpy", "pandas")


@dataclasses.dataclass(frozen=True)
class Result:
    """What every result says of itself: records of results have these fields first.

    Attributes:
      command: the command line that repeats it.
      config: every setting, by name.
      versions: packages and device that it ran on.
    """

    command: str
    config: dict[str, Any]
    versions: dict[str, str]


def provenance(settings: Any) -> dict[str, Any]:
    """The fields of :class:`Result` for a script's settings, run here and now."""
    return {
        "command": settings.command(),
        "config": dataclasses.asdict(settings),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and the device."""
    found = {"tsjax": tsjax.__version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in PACKAGES}
    # None leaves it to the device: full float32 on a CPU, TF32 on recent NVIDIA GPUs.
    found["matmul_precision"] = str(jax.config.values["jax_default_matmul_precision"])
    return found | costs.device_description()


def write_json(record: Any, path: Path) -> None:
    """Writes a record as JSON; the file appears whole or not at all.

    Raises:
      ValueError: if a number is not finite: a table never holds a NaN.
    """
    write_file(path, json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False) + "\n")


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then puts it in place."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
