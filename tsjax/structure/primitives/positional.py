"""Primitives that use an axis by position: they run along it, order it, look up and write in it.

Such an axis stays as it is. Zeros may end up at any of its places, so that what is known of it is
that of the axis as a whole: one place in ``filled``.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.structure.axes import Axis
from tsjax.structure.equations import Axes, Equation
from tsjax.structure.primitives.record import (
    Fact,
    Primitive,
    anything,
    by_place,
    shared,
    without,
)
from tsjax.structure.units import Filled, Units, any_along

# Along one axis.


def _cumulative(eqn: Equation) -> list[Axes]:
    """It runs along one axis."""
    eqn.freeze(0, eqn.params["axis"], "it runs along the axis")
    return [eqn.ins[0]]


@by_place
def _cumulative_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [any_along(ins[0], [eqn.params["axis"]], keep=True)]


def _sort(eqn: Equation) -> list[Axes]:
    """All operands are put in one order along an axis."""
    for operand in range(len(eqn.ins)):
        eqn.freeze(operand, eqn.params["dimension"], "it is sorted along the axis")
    return [shared(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins)] * len(eqn.ins)


@by_place
def _sort_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [any_along(each, [eqn.params["dimension"]], keep=True) for each in ins]


def _chosen_axis(eqn: Equation) -> int:
    """The axis along which places are chosen."""
    at = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1))
    return int(at % len(eqn.ins[0]))


def _top_k(eqn: Equation) -> list[Axes]:
    """So many places are chosen along an axis."""
    found, at = list(eqn.ins[0]), _chosen_axis(eqn)
    eqn.freeze(0, at, "places are chosen along it")
    found[at] = eqn.fixed(eqn.out_shapes[0][at], "places are chosen along it")
    return [tuple(found)] * len(eqn.out_shapes)


@by_place
def _top_k_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """The largest of zeros is zero; their places are numbers."""
    values = any_along(ins[0], [_chosen_axis(eqn)], keep=True)
    return [values, np.ones_like(values)]


def _argmax(eqn: Equation) -> list[Axes]:
    """The number of a place is the result."""
    for axis in eqn.params["axes"]:
        eqn.freeze(0, axis, "the result is a position along it")
    return [without(eqn.ins[0], eqn.params["axes"])]


# Along several.


def _rev(eqn: Equation) -> list[Axes]:
    """Reversed axes are used by position."""
    for axis in eqn.params["dimensions"]:
        eqn.freeze(0, axis, "it is reversed")
    return [eqn.ins[0]]


@by_place
def _rev_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [any_along(ins[0], eqn.params["dimensions"], keep=True)]


def _padded(eqn: Equation) -> list[int]:
    """The axes that are padded, or cut."""
    return [at for at, config in enumerate(eqn.params["padding_config"]) if any(config)]


def _pad(eqn: Equation) -> list[Axes]:
    """Padded axes are used by position."""
    found = list(eqn.ins[0])
    for at in _padded(eqn):
        eqn.freeze(0, at, "it is padded")
        found[at] = eqn.fixed(eqn.out_shapes[0][at], "it is padded")
    return [tuple(found)]


@by_place
def _pad_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [any_along(ins[0], _padded(eqn), keep=True) | ins[1]]


def _transformed(eqn: Equation) -> range:
    """The axes that are transformed."""
    ndim = len(eqn.ins[0])
    return range(ndim - len(eqn.params["fft_lengths"]), ndim)


def _fft(eqn: Equation) -> list[Axes]:
    """Places of the transformed axes and of their frequencies have a meaning."""
    found = list(eqn.ins[0])
    for at in _transformed(eqn):
        eqn.freeze(0, at, "it is transformed")
        found[at] = eqn.fixed(eqn.out_shapes[0][at], "it is transformed")
    return [tuple(found)]


@by_place
def _fft_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [any_along(ins[0], _transformed(eqn), keep=True)]


def _moved_along(eqn: Equation) -> list[int]:
    """The axes that a window of more than one place, or in steps, moves along."""
    p, ones = eqn.params, (1,) * len(eqn.out_shapes[0])
    dilated = zip(p.get("base_dilation", ones), p.get("window_dilation", ones), strict=True)
    moves = zip(p["window_dimensions"], p["window_strides"], p["padding"], dilated, strict=True)
    return [
        at
        for at, (size, stride, padding, dilation) in enumerate(moves)
        if not (size == stride == 1 and not any(padding) and set(dilation) == {1})
    ]


def _windows(eqn: Equation) -> list[Axes]:
    """Axes that a window moves along are used by position, the others agree."""
    shape, moved = eqn.out_shapes[0], _moved_along(eqn)
    arrays = [operand for operand, axes in enumerate(eqn.ins) if len(axes) == len(shape)]
    found = list(eqn.ins[arrays[0]])
    for at, size in enumerate(shape):
        for operand in arrays:
            if at in moved:
                eqn.freeze(operand, at, "a window moves along it")
            else:
                eqn.same(found[at], eqn.ins[operand][at])
        if at in moved:
            found[at] = eqn.fixed(size, "a window moves along it")
    return [tuple(found)] * len(eqn.out_shapes)


@by_place
def _windows_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """Of a sum."""
    return [any_along(ins[0], _moved_along(eqn), keep=True)]


def _linear_algebra(eqn: Equation) -> list[Axes]:
    """Rows and columns of a matrix have their order; stacks of matrices agree."""
    batch = min(len(axes) for axes in eqn.ins) - 2
    why = "rows and columns of one matrix"
    for operand, axes in enumerate(eqn.ins):
        for at in range(batch, len(axes)):
            eqn.freeze(operand, at, why)
    stacks = shared(eqn, [a.size for a in eqn.ins[0][:batch]], [a[:batch] for a in eqn.ins])
    rest = [[eqn.fixed(size, why) for size in shape[batch:]] for shape in eqn.out_shapes]
    return [(*stacks, *axes) for axes in rest]


# At indices.


def _dynamic_slice(eqn: Equation) -> list[Axes]:
    """Axes of which only a part is read are used by position."""
    found: list[Axis] = []
    for at, (axis, size) in enumerate(zip(eqn.ins[0], eqn.out_shapes[0], strict=True)):
        if axis.size != size:
            eqn.freeze(0, at, "it is read at a position")
            axis = eqn.fixed(size, "it is read at a position")
        found.append(axis)
    eqn.expect("slice_sizes", found)
    return [tuple(found)]


@by_place
def _dynamic_slice_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    pairs = zip(eqn.ins[0], eqn.out_shapes[0], strict=True)
    read = [at for at, (axis, size) in enumerate(pairs) if axis.size != size]
    return [any_along(ins[0], read, keep=True)]


def _dynamic_update_slice(eqn: Equation) -> list[Axes]:
    """Axes of which only a part is written are used by position."""
    into, update = eqn.ins[:2]
    for at, (axis, part) in enumerate(zip(into, update, strict=True)):
        if axis.size == part.size:
            eqn.same(axis, part)
        else:
            eqn.freeze(0, at, "it is written at a position")
            eqn.freeze(1, at, "it is written at a position")
    return [into]


@by_place
def _dynamic_update_slice_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    pairs = zip(*eqn.ins[:2], strict=True)
    written = [at for at, (axis, part) in enumerate(pairs) if axis.size != part.size]
    return [ins[0] | any_along(ins[1], written, keep=True)]


def _gather(eqn: Equation) -> list[Axes]:
    """Looked-up axes are used by position; indices may be any number, whole axes pass."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    into, indices = eqn.ins
    batch, inner = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    for at, i in zip(batch, inner, strict=True):
        eqn.same(into[at], indices[i])
    expected: list[Any] = list(sizes)
    window: list[Axis] = []
    for at, (axis, size) in enumerate(zip(into, sizes, strict=True)):
        if at in batch:
            continue
        if size != axis.size:
            eqn.freeze(0, at, "it is looked up by position")
            axis = eqn.fixed(size, "it is looked up by position")
        else:
            expected[at] = axis
        if at not in numbers.collapsed_slice_dims:
            window.append(axis)
    eqn.freeze(1, len(indices) - 1, "coordinates of one position")
    eqn.expect("slice_sizes", expected)
    rest, outer = iter(window), iter(indices[:-1])
    ndim = len(eqn.out_shapes[0])
    return [tuple(next(rest if at in numbers.offset_dims else outer) for at in range(ndim))]


