"""Dependency groups: which axes of which leaves must be cut together, for any JAX function."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import jax
import numpy as np

from tsjax import trees
from tsjax.structure import axes
from tsjax.structure.axes import Axis, Dim, Product, Sum
from tsjax.structure.equations import Axes, Reason, line_of, reason_of
from tsjax.structure.flops import Flops, flops_of
from tsjax.structure.programs import DiffersError, Program, check, follow
from tsjax.wording import near
from tsjax.work import shape_of

PyTree = Any


@dataclass(frozen=True)
class Member:
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
    units: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.axis}"


@dataclass(frozen=True)
class Group:
    """Axes that are cut together.

    Attributes:
      name: of its first member, ``path:axis``, with ``#2`` and so on where an axis has several.
      size: number of units.
      members: where they are.
      weights: number of elements that belong to one of its units.
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

    def __init__(self, found: Iterable[tuple[Group, Dim]], layout: "Layout") -> None:
        pairs = list(found)
        self._groups = tuple(group for group, _ in pairs)
        self._by_name = {group.name: group for group in self._groups}
        self._dims = {group.name: dim for group, dim in pairs}
        self._layout = layout

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

    @functools.cached_property
    def flops(self) -> Flops:
        """The operations of the function, given sizes of dims."""
        return flops_of(self._layout.program)

    def dims(self, sizes: Mapping[str, int]) -> dict[Dim, int]:
        """Sizes of groups as sizes of dims."""
        return {self._dims[name]: size for name, size in sizes.items()}

    def shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the leaves, by path, when these groups have other sizes."""
        return self._layout.shapes(self.dims(sizes))

    def __str__(self) -> str:
        rows = [("group", "size", "weights", "members", "frozen by")]
        for g in self._groups:
            others = f"{len(g.members)}"
            rows.append((g.name, f"{g.size}", f"{g.weights:,}", others, str(g.frozen or "")))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{name:<{widths[0]}}  {size:>{widths[1]}}  {weights:>{widths[2]}}  "
            f"{members:>{widths[3]}}  {why}".rstrip()
            for name, size, weights, members, why in rows
        )


def explain(groups: Groups) -> None:
    """Prints a table of the groups: name, size, weights, members, and what freezes them."""
    print(groups)


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


def find_groups(
    fn: Callable[..., Any], params: PyTree, *inputs: Any, verify: bool = True
) -> Groups:
    """Finds which axes of params must be cut together for ``fn`` to go on working.

    ``fn(params, *inputs)`` is traced, nothing runs. Each axis of each leaf starts as an unknown of
    its own, and every equation of the program says which are the same, which consist of others,
    and which must stay as they are: axes of inputs and outputs, axes of constants that differ from
    place to place, axes that are used by position, and all that a primitive without a rule touches
    (:func:`tsjax.structure.rule`).

    What looks free may still be fixed by the code, as in ``reshape(b, 4, -1)``. So ``fn`` is traced
    again with smaller leaves, each group one unit smaller and about half as large. A group is
    free only if that gives the same program, equation for equation, with the shapes that follow.
    ``fn`` must take its sizes from params for that: for linen modules build the module within
    ``fn``, or use :func:`tsjax.models.sized_forward`.

    Args:
      fn: function of arrays, jitted or not, with any outputs.
      params: tree of arrays or ``jax.ShapeDtypeStruct``: weights, and whatever else must be cut
        along with them, as running statistics, positional tables, indices.
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
        tuple(Dim(size, Reason("input", i, at)) for at, size in enumerate(shape_of(var)))
        for i, var in enumerate(program.jaxpr.invars[len(leaves) :])
    ]
    layout = Layout(structs, leaves, follow(program, [*leaves.values(), *others]))
    for i, found in enumerate(layout.program.outs):
        for at, axis in enumerate(found):
            axes.freeze(axis, Reason("output", i, at))
    if verify:
        _settle(layout, functools.partial(_trial, fn, inputs, layout))
    known: dict[tuple[Dim, ...], Dim] = {}
    for path, leaf in leaves.items():
        leaves[path] = tuple(axes.merged(axis, known) for axis in leaf)
    return Groups(_groups(layout), layout)


def _dims(layout: Layout) -> list[Dim]:
    """The dims of all leaves, each once, in their order."""
    found = (axes.dims(axis) for leaf in layout.leaves.values() for axis in leaf)
    return list(dict.fromkeys(dim for each in found for dim in each if dim.size > 1))


