"""Removes the units that a mask has killed, and leaves what the function computes as it is.

A unit stays if it reaches one that stays. Outputs stay; and wherever the program sums over an axis,
as a matrix product does, each unit of it stays that adds something, for all that is known
(:mod:`tsjax.structure.zeros`), to a place of the result of which all units stay. Where it does
anything else with an axis, each of its units stays. Removing the others leaves all places of all
arrays that are not removed with them as they were, by induction over the equations: most equations
make a place of their result of the same place of their operands, and the sums lose terms that are
zero. That takes one more thing: that the program is the same at the smaller sizes, its numbers
included. So the function is traced at them, and a group whose size is in a number, as the width of
a LayerNorm is in a divisor, stays whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from tsjax import trees
from tsjax.jaxprs import closed
from tsjax.structure.comparing import DiffersError, check
from tsjax.structure.equations import Equation, Followed
from tsjax.structure.groups import Groups, find_groups
from tsjax.structure.options import check_shapes
from tsjax.structure.planning import Plan, plan
from tsjax.structure.primitives import PRIMITIVES
from tsjax.structure.primitives.record import Reads
from tsjax.structure.slicing import computed
from tsjax.structure.slicing import slice as slice_
from tsjax.structure.units import Filled, Units
from tsjax.structure.zeros import Zeros
from tsjax.trees import PyTree
from tsjax.wording import listing

_Same = Callable[[Mapping[str, int]], bool]
"""Whether a function traced with these sizes of groups is the same program, numbers included."""


def compact(
    fn: Callable[..., Any],
    params: PyTree,
    mask: PyTree,
    *inputs: Any,
    groups: Groups | None = None,
) -> tuple[PyTree, Plan]:
    """Removes the units that a mask has killed: smaller leaves that give the same outputs.

    A unit goes if the program shows that it adds nothing to any output: nothing that counts reads
    it, as where the mask has cut all its outgoing weights; or it is always zero where it is summed
    up, as where the mask has cut its bias and all its incoming weights, and the activation keeps
    zeros. Units that only such units read go as well. What the weights' other values are does not
    matter, nor what the inputs are.

    The outputs are those of ``fn(where(mask, params, 0), *inputs)`` up to rounding, since sums are
    taken in another order, as long as nothing that is zero by the mask is multiplied by an infinity
    or a NaN, or divided by zero: a product with zero is taken to be zero. Infinities that go into
    a softmax do no harm.

    Never removed are units whose number is in the program, as in the divisor of a mean or in a
    random draw's shape; those that it does something else with than to sum over them, as to take
    a maximum; and the last one of a group, or the last two where the program for one unit would be
    another.

    Args:
      fn: function of arrays, as :func:`find_groups` takes it.
      params: tree of arrays; all that ``fn`` reads of a mask is in their values.
      mask: tree of bool arrays with the structure and shapes of ``params``, True for what is kept.
      *inputs: trees of arrays or ``jax.ShapeDtypeStruct``.
      groups: those that :func:`find_groups` has found of ``fn``, ``params`` and ``inputs``, where
        they are there already.

    Returns:
      The sliced leaves, pruned weights being zero, and the plan that they were sliced by: an
      ordinary one, with which :func:`slice` cuts the mask and an optimiser's state.

    Raises:
      ValueError: if mask and params differ, listing every leaf that does, if a mask is not bool, if
        params have no values, or if the groups are those of another function.
    """
    masked = _masked(params, mask)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x, inputs
    )
    given = groups is not None
    groups = find_groups(fn, params, *inputs) if groups is None else groups
    check_shapes(groups, params)
    if given:
        _check_program(groups, jax.make_jaxpr(fn)(groups.resized({}), *shapes))

    def same(sizes: Mapping[str, int]) -> bool:
        # What a function may raise for a shape that it does not expect is anything.
        try:
            other = jax.make_jaxpr(fn)(groups.resized(sizes), *shapes)
            check(groups.followed, other, groups.dims(sizes))
        except Exception:
            return False
        return _same_numbers(groups.followed, other)

    keep = _settled(_Needed(groups, masked), same)
    found = plan(groups, params, keep=keep)
    return slice_(masked, found), found


def _masked(params: PyTree, mask: PyTree) -> PyTree:
    trees.check_mask(mask, params)
    for name, tree in (("params", params), ("mask", mask)):
        shapes = (jax.ShapeDtypeStruct, jax.core.Tracer)
        if bare := [p for p, x in trees.by_path(tree).items() if isinstance(x, shapes)]:
            raise ValueError(
                f"zeros are looked for in values, {name} has none at {listing(bare, 5)}"
            )

    def zeroed(leaf: Any, keep: Any) -> Any:
        keep = np.asarray(keep)
        if keep.all():
            return leaf
        return computed(lambda a, xp: xp.where(keep, a, xp.zeros_like(a)), leaf)

    return jax.tree.map(zeroed, params, mask)


def _check_program(groups: Groups, traced: core.ClosedJaxpr) -> None:
    what = "the groups are those of another function"
    try:
        check(groups.followed, traced, {})
    except (DiffersError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    if not _same_numbers(groups.followed, traced):
        raise ValueError(f"{what}, which has other numbers in it")


def _settled(needed: "_Needed", same: _Same) -> dict[str, np.ndarray]:
    """The units that stay of each group that gets smaller."""
    least = dict.fromkeys(needed.names, 1)
    while True:
        needed.spread()
        needed.fill_up(least)
        keep = needed.kept()
        sizes = {name: len(at) for name, at in keep.items()}
        wrong = _wrong(same, sizes)
        if not wrong:
            return keep
        for name in wrong:
            # Of one unit an axis is broadcast, where programs differ.
            least[name] = 2 if sizes[name] < 2 else needed.names[name].size


def _wrong(same: _Same, sizes: Mapping[str, int]) -> list[str]:
    """Groups that cannot have these sizes where the others do; none if all can."""
    good: dict[str, int] = {}
    wrong: list[str] = []

    def add(some: list[str]) -> None:
        new = {name: sizes[name] for name in some}
        if not some or same({**good, **new}):
            good.update(new)
        elif len(some) == 1:
            wrong.extend(some)
        else:
            add(some[: len(some) // 2])
            add(some[len(some) // 2 :])

    add([*sizes])
    return wrong


class _Needed:
    """The units that are needed, so far.

    Attributes:
      names: {name of a group that can be cut: its dim}.
    """

    def __init__(self, groups: Groups, masked: PyTree) -> None:
        self.names = {group.name: groups.dim(group.name) for group in groups.free}
        self._groups, self._masked = groups, masked
        self._units = Units(self.names.values())
        zeros = Zeros(groups.followed, jax.tree.leaves(masked), self.names.values())
        for equation in zeros.opaque:
            for found in (*equation.ins, *equation.outs):
                self._units.hold_whole(found)
        self._sites: list[tuple[Reads, Equation, list[Filled]]] = []
        for equation, filled in zeros.sites:
            if reads := PRIMITIVES[equation.name].reads:
                self._sites.append((reads, equation, filled))
            else:
                self._units.hold_whole(equation.gone)

    def spread(self) -> None:
        """Keeps what those units need that stay."""
        new = True
        while new:
            new = False
            for reads, equation, filled in reversed(self._sites):
                new |= reads(self._units, equation, filled)

    def fill_up(self, least: Mapping[str, int]) -> None:
        """Keeps so many units of each group, those with the fewest weights first."""
        for name in reversed(self.names):
            stay, weights = self._units.stay[self.names[name]], self._weights(name)
            while stay.sum() < least[name]:
                if least[name] == stay.size:
                    stay[:] = True
                else:
                    stay[int(np.argmin(np.where(stay, np.inf, weights)))] = True
                self.spread()

    def _weights(self, name: str) -> np.ndarray:
        """How many weights the units of a group have left."""
        leaves, count = trees.by_path(self._masked), np.zeros(self.names[name].size)
        for path, axis, units in self._groups[name].members:
            if jnp.issubdtype(leaves[path].dtype, jnp.number):
                leaf = np.asarray(leaves[path]) != 0
                each = leaf.sum(tuple(at for at in range(leaf.ndim) if at != axis))
                np.add.at(count, units[units >= 0], each[units >= 0])
        return count

    def kept(self) -> dict[str, np.ndarray]:
        """The units that stay of each group that does not stay whole."""
        found = {name: np.flatnonzero(self._units.stay[dim]) for name, dim in self.names.items()}
        return {name: at for name, at in found.items() if len(at) < self.names[name].size}


# Whether numbers are the same.


def _same_numbers(followed: Followed, other: core.ClosedJaxpr) -> bool:
    """Whether two programs that agree in all else have the same literals and constants."""
    consts = [value for value, _ in followed.consts]
    pairs = zip_longest(_numbers(followed.jaxpr, consts), _numbers(other.jaxpr, other.consts))
    return all(_equal(*pair) for pair in pairs)


def _numbers(jaxpr: core.Jaxpr, consts: Sequence[Any]) -> Iterator[Any]:
    yield from consts
    for eqn in jaxpr.eqns:
        yield from (var.val for var in eqn.invars if isinstance(var, core.Literal))
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                    program = closed(inner)
                    yield from _numbers(program.jaxpr, program.consts)
    yield from (var.val for var in jaxpr.outvars if isinstance(var, core.Literal))


def _equal(value: Any, new: Any) -> bool:
    if value is new:
        return True
    if jnp.ndim(value) != jnp.ndim(new):
        return False
    if jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended):
        value, new = jax.random.key_data(value), jax.random.key_data(new)
    old, now = np.asarray(value), np.asarray(new)
    for at, size in enumerate(now.shape):
        if old.shape[at] != size:
            # It is the same all along this axis.
            old = old.take(np.zeros(size, int), at)
    return np.array_equal(old, now, equal_nan=old.dtype.kind in "fc")
