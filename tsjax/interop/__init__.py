"""Weights to and from the names that PyTorch checkpoints use."""

from tsjax.interop.torch_weights import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
