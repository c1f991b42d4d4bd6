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
from tsjax.structure.axes import Axis, Dim
from tsjax.structure.comparing import DiffersError, check
from tsjax.structure.equations import Axes
from tsjax.structure.groups import Groups, find_groups
from tsjax.structure.layout import places
from tsjax.structure.options import check_shapes
from tsjax.structure.planning import Plan, plan
from tsjax.structure.programs import Program, Step
from tsjax.structure.slicing import computed
from tsjax.structure.slicing import slice as slice_
from tsjax.structure.zero_rules import Filled, convolved, merged
from tsjax.structure.zeros import Zeros
from tsjax.wording import listing

PyTree = Any
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
            check(groups.program, other, groups.dims(sizes))
        except Exception:
            return False
        return _same_numbers(groups.program, other)

    keep = _settled(_Units(groups, masked), same)
    found = plan(groups, params, keep=keep)
    return slice_(masked, found), found


def _masked(params: PyTree, mask: PyTree) -> PyTree:
    trees.check_same_structure(mask, params, name="mask", like_name="params")
    if other := [f"{p} ({m.dtype})" for p, m in trees.by_path(mask).items() if m.dtype != bool]:
        raise ValueError(f"a mask's leaves must be bool: {', '.join(other)}")
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
        check(groups.program, traced, {})
    except (DiffersError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    if not _same_numbers(groups.program, traced):
        raise ValueError(f"{what}, which has other numbers in it")


def _settled(units: "_Units", same: _Same) -> dict[str, np.ndarray]:
    """The units that stay of each group that gets smaller."""
    least = dict.fromkeys(units.names, 1)
    while True:
        units.spread()
        units.fill_up(least)
        keep = units.kept()
        sizes = {name: len(at) for name, at in keep.items()}
        wrong = _wrong(same, sizes)
        if not wrong:
            return keep
        for name in wrong:
            # Of one unit an axis is broadcast, where programs differ.
            least[name] = 2 if sizes[name] < 2 else units.names[name].size


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


# Which units stay.


class _Units:
    """The units that must stay, so far.

    Attributes:
      names: {name of a group that can be cut: its dim}.
    """

    def __init__(self, groups: Groups, masked: PyTree) -> None:
        self.names = {group.name: groups.dim(group.name) for group in groups.free}
        self._groups, self._masked = groups, masked
        self._stay = {dim: np.zeros(dim.size, bool) for dim in self.names.values()}
        self._places: dict[int, tuple[Axis, list[tuple[Dim, np.ndarray]]]] = {}
        zeros = Zeros(groups.program, jax.tree.leaves(masked), self._stay)
        for step in zeros.opaque:
            for found in (*step.ins, *step.outs):
                self._hold_whole(found)
        self._sites: list[tuple[_Consumer, Step, list[Filled]]] = []
        for step, filled in zeros.sites:
            name = step.eqn.primitive.name
            if name in _DRAWN:
                for found in step.outs:
                    self._hold_whole(found[0 if name in _DRAWN_WHOLE else len(step.ins[0]) :])
            elif name in _CONSUMERS:
                self._sites.append((_CONSUMERS[name], step, filled))

    def _at(self, axis: Axis) -> list[tuple[Dim, np.ndarray]]:
        """The dims of an axis that can be cut, each with its unit at every place."""
        if id(axis) not in self._places:
            found = [(dim, at) for dim, at in places(axis) if dim in self._stay]
            self._places[id(axis)] = axis, found
        return self._places[id(axis)][1]

    def staying(self, axis: Axis) -> np.ndarray:
        """The places of an axis of which all units stay; one for an axis that cannot be cut."""
        found = np.ones(1, bool)
        for dim, units in self._at(axis):
            found = found & np.append(self._stay[dim], True)[units]
        return found

    def hold(self, axis: Axis, where: np.ndarray) -> bool:
        """Keeps all units at these places of an axis; whether that is news."""
        news = False
        for dim, units in self._at(axis):
            wanted = units[where & (units >= 0)]
            news |= not self._stay[dim][wanted].all()
            self._stay[dim][wanted] = True
        return news

    def _hold_whole(self, found: Axes) -> None:
        for axis in found:
            self.hold(axis, np.ones(axis.size, bool))

    def spread(self) -> None:
        """Keeps what those units need that stay."""
        news = True
        while news:
            news = False
            for consumer, step, filled in reversed(self._sites):
                news |= consumer(self, step, filled)

    def fill_up(self, least: Mapping[str, int]) -> None:
        """Keeps so many units of each group, those with the fewest weights first."""
        for name in reversed(self.names):
            stay, weights = self._stay[self.names[name]], self._weights(name)
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
        found = {name: np.flatnonzero(self._stay[dim]) for name, dim in self.names.items()}
        return {name: at for name, at in found.items() if len(at) < self.names[name].size}

    def reach(self, filled: Filled, found: Axes, over: Sequence[int]) -> np.ndarray:
        """Where along some axes an array has anything at places of the others that stay.

        Returns:
          Bools, with the axes ``over`` in their order.
        """
        others = [at for at in range(len(found)) if at not in over]
        for at in others:
            staying = self.staying(found[at])
            filled = filled & np.expand_dims(staying, [i for i in range(len(found)) if i != at])
        return merged(filled.transpose(*others, *over), range(len(others)))

    def hold_each(self, found: Axes, over: Sequence[int], wanted: np.ndarray) -> bool:
        """Keeps the units of some axes wherever these bools, with the same axes, say so."""
        news = False
        for i, at in enumerate(over):
            others = [j for j in range(len(over)) if j != i]
            news |= self.hold(found[at], merged(wanted, others))
        return news


_Consumer = Callable[[_Units, Step, list[Filled]], bool]
"""Keeps what an equation needs along the axes that its result has not; whether that is news."""


def _dot_general(units: _Units, step: Step, filled: list[Filled]) -> bool:
    """What both operands have at places of their other axes that stay."""
    contracted, batch = step.eqn.params["dimension_numbers"]
    both = [
        units.reach(filled[i], step.ins[i], (*batch[i], *contracted[i])) for i in range(len(batch))
    ]
    wanted = both[0] & both[1]
    for i, at in enumerate(batch[0]):
        others = [j for j in range(wanted.ndim) if j != i]
        wanted = wanted & np.expand_dims(units.staying(step.ins[0][at]), others)
    wanted = merged(wanted, range(len(batch[0])))
    pairs = zip(step.ins, contracted, strict=True)
    return any(units.hold_each(found, over, wanted) for found, over in pairs)


def _conv(units: _Units, step: Step, filled: list[Filled]) -> bool:
    """As for a product, within each group of features."""
    lhs, rhs, _ = step.eqn.params["dimension_numbers"]
    left, right = convolved(step, filled)
    batch, features = step.ins[0][lhs[0]], step.ins[0][lhs[1]]
    inner, outer = step.ins[1][rhs[1]], step.ins[1][rhs[0]]
    ours = (left & units.staying(batch)[:, None, None]).any(0)
    staying = np.broadcast_to(units.staying(outer), outer.size)
    wanted = ours & (right & staying.reshape(len(right), -1, 1)).any(1)  # [G, I]
    return units.hold(features, wanted.ravel()) | units.hold(inner, wanted.any(0))


def _sum(units: _Units, step: Step, filled: list[Filled]) -> bool:
    """What is other than zero at places of the other axes that stay."""
    over = step.eqn.params["axes"]
    return units.hold_each(step.ins[0], over, units.reach(filled[0], step.ins[0], over))


def _all_of_it(units: _Units, step: Step, filled: list[Filled]) -> bool:
    """Every place, zero or not."""
    return _sum(units, step, [np.ones_like(filled[0])])


def _scatter(units: _Units, step: Step, filled: list[Filled]) -> bool:
    """Updates at indices that are no batch: those that add something, or each that replaces."""
    numbers, found = step.eqn.params["dimension_numbers"], step.ins[2]
    outer = [at for at in range(len(found)) if at not in numbers.update_window_dims]
    over = [at for i, at in enumerate(outer) if i not in numbers.scatter_indices_batching_dims]
    adds = step.eqn.primitive.name in ("scatter-add", "scatter-sub")
    updates = filled[2] if adds else np.ones_like(filled[2])
    return units.hold_each(found, over, units.reach(updates, found, over))


_CONSUMERS: dict[str, _Consumer] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    **dict.fromkeys(("reduce_sum", "reduce_or", "reduce_xor"), _sum),
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_prod", "reduce_and"), _all_of_it),
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"),
        _scatter,
    ),
}

# What is drawn depends on how many numbers are, along axes that the key has not.
_DRAWN_WHOLE = ("rng_uniform", "rng_bit_generator")
_DRAWN = ("random_bits", "random_split", *_DRAWN_WHOLE)


# Whether numbers are the same.


def _same_numbers(program: Program, other: core.ClosedJaxpr) -> bool:
    """Whether two programs that agree in all else have the same literals and constants."""
    consts = [value for value, _ in program.consts]
    pairs = zip_longest(_numbers(program.jaxpr, consts), _numbers(other.jaxpr, other.consts))
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
