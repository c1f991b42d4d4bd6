"""Dependency groups: which axes of which leaves must be cut together, for any JAX function."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from tsjax import trees
from tsjax.jaxprs import shape_of
from tsjax.structure import axes
from tsjax.structure.axes import Dim, places
from tsjax.structure.equations import Axes, Followed, Reason, reason_of
from tsjax.structure.flops import FlopCount, count_flops
from tsjax.structure.following import all_equations, dims_read, follow, subscripts
from tsjax.structure.layout import Layout
from tsjax.structure.verification import Attempt, settle, trial, uncollected
from tsjax.trees import PyTree
from tsjax.wording import near

FIXED = (
    "inputs stay as they are; what must be cut along with params belongs into the first argument"
)
"""What is said of an axis that an input's axis freezes."""


class Member(NamedTuple):
    """An axis of a leaf that a group lies on.

    Attributes:
      path: of the leaf.
      axis: which of its axes.
      units: the group's unit at each place of the axis, [length], -1 where there is none. An axis
        of heads and their widths has the units ``0 0 0 1 1 1`` of one group and ``0 1 2 0 1 2`` of
        another.
    """

    path: str
    axis: int
    units: np.ndarray

    def __str__(self) -> str:
        return f"{self.path}:{self.axis}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Member) or self[:2] != other[:2]:
            return False
        return np.array_equal(self.units, other.units)

    def __hash__(self) -> int:
        return hash(self[:2])


