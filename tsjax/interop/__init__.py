"""Weights to and from PyTorch's names and files, and models in files of their own."""

from tsjax.interop.files import read_weights, write_weights
from tsjax.interop.model_files import read_model, write_model
from tsjax.interop.sparse import FileSizes, file_sizes, read_sparse, write_sparse
from tsjax.interop.torch_modes import drawn_modes
from tsjax.interop.torch_weights import from_torch, to_torch, torch_shapes

__all__ = [
    "FileSizes",
    "drawn_modes",
    "file_sizes",
    "from_torch",
    "read_model",
    "read_sparse",
    "read_weights",
    "to_torch",
    "torch_shapes",
    "write_model",
    "write_sparse",
    "write_weights",
]
