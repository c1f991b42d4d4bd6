"""Weight masks over any pytree: score the weights, select which to keep, apply the mask.

    scores = pruning.magnitude(params)
    mask = pruning.select(scores, density=0.5)
    params = pruning.apply(params, mask)

These three functions are pure. They work on any tree of params, eagerly or inside a jitted step.
``docs/masks.md`` is the guide to them and to the rest of the package.

Two modules are for code that goes on from there: ``packing`` describes and checks what ``compress``
writes, and ``stacking`` makes lanes of trees and takes them apart.
"""

from tsjax.pruning import packing, stacking
from tsjax.pruning.algorithms import Algorithm, SparseState
from tsjax.pruning.allocation import erk, uniform, wsap
from tsjax.pruning.choice import Where, all_kernels, complex_pairs, kernels
from tsjax.pruning.gradients import GradientMoments, gradient_moments
from tsjax.pruning.gradual import Prune, gradual
from tsjax.pruning.hold import Hold
from tsjax.pruning.input_norms import input_squares
from tsjax.pruning.masks import (
    apply,
    check,
    count,
    density,
    intersect,
    ones,
    straight_through,
    summary,
)
from tsjax.pruning.optimiser import KeepPrunedState, keep_pruned
from tsjax.pruning.packing import compress, decompress, pack, unpack
from tsjax.pruning.pals import PALS, pals
from tsjax.pruning.patterns import Blocks, NofM, Slices, Within
from tsjax.pruning.regrow import Regrow, rigl, sparse_evolution, static_sparse
from tsjax.pruning.schedules import (
    cosine,
    cubic,
    geometric,
    ladder,
    one_shot,
    periodic,
    schedule,
)
from tsjax.pruning.scores import fisher, magnitude, movement, random, saliency, snip, wanda
from tsjax.pruning.selection import SCOPES, select
from tsjax.pruning.stacking import stack, unstack

__all__ = [
    "PALS",
    "SCOPES",
    "Algorithm",
    "Blocks",
    "GradientMoments",
    "Hold",
    "KeepPrunedState",
    "NofM",
    "Prune",
    "Regrow",
    "Slices",
    "SparseState",
    "Where",
    "Within",
    "all_kernels",
    "apply",
    "check",
    "complex_pairs",
    "compress",
    "cosine",
    "count",
    "cubic",
    "decompress",
    "density",
    "erk",
    "fisher",
    "geometric",
    "gradient_moments",
    "gradual",
    "input_squares",
    "intersect",
    "keep_pruned",
    "kernels",
    "ladder",
    "magnitude",
    "movement",
    "one_shot",
    "ones",
    "pack",
    "packing",
    "pals",
    "periodic",
    "random",
    "rigl",
    "saliency",
    "schedule",
    "select",
    "snip",
    "sparse_evolution",
    "stack",
    "stacking",
    "static_sparse",
    "straight_through",
    "summary",
    "uniform",
    "unpack",
    "unstack",
    "wanda",
    "wsap",
]