def _groups(layout: Layout) -> Iterator[tuple[Group, Dim]]:
    members: dict[Dim, list[Member]] = {dim: [] for dim in _dims(layout)}
    weights = dict.fromkeys(members, 0)
    sole: dict[Dim, str] = {}
    for path, leaf in layout.leaves.items():
        size = np.prod([axis.size for axis in leaf], dtype=int)
        for at, axis in enumerate(leaf):
            places = _places(axis)
            for dim, units in places:
                if dim.size > 1:
                    members[dim].append(Member(path, at, units))
                    weights[dim] += int((units >= 0).sum() * size // axis.size)
            if len(places) == 1:
                sole.setdefault(places[0][0], str(members[places[0][0]][-1]) if places else "")
    names: set[str] = set()
    for dim, found in members.items():
        name = first = sole.get(dim) or str(found[0])
        count = 1
        while name in names:
            count += 1
            name = f"{first}#{count}"
        names.add(name)
        yield Group(name, dim.size, tuple(found), weights[dim], reason_of(dim.frozen)), dim


def _places(axis: Axis) -> list[tuple[Dim, np.ndarray]]:
    """The dims of an axis, each with its unit at every place, -1 where there is none."""
    axis = axes.resolve(axis)
    if isinstance(axis, Dim):
        return [(axis, np.arange(axis.size))]
    found: list[tuple[Dim, np.ndarray]] = []
    at = 0 if not isinstance(axis, Product) else 1
    for inner in axis.factors if isinstance(axis, Product) else axis.parts:
        for dim, units in _places(inner):
            if isinstance(axis, Product):
                last = axis.size // (at * inner.size)
                found.append((dim, np.tile(np.repeat(units, last), at)))
                continue
            places = np.full(axis.size, -1)
            places[at : at + inner.size] = units
            for i, (other, taken) in enumerate(found):
                if other is dim and not np.any((taken >= 0) & (places >= 0)):
                    found[i] = dim, np.maximum(taken, places)
                    break
            else:
                found.append((dim, places))
        at = at * inner.size if isinstance(axis, Product) else at + inner.size
    return found


# Verification.


def _trial(
    fn: Callable[..., Any], inputs: Sequence[Any], layout: Layout, sizes: Mapping[Dim, int]
) -> Reason | None:
    """Why the function does not work with other sizes, None if it does."""
    try:
        program = jax.make_jaxpr(fn)(layout.resized(sizes), *inputs)
        check(layout.program, program, sizes)
    except DiffersError as differs:
        return differs.reason
    # What a function may raise for a shape that it does not expect is anything.
    except Exception as error:
        frames, traceback = [], error.__traceback__
        while traceback:
            code = traceback.tb_frame.f_code
            frames.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
            traceback = traceback.tb_next
        message = str(error).strip().split("\n")[0]
        line = line_of([f for f in frames[::-1] if f[0] != __file__])
        return Reason("size", line=line, detail=f"{type(error).__name__}: {message}")
    return None


def _settle(layout: Layout, trial: Callable[[Mapping[Dim, int]], Reason | None]) -> None:
    """Finds the dims that cannot have another size: ties them to one another, or freezes them.

    All are tried at once, since most functions take every size from their params, and by halves
    only where that fails.
    """
    failing: dict[Dim, Reason] = {}

    def fails(*classes: Sequence[Dim]) -> Reason | None:
        """Why these cannot be cut at once, the dims of one class always alike."""
        for sizes in _sizings([dims[0] for dims in classes]):
            every = {dim: sizes[dims[0]] for dims in classes for dim in dims}
            if reason := trial(every):
                return reason
        return None

    def search(some: Sequence[Dim]) -> None:
        if not some or not (reason := fails(*([dim] for dim in some))):
            return
        if len(some) == 1:
            failing[some[0]] = reason
            return
        search(some[: len(some) // 2])
        search(some[len(some) // 2 :])

    free = [dim for dim in _dims(layout) if dim.frozen is None]
    search(free)
    for dims in _candidates(layout, failing):
        together = [dim for dim in dict.fromkeys(dims) if dim in failing]
        if len(together) > 1 and not fails(together):
            for dim in together:
                axes.unify(together[0], dim, None)
            for dim in dims:
                failing.pop(dim, None)
    for dim, why in failing.items():
        dim.frozen = why
    rest = [dim for dim in _dims(layout) if dim.frozen is None]
    if rest == free or not fails(*([dim] for dim in rest)):
        return
    # Each by itself can be cut, but not all of them together.
    good: list[Dim] = []
    for dim in rest:
        if reason := fails(*([other] for other in [*good, dim])):
            dim.frozen = reason
        else:
            good.append(dim)


_NEIGHBOURS = 4


def _candidates(layout: Layout, failing: Mapping[Dim, Reason]) -> Iterator[list[Dim]]:
    """Dims of one size that the code might tie: parts of one axis first, then neighbours.

    What has been tied by the time that it comes up is no longer failing.
    """
    for leaf in layout.leaves.values():
        for axis in leaf:
            parts = axes.resolve(axis)
            if isinstance(parts, Sum):
                inner = [list(axes.dims(part)) for part in parts.parts if part.size > 1]
                for dims in zip(*inner, strict=False):
                    if len({dim.size for dim in dims}) == 1:
                        yield list(dims)
    order = list(failing)
    for i, dim in enumerate(order):
        alike = [other for other in order[i + 1 :] if other.size == dim.size]
        for other in alike[:_NEIGHBOURS]:
            yield [dim, other]


def _sizings(dims: Sequence[Dim]) -> Iterator[dict[Dim, int]]:
    """Sizes to try: one unit less; about half, no two dims of one size alike if it can be helped.

    Dims that the code, not the dataflow, ties to one another are told apart by the latter.
    """
    yield {dim: dim.size - 1 for dim in dims}
    counts: dict[int, int] = {}
    ranks = []
    for dim in dims:
        ranks.append(counts.get(dim.size, 0))
        counts[dim.size] = ranks[-1] + 1
    yield {dim: _near_half(dim.size, rank) for dim, rank in zip(dims, ranks, strict=True)}
    if any(count > len(_choices(size)) for size, count in counts.items()):
        yield {
            dim: _near_half(dim.size, rank // len(_choices(dim.size)))
            for dim, rank in zip(dims, ranks, strict=True)
        }


def _near_half(size: int, rank: int) -> int:
    choices = _choices(size)
    return choices[rank % len(choices)]


@functools.cache
def _choices(size: int) -> list[int]:
    least = min(2, size - 1)
    return sorted(range(least, size), key=lambda n: (abs(n - size / 2), n))