def _gather_zeros(eqn: Equation, ins: Sequence[Fact]) -> list[Fact]:
    """Whole axes pass; what is out of bounds may be filled in, if by NaN it is not finite."""
    p = eqn.params
    if p["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        fill = p["fill_value"]
        if fill if fill is not None else not jnp.issubdtype(eqn.dtype, jnp.inexact):
            return anything(eqn, ins)
    numbers, ndim = p["dimension_numbers"], len(eqn.outs[0])
    pairs = zip(eqn.ins[0], p["slice_sizes"], strict=True)
    looked_up = [at for at, (axis, size) in enumerate(pairs) if axis.size != size]
    filled = any_along(ins[0].filled, looked_up, keep=True)
    window = any_along(filled, (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims))
    new = [at for at in range(ndim) if at not in numbers.offset_dims]
    return [Fact(np.expand_dims(window, new))]


def _scatter(eqn: Equation) -> list[Axes]:
    """Axes that are written at indices are used by position; indices agree with their updates."""
    numbers, (into, indices, updates) = eqn.params["dimension_numbers"], eqn.ins
    batch, inner = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    for at, i in zip(batch, inner, strict=True):
        eqn.same(into[at], indices[i])
    outer = iter(indices[:-1])
    for at, axis in enumerate(updates):
        if at not in numbers.update_window_dims:
            eqn.same(next(outer), axis)
    for at, i in _written(eqn):
        if into[at].size == updates[i].size:
            eqn.same(into[at], updates[i])
        else:
            eqn.freeze(0, at, "it is written at a position")
            eqn.freeze(2, i, "it is written at a position")
    for at in numbers.inserted_window_dims:
        eqn.freeze(0, at, "it is written at a position")
    eqn.freeze(1, len(indices) - 1, "coordinates of one position")
    return [into]


def _written(eqn: Equation) -> list[tuple[int, int]]:
    """The axes of the array, each with that of the updates that is written into it."""
    numbers = eqn.params["dimension_numbers"]
    inserted = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = [at for at in range(len(eqn.ins[0])) if at not in inserted]
    return list(zip(window, numbers.update_window_dims, strict=True))


@by_place
def _scatter_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """Zeros among zeros."""
    numbers, (into, _, updates) = eqn.params["dimension_numbers"], ins
    parts = [i for at, i in _written(eqn) if eqn.ins[0][at].size != eqn.ins[2][i].size]
    outer = [at for at in range(updates.ndim) if at not in numbers.update_window_dims]
    updates = any_along(any_along(updates, parts, keep=True), outer)
    inserted = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    return [into | np.expand_dims(updates, inserted)]


@by_place
def _multiplied_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """A product with what was zero is zero."""
    del eqn
    return [ins[0]]


def _updates(units: Units, eqn: Equation, updates: Filled) -> bool:
    """Keeps the updates that are filled, along indices that are no batch."""
    numbers, found = eqn.params["dimension_numbers"], eqn.ins[2]
    outer = [at for at in range(len(found)) if at not in numbers.update_window_dims]
    over = [at for i, at in enumerate(outer) if i not in numbers.scatter_indices_batching_dims]
    return units.hold_each(found, over, units.reach(updates, found, over))


def _added(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """Updates that add something."""
    return _updates(units, eqn, filled[2])


def _replaced(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """Every update, zero or not."""
    return _updates(units, eqn, np.ones_like(filled[2]))


POSITIONAL: dict[str, Primitive] = {
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin"), Primitive(_cumulative, _cumulative_zeros)
    ),
    "cumlogsumexp": Primitive(_cumulative, anything),
    "sort": Primitive(_sort, _sort_zeros),
    **dict.fromkeys(("top_k", "approx_top_k"), Primitive(_top_k, _top_k_zeros)),
    **dict.fromkeys(("argmax", "argmin"), Primitive(_argmax, anything)),
    "rev": Primitive(_rev, _rev_zeros),
    "pad": Primitive(_pad, _pad_zeros),
    "fft": Primitive(_fft, _fft_zeros),
    "reduce_window_sum": Primitive(_windows, _windows_zeros),
    **dict.fromkeys(
        (
            *("reduce_window", "reduce_window_max", "reduce_window_min"),
            *("select_and_scatter_add", "select_and_gather_add"),
        ),
        Primitive(_windows, anything),
    ),
    **dict.fromkeys(
        ("cholesky", "triangular_solve", "lu", "qr", "eigh", "svd", "householder_product"),
        Primitive(_linear_algebra, anything),
    ),
    "dynamic_slice": Primitive(_dynamic_slice, _dynamic_slice_zeros),
    "dynamic_update_slice": Primitive(_dynamic_update_slice, _dynamic_update_slice_zeros),
    "gather": Primitive(_gather, _gather_zeros),
    **dict.fromkeys(("scatter-add", "scatter-sub"), Primitive(_scatter, _scatter_zeros, _added)),
    **dict.fromkeys(
        ("scatter", "scatter-min", "scatter-max"), Primitive(_scatter, _scatter_zeros, _replaced)
    ),
    "scatter-mul": Primitive(_scatter, _multiplied_zeros, _replaced),
}
