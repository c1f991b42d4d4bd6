"""Weights to and from the names that PyTorch checkpoints use, and the files they come in."""

from tsjax.interop.files import read_weights, write_weights
from tsjax.interop.torch_modes import drawn_modes
from tsjax.interop.torch_weights import from_torch, to_torch

__all__ = ["drawn_modes", "from_torch", "read_weights", "to_torch", "write_weights"]
