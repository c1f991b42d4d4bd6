"""Models to analyse, and which axes of their params must be cut together."""

from . import attention, cnn, dense, mixtures, oddities, recurrent, transformers
from .case import REGISTRY, Case, leaf_axis, units

__all__ = ["CASES", "Case", "axis_group", "leaf_axis", "units"]

# The imports above registered them.
FAMILIES = (attention, cnn, dense, mixtures, oddities, recurrent, transformers)
CASES: list[Case] = REGISTRY


def axis_group(groups, text: str):
    """The group on the axis ``path:axis#size``, as `Case` writes it."""
    path, axis, size = leaf_axis(text)
    here = [g for g in groups if any((m.path, m.axis) == (path, axis) for m in g.members)]
    fitting = [g for g in here if size in (None, g.size)]
    if len(fitting) != 1:
        raise LookupError(f"{text}: {len(fitting)} groups fit, of sizes {[g.size for g in here]}")
    return fitting[0]