@dataclass(frozen=True)
class Group:
    """Axes that are cut together.

    Attributes:
      name: that of a member, ``path:axis``, if possible of the kernel that makes these units; with
        ``#2`` and so on where an axis has several groups.
      size: number of units.
      members: where they are.
      weights: number of elements that belong to any of its units; those of bool leaves, which are
        masks, do not count.
      frozen: why it cannot be cut, None where it can.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    weights: int
    frozen: Reason | None


class Groups(Sequence[Group]):
    """The groups of a function, in the order of the leaves; made by :func:`find_groups`.

    They can be asked for by position and by name; ``str`` gives a table.
    """

    def __init__(
        self,
        found: Iterable[tuple[Group, Dim]],
        layout: Layout,
        trace: Callable[[Mapping[Dim, int]], core.ClosedJaxpr],
        attempt: Attempt | None = None,
    ) -> None:
        pairs = list(found)
        self._groups = tuple(group for group, _ in pairs)
        self._by_name = {group.name: group for group in self._groups}
        self._dims = {group.name: dim for group, dim in pairs}
        self._layout = layout
        self._trace, self._attempt = trace, attempt

    @overload
    def __getitem__(self, key: int | str) -> Group: ...

    @overload
    def __getitem__(self, key: slice) -> Sequence[Group]: ...

    def __getitem__(self, key: int | str | slice) -> Group | Sequence[Group]:
        if not isinstance(key, str):
            return self._groups[key]
        if key not in self._by_name:
            raise KeyError(f"no group {key!r}{near(key, self._by_name)}")
        return self._by_name[key]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that can be cut."""
        return tuple(group for group in self._groups if group.frozen is None)

    def on(self, path: str, axis: int) -> tuple[Group, ...]:
        """The groups that lie on an axis of a leaf."""
        return tuple(
            group
            for group in self._groups
            if any((member.path, member.axis) == (path, axis) for member in group.members)
        )

    @property
    def structure(self) -> Any:
        """The tree structure of params."""
        return jax.tree.structure(self._layout.params)

    def flops(self, sizes: Mapping[str, int]) -> int:
        """The operations of the function when these groups have other sizes.

        A function with products of three arrays or more is traced again: their order follows sizes.
        """
        if not self._reorders:
            return self._flops(self.dims(sizes))
        program = self._trace(self.dims(sizes))
        ins = [tuple(map(Dim, shape_of(var))) for var in program.jaxpr.invars]
        return count_flops(follow(program, ins))({})

    @functools.cached_property
    def _flops(self) -> FlopCount:
        return count_flops(self._layout.followed)

    @functools.cached_property
    def _reorders(self) -> bool:
        return any(subscripts(each.eqn) for each in all_equations(self._layout.followed))

    @property
    def followed(self) -> Followed:
        """The function's program, with the axes of all its arrays."""
        return self._layout.followed

    def dim(self, name: str) -> Dim:
        """The unknown of the analysis that a group is."""
        return self._dims[name]

    def dims(self, sizes: Mapping[str, int]) -> dict[Dim, int]:
        """Sizes of groups as sizes of dims."""
        return {self._dims[name]: size for name, size in sizes.items()}

    def shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the leaves, by path, when these groups have other sizes."""
        return self._layout.shapes(self.dims(sizes))

    def resized(self, sizes: Mapping[str, int]) -> PyTree:
        """The tree, of ``jax.ShapeDtypeStruct``, when these groups have other sizes."""
        return self._layout.resized(self.dims(sizes))

    def problem(self, sizes: Mapping[str, int]) -> Reason | None:
        """Why the function does not work with these sizes, None if it does.

        It is traced only where one unit is left of a group: larger sizes have been verified.
        """
        few = {d: n for d, n in self.dims(sizes).items() if n == 1 < d.size}
        return self._attempt(self.dims(sizes)) if few and self._attempt else None

    def __str__(self) -> str:
        rows = [("group", "size", "weights", "members", "frozen by")]
        for g in self._groups:
            others = f"{len(g.members)}"
            why = g.frozen.place if g.frozen and g.frozen.detail == FIXED else str(g.frozen or "")
            rows.append((g.name, f"{g.size}", f"{g.weights:,}", others, why))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{name:<{widths[0]}}  {size:>{widths[1]}}  {weights:>{widths[2]}}  "
            f"{members:>{widths[3]}}  {why}".rstrip()
            for name, size, weights, members, why in rows
        )


@uncollected()
def find_groups(
    fn: Callable[..., Any], params: PyTree, *inputs: Any, verify: bool = True
) -> Groups:
    """Finds which axes of params must be cut together for ``fn`` to go on working.

    ``fn(params, *inputs)`` is traced, nothing runs. Each axis of each leaf starts as an unknown of
    its own, and every equation of the program says which are the same, which consist of others,
    and which must stay as they are: axes of inputs and outputs, axes of constants that differ from
    place to place, axes that are used by position, all that a primitive without a rule touches
    (:func:`tsjax.structure.rule`), and what nothing reads, as rows of a positional table that these
    inputs are too short for.

    What looks free may still be fixed by the code, as in ``reshape(b, 4, -1)``. So ``fn`` is traced
    again with smaller leaves, each group one unit smaller and about half as large. A group is
    free only if that gives the same program, equation for equation, with the shapes that follow.
    ``fn`` must take its sizes from params for that: for linen modules build the module within
    ``fn``. The five models do, with a forecaster in place of params::

        groups = structure.find_groups(models.forecast, forecaster, *inputs)

    Args:
      fn: function of arrays, jitted or not, with any outputs.
      params: tree of arrays or ``jax.ShapeDtypeStruct``: weights, and whatever else must be cut
        along with them, as running statistics, positional tables, indices, masks. A
        :class:`tsjax.forecaster.Forecaster` is such a tree.
      *inputs: trees of arrays or ``jax.ShapeDtypeStruct``. Their axes are fixed.
      verify: whether to trace again. Without it, sizes that the code fixes are cut, too.

    Returns:
      The groups, frozen ones too. An axis of one place has none.

    Raises:
      ValueError: if a leaf of params is no array.
    """
    trees.check_arrays(params)
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    program = jax.make_jaxpr(fn)(structs, *inputs)
    leaves: dict[str, Axes] = {
        path: tuple(axes.ONE if n == 1 else Dim(n) for n in leaf.shape)
        for path, leaf in trees.by_path(structs).items()
    }
    others: list[Axes] = [
        tuple(
            Dim(size, Reason("input", i, at, detail=FIXED)) for at, size in enumerate(shape_of(var))
        )
        for i, var in enumerate(program.jaxpr.invars[len(leaves) :])
    ]
    layout = Layout(structs, leaves, follow(program, [*leaves.values(), *others]))
    for i, found in enumerate(layout.followed.outs):
        for at, axis in enumerate(found):
            axes.freeze(axis, Reason("output", i, at))
    read = dims_read(layout.followed)
    for dim in layout.dims():
        if dim.frozen is None and dim not in read:
            dim.frozen = Reason("unread", detail="what would be cut is read by no equation")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x, inputs
    )

    def trace(sizes: Mapping[Dim, int]) -> core.ClosedJaxpr:
        return jax.make_jaxpr(fn)(layout.resized(sizes), *shapes)

    attempt = functools.partial(trial, trace, layout.followed)
    if verify:
        settle(layout, attempt)
    known: dict[Any, Dim] = {}
    for path, leaf in leaves.items():
        leaves[path] = tuple(axes.merged(axis, known) for axis in leaf)
    return Groups(_groups(layout), layout, trace, attempt if verify else None)


def _groups(layout: Layout) -> Iterator[tuple[Group, Dim]]:
    members: dict[Dim, list[Member]] = {dim: [] for dim in layout.dims()}
    alone: dict[Dim, list[Member]] = {dim: [] for dim in members}
    for path, leaf in layout.leaves.items():
        for at, axis in enumerate(leaf):
            found = [(dim, Member(path, at, u)) for dim, u in places(axis) if dim.size > 1]
            for dim, member in found:
                members[dim].append(member)
                if len(found) == 1:
                    alone[dim].append(member)
    names: set[str] = set()
    for dim, each in members.items():
        name = first = str(max(alone[dim] or each, key=functools.partial(_telling, layout)))
        count = 1
        while name in names:
            count += 1
            name = f"{first}#{count}"
        names.add(name)
        weights = _weights(layout, each)
        yield Group(name, dim.size, tuple(each), weights, reason_of(dim.frozen)), dim


def _telling(layout: Layout, member: Member) -> tuple[bool, bool, int]:
    """Orders the members of a group by how much their name says; the group is named by the largest.

    That is the last axis of a kernel, which is what a layer makes, rather than that of a bias or
    the first axis of the layer that reads it.
    """
    ndim = len(layout.leaves[member.path])
    return trees.in_params(member.path), member.axis == ndim - 1 and ndim > 1, ndim


def _weights(layout: Layout, members: Sequence[Member]) -> int:
    """Counts the elements that belong to a unit; one that lies on two of the axes counts once."""
    dtypes = {path: leaf.dtype for path, leaf in trees.by_path(layout.params).items()}
    free: dict[str, list[int]] = {}
    for member in members:
        if jnp.issubdtype(dtypes[member.path], bool):
            continue
        shape = [axis.size for axis in layout.leaves[member.path]]
        rest = free.setdefault(member.path, shape)
        rest[member.axis] = min(rest[member.axis], int((member.units < 0).sum()))
    return sum(
        math.prod(axis.size for axis in layout.leaves[path]) - math.prod(rest)
        for path, rest in free.items()
    )
