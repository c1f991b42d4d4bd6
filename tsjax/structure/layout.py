"""What the leaves of a tree consist of, once a program that uses them has been followed."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from tsjax import trees
from tsjax.structure import axes
from tsjax.structure.axes import Dim
from tsjax.structure.equations import Axes, Followed
from tsjax.trees import PyTree


@dataclass(frozen=True)
class Layout:
    """What the leaves consist of, and the program that uses them.

    Attributes:
      params: the tree of ``jax.ShapeDtypeStruct``.
      leaves: {path: axes}.
      followed: the program.
    """

    params: PyTree
    leaves: Mapping[str, Axes]
    followed: Followed

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
