"""What a run ran on."""

import platform
from importlib.metadata import version

import tsjax
from tsjax import costs

PACKAGES = ("flax", "optax", "orbax-checkpoint", "numpy", "pandas")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, and the device."""
    found = {"tsjax": tsjax.__version__, "python": platform.python_version()}
    found |= {name: version(name) for name in PACKAGES}
    return found | costs.device_description()
