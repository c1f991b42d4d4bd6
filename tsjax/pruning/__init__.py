"""Weight masks over any pytree: score the weights, select which to keep, apply the mask.

    scores = pruning.magnitude(params)
    mask = pruning.select(scores, density=0.5)
    params = pruning.apply(params, mask)

Three pure functions that work on any params tree, eagerly or inside any jitted step.
"""

from tsjax.pruning.masks import Where, apply, density, kernels, ones, summary
from tsjax.pruning.schedules import ladder
from tsjax.pruning.scores import magnitude
from tsjax.pruning.selection import SCOPES, select

__all__ = [
    "SCOPES",
    "Where",
    "apply",
    "density",
    "kernels",
    "ladder",
    "magnitude",
    "ones",
    "select",
    "summary",
]
