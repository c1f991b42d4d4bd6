"""Primitives that sum or otherwise reduce: products, convolutions, reductions."""

import math
from collections.abc import Sequence

import numpy as np

from tsjax.structure.equations import Axes, Equation
from tsjax.structure.primitives.record import (
    Fact,
    Primitive,
    anything,
    by_place,
    shared,
    unknown,
    without,
)
from tsjax.structure.units import Filled, Units, any_along, expanded


def _matmul(left: Filled, right: Filled) -> Filled:
    # Numpy multiplies bools one by one.
    return (left.astype(np.float32) @ right.astype(np.float32)) > 0


# Products.


def _dot_general(eqn: Equation) -> list[Axes]:
    """Contracted axes agree, batch axes agree, the others pass."""
    (contracted, batch), (left, right) = eqn.params["dimension_numbers"], eqn.ins
    for axes in (contracted, batch):
        for i, j in zip(*axes, strict=True):
            eqn.same(left[i], right[j])
    free = [without(ins, (*contracted[i], *batch[i])) for i, ins in enumerate((left, right))]
    return [(*(left[i] for i in batch[0]), *free[0], *free[1])]


@by_place
def _dot_general_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """A sum of products."""
    (left, right), ((lk, rk), (lb, rb)) = ins, eqn.params["dimension_numbers"]
    for i, j in zip((*lk, *lb), (*rk, *rb), strict=True):
        size = max(left.shape[i], right.shape[j])
        left, right = expanded(left, i, size), expanded(right, j, size)
    lf = [at for at in range(left.ndim) if at not in (*lk, *lb)]
    rf = [at for at in range(right.ndim) if at not in (*rk, *rb)]
    batch, depth = [left.shape[at] for at in lb], [left.shape[at] for at in lk]
    sizes = math.prod(batch), -1, math.prod(depth)
    rows = left.transpose(*lb, *lf, *lk).reshape(sizes)
    columns = right.transpose(*rb, *rf, *rk).reshape(sizes)
    shape = (*batch, *(left.shape[at] for at in lf), *(right.shape[at] for at in rf))
    return [_matmul(rows, columns.transpose(0, 2, 1)).reshape(shape)]


