"""The five forecasters in PyTorch, to compare tsjax with.

Our own writing: each computes what its counterpart in :mod:`tsjax.models` computes, for the same
configurations, presets included, and loads the same weights.

    module = pytorch.build(forecaster)
    forecast = module(x_enc, x_mark_enc, x_dec, x_mark_dec)
"""

from third_party.pytorch.building import MODELS, build, create
from third_party.pytorch.pruning import Pruned, kernels, prune_structured, prune_unstructured
from third_party.pytorch.runners import compiled, eager, tensors, train_step

__all__ = [
    "MODELS",
    "Pruned",
    "build",
    "compiled",
    "create",
    "eager",
    "kernels",
    "prune_structured",
    "prune_unstructured",
    "tensors",
    "train_step",
]
