"""Patterns: weights that are kept or pruned together, or in a fixed share of each group.

A machine gains nothing by skipping single zeros. It can skip blocks, and whole rows and columns.
Recent GPUs can also skip two of every four weights along the contracted axis.
"""

import dataclasses
import math
import operator
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax.wording import one_of

_REDUCTIONS = ("mean", "max")


@dataclasses.dataclass(frozen=True)
class NofM:
    """Keeps at most ``n`` of every ``m`` consecutive weights along ``axis`` (arXiv 2104.08378).

    The last group along the axis may be shorter. It too keeps at most ``n`` weights, as if it were
    padded with zeros.

    Attributes:
      n: weights kept in each group.
      m: weights in a group.
      axis: the axis along which the groups lie. The default is the axis of inputs in a dense kernel
        [in, out] and in a convolution [width, in, out].
    """

    n: int
    m: int
    axis: int = -2

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise ValueError(f"N:M needs 0 < n <= m, got n={self.n} and m={self.m}")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Keeps or prunes whole blocks of the last axes, such as ``(4, 4)`` or ``(1, 8)``.

    Blocks begin at index 0. Those at the far edge may be smaller.

    Attributes:
      shape: the block's size along the last axes.
      reduce: a block's score is the ``"mean"`` or the ``"max"`` of its weights' scores.
    """

    shape: tuple[int, ...]
    reduce: str = "mean"

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"a block's sizes must be at least 1, got {self.shape}")
        object.__setattr__(self, "shape", tuple(map(operator.index, self.shape)))
        one_of("reduce", self.reduce, _REDUCTIONS)

    def block(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The block in a leaf of this shape."""
        free = len(shape) - len(self.shape)
        if free < 0:
            raise ValueError(f"blocks of {self.shape} need rank {len(self.shape)}, got {shape}")
        return (1,) * free + self.shape


@dataclasses.dataclass(frozen=True)
class Slices:
    """Keeps or prunes whole slices: in a kernel [in, out], axis 0 gives rows, and -1 columns.

    Attributes:
      axis: the axis; a slice is all that lies at one index of it.
      reduce: a slice's score is the ``"mean"`` or the ``"max"`` of its weights' scores.
    """

    axis: int
    reduce: str = "mean"

    def __post_init__(self) -> None:
        one_of("reduce", self.reduce, _REDUCTIONS)

    def block(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The block in a leaf of this shape."""
        axis = axis_of(self.axis, shape)
        return tuple(1 if i == axis else max(1, n) for i, n in enumerate(shape))


@dataclasses.dataclass(frozen=True)
class Within:
    """Ranks single weights within each slice along ``axes``; every slice keeps the same count.

    Wanda compares the weights of each output. That is ``Within(-1)`` for a kernel [in, out], and
    ``Within((-2, -1))`` for a kernel with heads [in, heads, width].

    Attributes:
      axes: the axis or axes; a slice is all that lies at one index of each.
    """

    axes: int | tuple[int, ...] = -1

    def __post_init__(self) -> None:
        axes = self.axes if isinstance(self.axes, Iterable) else (self.axes,)
        object.__setattr__(self, "axes", tuple(map(operator.index, axes)))


Pattern = NofM | Blocks | Slices | Within


def axis_of(axis: int, shape: tuple[int, ...]) -> int:
    """The axis counted from the front.

    Raises:
      ValueError: if the shape has no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} is not in the shape {shape}")
    return axis % len(shape)


def groups(scores: Array, pattern: NofM) -> Array:
    """Scores in groups along a new last axis [..., groups, m]; padding is -inf."""
    axis = axis_of(pattern.axis, scores.shape)
    moved = jnp.moveaxis(scores, axis, -1)
    missing = -moved.shape[-1] % pattern.m
    widths = [(0, 0)] * (moved.ndim - 1) + [(0, missing)]
    padded = jnp.pad(moved, widths, constant_values=-jnp.inf)
    return padded.reshape(*moved.shape[:-1], -1, pattern.m)


def ungroup(grouped: Array, shape: tuple[int, ...], pattern: NofM) -> Array:
    """The inverse of :func:`groups`, padding cut off."""
    axis = axis_of(pattern.axis, shape)
    flat = grouped.reshape(*grouped.shape[:-2], -1)[..., : shape[axis]]
    return jnp.moveaxis(flat, -1, axis)


def rows(scores: Array, pattern: Within) -> Array:
    """Scores as one row per slice [slices..., rest]."""
    axes = _axes(pattern, scores.shape)
    moved = jnp.moveaxis(scores, axes, range(len(axes)))
    return moved.reshape(*moved.shape[: len(axes)], -1)


def unrow(kept: Array, shape: tuple[int, ...], pattern: Within) -> Array:
    """The inverse of :func:`rows`."""
    axes = _axes(pattern, shape)
    rest = tuple(n for i, n in enumerate(shape) if i not in axes)
    full = kept.reshape(*kept.shape[:-1], *rest)
    return jnp.moveaxis(full, range(len(axes)), axes)


def block_scores(scores: Array, block: tuple[int, ...], reduce: str) -> tuple[Array, np.ndarray]:
    """One score per block, and the number of weights in each."""
    # Sums of many float16 overflow, and means in bfloat16 tie.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    fill = 0 if reduce == "mean" else -jnp.inf
    widths = [(0, -n % b) for n, b in zip(scores.shape, block, strict=True)]
    split = _split(tuple(n + w for n, (_, w) in zip(scores.shape, widths, strict=True)), block)
    inner = tuple(range(1, 2 * len(block), 2))
    padded = jnp.pad(scores, widths, constant_values=fill).reshape(split)
    sizes = np.pad(np.ones(scores.shape, np.int32), widths).reshape(split).sum(inner)
    if reduce == "max":
        return jnp.max(padded, inner), sizes
    return jnp.sum(padded, inner) / sizes.astype(scores.dtype), sizes


def expand(kept: Array, shape: tuple[int, ...], block: tuple[int, ...]) -> Array:
    """A mask of the leaf's shape from one of its blocks."""
    for axis, size in enumerate(block):
        if size > 1:
            kept = jnp.repeat(kept, size, axis, total_repeat_length=size * kept.shape[axis])
    return kept[tuple(slice(n) for n in shape)]


def unit_of(pattern: Pattern | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The block of a pattern in a leaf of this shape; a single weight without a pattern."""
    return (1,) * len(shape) if pattern is None else pattern.block(shape)  # type: ignore[union-attr]


def largest_unit(unit: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Weights in the largest block."""
    return math.prod(min(b, n) for b, n in zip(unit, shape, strict=True))


def problem(pattern: Any, shape: tuple[int, ...]) -> str | None:
    """Why a pattern does not fit a leaf of this shape, if it does not."""
    if not isinstance(pattern, Pattern | None):
        return f"{pattern!r} is no pattern: use NofM, Blocks, Slices or Within"
    try:
        if isinstance(pattern, NofM):
            axis_of(pattern.axis, shape)
        elif isinstance(pattern, Within):
            _axes(pattern, shape)
        elif pattern is not None:
            pattern.block(shape)
    except ValueError as error:
        return str(error)
    return None


def _axes(pattern: Within, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = tuple(axis_of(axis, shape) for axis in pattern.axes)  # type: ignore[union-attr]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axes {pattern.axes} name an axis twice in the shape {shape}")
    return axes


def _split(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(m for n, b in zip(shape, block, strict=True) for m in (n // b, b))