def _dot_general_reads(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """What both operands have at places of their other axes that stay."""
    contracted, batch = eqn.params["dimension_numbers"]
    both = [
        units.reach(filled[i], eqn.ins[i], (*batch[i], *contracted[i])) for i in range(len(batch))
    ]
    wanted = both[0] & both[1]
    for i, at in enumerate(batch[0]):
        others = [j for j in range(wanted.ndim) if j != i]
        wanted = wanted & np.expand_dims(units.staying(eqn.ins[0][at]), others)
    wanted = any_along(wanted, range(len(batch[0])))
    new = units.hold_each(eqn.ins[0], contracted[0], wanted)
    return units.hold_each(eqn.ins[1], contracted[1], wanted) or new


def _dot_general_contracts(eqn: Equation) -> list[tuple[int, int]]:
    (left, right), _ = eqn.params["dimension_numbers"]
    return [(0, at) for at in left] + [(1, at) for at in right]


def _ragged_dot_general(eqn: Equation) -> list[Axes]:
    """As a dot; groups and the axis that they divide are counted off."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, batch), (left, right) = numbers.dot_dimension_numbers, eqn.ins[:2]
    for axes in (contracted, batch):
        for i, j in zip(*axes, strict=True):
            eqn.same(left[i], right[j])
    for operand, axes in enumerate((numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions)):
        for axis in axes:
            eqn.freeze(operand, axis, "it is divided into groups by their sizes")
    for axis in range(len(eqn.ins[2])):
        eqn.freeze(2, axis, "sizes of groups")
    ours, theirs = (*contracted[0], *batch[0]), (*contracted[1], *batch[1])
    free = [*without(left, ours), *without(right, (*theirs, *numbers.rhs_group_dimensions))]
    found = [*(left[i] for i in batch[0]), *free]
    if len(found) != len(eqn.out_shapes[0]):
        return unknown(eqn)
    return [tuple(found)]


# Convolutions.


def _conv(eqn: Equation) -> list[Axes]:
    """Features are contracted within their group; places and taps are counted off."""
    (left, right), (shape,) = eqn.ins, eqn.out_shapes
    lhs_spec, rhs_spec, out_spec = eqn.params["dimension_numbers"]
    groups, batch_groups = eqn.params["feature_group_count"], eqn.params["batch_group_count"]
    if batch_groups > 1:
        return unknown(eqn)
    for operand, spec in enumerate((lhs_spec, rhs_spec)):
        for axis in spec[2:]:
            eqn.freeze(operand, axis, "a convolution runs along it")
    features, inner, outer = left[lhs_spec[1]], right[rhs_spec[1]], right[rhs_spec[0]]
    if groups == 1:
        eqn.same(features, inner)
    else:
        group = eqn.reshaped([features], [groups, features.size // groups])
        own = eqn.reshaped([outer], [groups, outer.size // groups])
        eqn.same(group[0], own[0])
        eqn.same(group[1], inner)
        eqn.expect("feature_group_count", group[0])
    found = [eqn.fixed(size, "a convolution runs along it") for size in shape]
    found[out_spec[0]], found[out_spec[1]] = left[lhs_spec[0]], outer
    return [tuple(found)]


@by_place
def _conv_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """A sum of products, within each group of features."""
    left, right = _convolved(eqn, ins)
    joined = _matmul(left[:, :, None], right.transpose(0, 2, 1)[None])  # [N, G, 1, O]
    out = eqn.params["dimension_numbers"].out_spec
    shape = [1] * len(out)
    shape[out[0]], shape[out[1]] = len(left), joined[0].size
    if out[0] < out[1]:
        return [joined.reshape(shape)]
    return [joined.reshape(len(left), -1).T.reshape(shape)]


def _conv_reads(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """As for a product, within each group of features."""
    lhs, rhs, _ = eqn.params["dimension_numbers"]
    left, right = _convolved(eqn, filled)
    batch, features = eqn.ins[0][lhs[0]], eqn.ins[0][lhs[1]]
    inner, outer = eqn.ins[1][rhs[1]], eqn.ins[1][rhs[0]]
    ours = (left & units.staying(batch)[:, None, None]).any(0)
    staying = np.broadcast_to(units.staying(outer), outer.size)
    wanted = ours & (right & staying.reshape(len(right), -1, 1)).any(1)  # [G, I]
    new = units.hold(features, wanted.ravel())
    return units.hold(inner, wanted.any(0)) or new


def _convolved(eqn: Equation, ins: Sequence[Filled]) -> tuple[Filled, Filled]:
    """The operands of a convolution, [N, G, I] and [G, O, I], of G groups; any place, any tap."""
    lhs, rhs, _ = eqn.params["dimension_numbers"]
    groups = eqn.params["feature_group_count"]
    left, right = any_along(ins[0], lhs[2:]), any_along(ins[1], rhs[2:])
    left = left if lhs[0] < lhs[1] else left.T
    right = right if rhs[0] < rhs[1] else right.T
    features, inner, outer = (
        eqn.ins[i][at].size for i, at in ((0, lhs[1]), (1, rhs[1]), (1, rhs[0]))
    )
    left = np.broadcast_to(left, (len(left), features)).reshape(len(left), groups, -1)
    return left, np.broadcast_to(right, (outer, inner)).reshape(groups, -1, inner)


def _conv_contracts(eqn: Equation) -> list[tuple[int, int]]:
    return [(0, eqn.params["dimension_numbers"].lhs_spec[1])]


# Reductions.


def _reduction(eqn: Equation) -> list[Axes]:
    """Reduced axes go; in which order their places come does not matter."""
    return [without(eqn.ins[0], eqn.params["axes"])]


def _reduction_zeros(eqn: Equation, ins: Sequence[Fact]) -> list[Fact]:
    """Zeros give zero; the largest of none is less than that."""
    if any(axis.size == 0 for axis in eqn.ins[0]):
        return anything(eqn, ins)
    return [Fact(any_along(ins[0].filled, eqn.params["axes"]))]


def _sum_reads(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """What is other than zero at places of the other axes that stay."""
    over = eqn.params["axes"]
    return units.hold_each(eqn.ins[0], over, units.reach(filled[0], eqn.ins[0], over))


def _maximum_reads(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """Every place, zero or not."""
    return _sum_reads(units, eqn, [np.ones_like(filled[0])])


def _reduce(eqn: Equation) -> list[Axes]:
    """As the other reductions, by a function that must not depend on the order either."""
    count = len(eqn.ins) // 2
    found = shared(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins[:count])
    return [without(found, eqn.params["dimensions"])] * count


def _collective(eqn: Equation) -> list[Axes]:
    """Axes that a ``vmap`` has named are reduced; those of devices are none of the array's."""
    gone = [axis for axis in eqn.params["axes"] if isinstance(axis, int)]
    return [without(found, gone) for found in eqn.ins]


CONTRACTING: dict[str, Primitive] = {
    "dot_general": Primitive(
        _dot_general, _dot_general_zeros, _dot_general_reads, _dot_general_contracts
    ),
    "ragged_dot_general": Primitive(_ragged_dot_general),
    "conv_general_dilated": Primitive(_conv, _conv_zeros, _conv_reads, _conv_contracts),
    **dict.fromkeys(
        ("reduce_sum", "reduce_or", "reduce_xor"),
        Primitive(_reduction, _reduction_zeros, _sum_reads),
    ),
    **dict.fromkeys(
        ("reduce_max", "reduce_min", "reduce_prod", "reduce_and"),
        Primitive(_reduction, _reduction_zeros, _maximum_reads),
    ),
    "reduce": Primitive(_reduce),
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), Primitive(_collective)),
}
