"""What the leaves of a tree consist of, once a program that uses them has been followed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tsjax import trees
from tsjax.structure import axes
from tsjax.structure.axes import Axis, Dim, Product
from tsjax.structure.equations import Axes
from tsjax.structure.programs import Program

PyTree = Any


@dataclass(frozen=True)
class Layout:
    """What the leaves consist of, and the program that uses them.

    Attributes:
      params: the tree of ``jax.ShapeDtypeStruct``.
      leaves: {path: axes}.
      program: what was followed.
    """

    params: PyTree
    leaves: Mapping[str, Axes]
    program: Program

    def shapes(self, sizes: Mapping[Dim, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the leaves when these dims have other sizes."""
        return {
            path: tuple(axes.size_in(axis, sizes) for axis in found)
            for path, found in self.leaves.items()
        }

    def resized(self, sizes: Mapping[Dim, int]) -> PyTree:
        """The tree of ``jax.ShapeDtypeStruct`` with other sizes."""
        shapes = self.shapes(sizes)
        return trees.map_with_path(
            lambda path, leaf: jax.ShapeDtypeStruct(shapes[path], leaf.dtype), self.params
        )

    def dims(self) -> list[Dim]:
        """The dims of all leaves, each once, in their order; those of one unit are left out."""
        found = (axes.dims(axis) for leaf in self.leaves.values() for axis in leaf)
        return list(dict.fromkeys(dim for each in found for dim in each if dim.size > 1))


def places(axis: Axis) -> list[tuple[Dim, np.ndarray]]:
    """The dims of an axis, each with its unit at every place, -1 where there is none.

    A dim is there twice only if some place belongs to two of its units.
    """
    axis = axes.resolve(axis)
    if isinstance(axis, Dim):
        return [(axis, np.arange(axis.size))]
    found: list[tuple[Dim, np.ndarray]] = []
    if isinstance(axis, Product):
        repeats = 1
        for factor in axis.factors:
            last = axis.size // (repeats * factor.size)
            found += [(dim, np.tile(np.repeat(u, last), repeats)) for dim, u in places(factor)]
            repeats *= factor.size
        return found
    start = 0
    for part in axis.parts:
        for dim, units in places(part):
            here = np.full(axis.size, -1)
            here[start : start + part.size] = units
            alike = (
                i for i, (d, u) in enumerate(found) if d is dim and not (u[here >= 0] >= 0).any()
            )
            at = next(alike, None)
            if at is None:
                found.append((dim, here))
            else:
                found[at] = dim, np.maximum(found[at][1], here)
        start += part.size
    return found
