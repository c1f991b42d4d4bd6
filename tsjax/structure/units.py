"""Which units of the dims that can be cut have to stay, as far as is known by now."""

from collections.abc import Iterable, Sequence

import numpy as np

from tsjax.structure.axes import Axis, Dim, places
from tsjax.structure.equations import Axes

Filled = np.ndarray
"""Where an array may be other than zero: bools, with all places of each axis that can be cut. An
axis that cannot be cut may have one place, which is True if any of its own is."""


def expanded(filled: Filled, axis: int, size: int) -> Filled:
    """With all places of an axis."""
    return np.broadcast_to(filled, (*filled.shape[:axis], size, *filled.shape[axis + 1 :]))


def any_along(filled: Filled, along: Iterable[int], *, keep: bool = False) -> Filled:
    """True where any place along these axes is; with ``keep`` they are left, with one place."""
    return np.asarray(filled.any(axis=tuple(along), keepdims=keep))


class Units:
    """The units that stay of some dims: none at first, and then ever more.

    Attributes:
      stay: {dim: bools, one for each of its units}.
    """

    def __init__(self, dims: Iterable[Dim]) -> None:
        self.stay = {dim: np.zeros(dim.size, bool) for dim in dims}
        self._places: dict[int, tuple[Axis, list[tuple[Dim, np.ndarray]]]] = {}

    def _at(self, axis: Axis) -> list[tuple[Dim, np.ndarray]]:
        """The dims of an axis that can be cut, each with its unit at every place."""
        if id(axis) not in self._places:
            found = [(dim, at) for dim, at in places(axis) if dim in self.stay]
            self._places[id(axis)] = axis, found
        return self._places[id(axis)][1]

    def staying(self, axis: Axis) -> np.ndarray:
        """The places of an axis of which all units stay; one for an axis that cannot be cut."""
        found = np.ones(1, bool)
        for dim, units in self._at(axis):
            found = found & np.append(self.stay[dim], True)[units]
        return found

    def hold(self, axis: Axis, where: np.ndarray) -> bool:
        """Keeps all units at these places of an axis; returns whether one did not stay before."""
        new = False
        for dim, units in self._at(axis):
            wanted = units[where & (units >= 0)]
            new |= not self.stay[dim][wanted].all()
            self.stay[dim][wanted] = True
        return new

    def hold_whole(self, some: Iterable[Axis]) -> bool:
        """Keeps all units of these axes; returns whether one did not stay before."""
        new = False
        for axis in some:
            new |= self.hold(axis, np.ones(axis.size, bool))
        return new

    def reach(self, filled: Filled, found: Axes, over: Sequence[int]) -> np.ndarray:
        """Where along some axes an array has anything at places of the others that stay.

        Args:
          filled: where the array may be other than zero.
          found: its axes.
          over: the numbers of the axes in question.

        Returns:
          Bools, with the axes ``over`` in their order.
        """
        others = [at for at in range(len(found)) if at not in over]
        for at in others:
            staying = self.staying(found[at])
            filled = filled & np.expand_dims(staying, [i for i in range(len(found)) if i != at])
        return any_along(filled.transpose(*others, *over), range(len(others)))

    def hold_each(self, found: Axes, over: Sequence[int], wanted: np.ndarray) -> bool:
        """Keeps the units of some axes where bools with these axes say so.

        Args:
          found: the axes of an array.
          over: the numbers of the axes in question.
          wanted: bools, with the axes ``over`` in their order.

        Returns:
          Whether one did not stay before.
        """
        new = False
        for i, at in enumerate(over):
            others = [j for j in range(len(over)) if j != i]
            new |= self.hold(found[at], any_along(wanted, others))
        return new
