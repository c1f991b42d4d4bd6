"""What a plan is to reach: a share of a quantity that the target measures itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from tsjax import trees
from tsjax.structure.groups import Groups
from tsjax.trees import PyTree

Measurer = Callable[[Mapping[str, int]], float]
"""A quantity of the model when these groups, by name, have these sizes; of the dense one for {}."""


@runtime_checkable
class Target(Protocol):
    """A share of a quantity to keep. A target of your own is a class with these two.

    Attributes:
      share: what is kept of the dense model's quantity, in (0, 1].
    """

    @property
    def share(self) -> float:
        """What is kept of the dense model's quantity, in (0, 1]."""

    def measurer(self, groups: Groups, params: PyTree) -> Measurer:
        """The quantity as a function of the sizes of groups; the fewer units, the less of it.

        Args:
          groups: the groups to cut. ``groups.shapes(sizes)`` and ``groups.resized(sizes)`` are the
            leaves of a cut model.
          params: the tree that is planned for.
        """


@dataclass(frozen=True)
class _Share:
    share: float

    def __post_init__(self) -> None:
        if not (isinstance(self.share, int | float) and 0 < self.share <= 1):
            name = type(self).__name__
            raise ValueError(f"{name} takes the share to keep, in (0, 1], got {self.share}")


@dataclass(frozen=True)
class Params(_Share):
    """Target: this share of the dense model's parameters is kept.

    Parameters are the elements of all leaves that are numbers with a fraction. Where the tree has a
    part ``params``, as a :class:`tsjax.forecaster.Forecaster` and the collections of Flax, only
    those in it count.

    Attributes:
      share: in (0, 1].
    """

    def measurer(self, groups: Groups, params: PyTree) -> Measurer:
        """Counts the parameters."""
        numbers = [
            path
            for path, leaf in trees.by_path(params).items()
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        counted = [path for path in numbers if trees.in_params(path)] or numbers

        def count(sizes: Mapping[str, int]) -> int:
            shapes = groups.shapes(sizes)
            return sum(math.prod(shapes[path]) for path in counted)

        return count


@dataclass(frozen=True)
class Flops(_Share):
    """Target: this share of the dense function's floating-point operations is kept.

    They are counted as ``tsjax.costs.count`` does, on the inputs that the groups were found with.

    Attributes:
      share: in (0, 1].
    """

    def measurer(self, groups: Groups, params: PyTree) -> Measurer:
        """Counts the operations."""
        del params
        return groups.flops


@dataclass(frozen=True)
class Latency(_Share):
    """Target: this share of the dense function's time is kept, as measured.

    Every size that is tried is measured, some fifteen of them, so the function is compiled as
    often. Times are not exact, nor do they always fall when a unit is cut: what is got may miss the
    target by more than one step.

    Attributes:
      share: in (0, 1].
      measure: ``measure(params)``, the time of the function for such a tree of
        ``jax.ShapeDtypeStruct``, in any unit; see docs/structure.md for one.
    """

    measure: Callable[[PyTree], float]

    def measurer(self, groups: Groups, params: PyTree) -> Measurer:
        """Measures the time."""
        del params
        return lambda sizes: self.measure(groups.resized(sizes))
