"""What a run ran on."""

import platform
from importlib.metadata import version

import jax

import tsjax
from tsjax import costs

PACKAGES = ("flax", "optax", "orbax-checkpoint", "numpy", "pandas")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and the device."""
    found = {"tsjax": tsjax.__version__, "python": platform.python_version()}
    found |= {name: version(name) for name in PACKAGES}
    # None leaves it to the device: full float32 on a CPU, TF32 on recent NVIDIA GPUs.
    found["matmul_precision"] = str(jax.config.values["jax_default_matmul_precision"])
    return found | costs.device_description()
