"""How one array is laid out in PyTorch and here."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A reversible change of layout.

    Attributes:
      torch_shape: the shape in PyTorch of an array whose shape here is given.
      to_jax: ``to_jax(array, shape here)``.
      to_torch: ``to_torch(array)``.
      any_rows: whether it is a positional table, which PyTorch may keep with more rows or fewer.
    """

    torch_shape: Callable[[Shape], Shape]
    to_jax: Callable[[np.ndarray, Shape], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]
    any_rows: bool = False


def linear(in_axes: int = 1, *, as_conv: bool = False) -> Layout:
    """``[out, in]`` in PyTorch (``[out, in, 1]`` as a convolution), ``[*in, *out]`` here.

    Args:
      in_axes: how many leading axes here are inputs, e.g. 2 for ``[H, E, D]``.
      as_conv: whether PyTorch has it as a convolution with kernel 1.
    """
    tail = (1,) if as_conv else ()

    def torch_shape(shape: Shape) -> Shape:
        return (math.prod(shape[in_axes:]), math.prod(shape[:in_axes]), *tail)

    return Layout(
        torch_shape,
        lambda array, shape: array.reshape(array.shape[:2]).T.reshape(shape),
        lambda array: array.reshape(math.prod(array.shape[:in_axes]), -1).T.reshape(
            torch_shape(array.shape)
        ),
    )


CONV = Layout(
    lambda shape: shape[::-1],
    lambda array, shape: array.transpose(2, 1, 0).reshape(shape),
    lambda array: array.transpose(2, 1, 0),
)
"""``[out, in, k]`` in PyTorch, ``[k, in, out]`` here."""

FLAT = Layout(
    lambda shape: (math.prod(shape),),
    lambda array, shape: array.reshape(shape),
    lambda array: array.reshape(-1),
)
"""One axis in PyTorch, ``[*out]`` here: biases and norms."""


def merged(*runs: int) -> Layout:
    """Neighbouring axes that are one in PyTorch: ``merged(2, 1)`` is ``[a * b, c]`` there.

    Args:
      *runs: how many axes here make up each axis in PyTorch.
    """

    def torch_shape(shape: Shape) -> Shape:
        axes = iter(shape)
        return tuple(math.prod(next(axes) for _ in range(run)) for run in runs)

    return Layout(
        torch_shape,
        lambda array, shape: array.reshape(shape),
        lambda array: array.reshape(torch_shape(array.shape)),
    )


TABLE = Layout(lambda shape: shape, lambda array, shape: array.reshape(shape), lambda array: array)
"""The same in both: look-up tables."""

POSITIONS = Layout(
    lambda shape: (1, *shape),
    lambda array, shape: array.reshape(shape),
    lambda array: array[None],
    any_rows=True,
)
"""``[1, rows, D]`` in PyTorch, ``[rows, D]`` here, with the rows that are needed."""
