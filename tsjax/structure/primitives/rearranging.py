"""Primitives that give arrays another shape, join them and take them apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsjax.structure.axes import Axis
from tsjax.structure.equations import Axes, Equation
from tsjax.structure.primitives.record import (
    Primitive,
    anything,
    by_place,
    reads_nothing,
    shared,
    without,
)
from tsjax.structure.units import Filled, expanded

# Another shape.


def _reshape(eqn: Equation) -> list[Axes]:
    """The new axes are products of factors of the old ones."""
    found = eqn.reshaped(eqn.ins[0], eqn.out_shapes[0])
    eqn.expect("new_sizes", found)
    return [found]


@by_place
def _reshape_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    whole = np.broadcast_to(ins[0], [axis.size for axis in eqn.ins[0]])
    return [whole.reshape(eqn.out_shapes[0])]


def _transpose(eqn: Equation) -> list[Axes]:
    """Axes change places."""
    return [tuple(eqn.ins[0][at] for at in eqn.params["permutation"])]


@by_place
def _transpose_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0].transpose(eqn.params["permutation"])]


def _squeeze(eqn: Equation) -> list[Axes]:
    """Axes of one place go."""
    ndim = len(eqn.ins[0])
    return [without(eqn.ins[0], [axis % ndim for axis in eqn.params["dimensions"]])]


@by_place
def _squeeze_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0].squeeze(tuple(eqn.params["dimensions"]))]


def _placed(eqn: Equation) -> Sequence[int]:
    """The axes of a broadcast array that those of its operand become."""
    ndim, own = len(eqn.out_shapes[0]), len(eqn.ins[0])
    return eqn.params.get("broadcast_dimensions", ()) or range(ndim - own, ndim)


def _broadcast(eqn: Equation) -> list[Axes]:
    """New axes may have any size."""
    (shape,) = eqn.out_shapes
    found = [eqn.new(size) for size in shape]
    for axis, at in zip(eqn.ins[0], _placed(eqn), strict=True):
        if axis.size == shape[at]:
            found[at] = axis
    for name in ("shape", "sizes"):
        eqn.expect(name, found)
    return [tuple(found)]


@by_place
def _broadcast_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    where = _placed(eqn)
    return [np.expand_dims(ins[0], [i for i in range(len(eqn.outs[0])) if i not in where])]


# Joining.


def _concatenate(eqn: Equation) -> list[Axes]:
    """The joined axis is the operands' end to end; the others agree."""
    at = eqn.params["dimension"]
    found = list(eqn.ins[0])
    for other in eqn.ins[1:]:
        for i, axis in enumerate(other):
            if i != at:
                eqn.same(found[i], axis)
    found[at] = eqn.joined([axes[at] for axes in eqn.ins])
    return [tuple(found)]


@by_place
def _concatenate_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    at = eqn.params["dimension"]
    others = np.broadcast_shapes(*((*part.shape[:at], 1, *part.shape[at + 1 :]) for part in ins))
    parts = [
        np.broadcast_to(part, (*others[:at], found[at].size, *others[at + 1 :]))
        for part, found in zip(ins, eqn.ins, strict=True)
    ]
    return [np.concatenate(parts, at)]


def _stack(eqn: Equation) -> list[Axes]:
    """All axes agree; the new one tells the operands apart."""
    found = list(shared(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins))
    found.insert(eqn.params["axis"], eqn.fixed(len(eqn.ins), "arrays are stacked along it"))
    return [tuple(found)]


@by_place
def _stack_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [np.stack(np.broadcast_arrays(*ins), eqn.params["axis"])]


def _tile(eqn: Equation) -> list[Axes]:
    """An axis becomes so many copies of itself."""
    found = []
    for axis, times in zip(eqn.ins[0], eqn.params["reps"], strict=True):
        found.append(axis if times == 1 else eqn.joined([axis] * times))
    return [tuple(found)]


@by_place
def _tile_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    return [np.tile(ins[0], eqn.params["reps"])]


# Taking apart.


def _unstack(eqn: Equation) -> list[Axes]:
    """The axis goes, its places are told apart."""
    at = eqn.params["axis"]
    eqn.freeze(0, at, "arrays are taken off it one by one")
    return [without(eqn.ins[0], [at])] * len(eqn.out_shapes)


@by_place
def _unstack_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    at = eqn.params["axis"]
    return [*np.moveaxis(expanded(ins[0], at, len(eqn.outs)), at, 0)]


def _split(eqn: Equation) -> list[Axes]:
    """The axis consists of parts."""
    at, found = eqn.params["axis"], eqn.ins[0]
    parts = eqn.parts(found[at], [int(size) for size in eqn.params["sizes"]])
    eqn.expect("sizes", parts)
    return [(*found[:at], part, *found[at + 1 :]) for part in parts]


@by_place
def _split_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    at, sizes = eqn.params["axis"], eqn.params["sizes"]
    return np.split(expanded(ins[0], at, eqn.ins[0][at].size), np.cumsum(sizes)[:-1], at)


def _slice(eqn: Equation) -> list[Axes]:
    """The axis consists of what comes before, the slice, and what comes after."""
    strides = eqn.params["strides"] or (1,) * len(eqn.ins[0])
    starts, limits, found = list[Any](), list[Any](), list[Axis]()
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
    for at, (axis, (start, limit, stride)) in enumerate(zip(eqn.ins[0], bounds, strict=True)):
        size = axis.size
        if stride == 1:
            before, kept, _ = eqn.parts(axis, [start, limit - start, size - limit])
            starts.append(before)
            limits.append(eqn.joined([before, kept]))
            found.append(kept)
        elif size % stride == 0 and start < stride and limit == size:
            # Every so many places: the axis is a product, of which one second factor is read.
            outer, inner = eqn.reshaped([axis], [size // stride, stride])
            eqn.parts(inner, [1] * stride)
            starts.append(start)
            limits.append(axis)
            found.append(outer)
        else:
            eqn.freeze(0, at, "it is read in strides")
            starts.append(start)
            limits.append(limit)
            found.append(eqn.fixed(eqn.out_shapes[0][at], "it is read in strides"))
    eqn.expect("start_indices", starts)
    eqn.expect("limit_indices", limits)
    return [tuple(found)]


@by_place
def _slice_zeros(eqn: Equation, ins: Sequence[Filled]) -> list[Filled]:
    p, filled = eqn.params, ins[0]
    strides = p["strides"] or (1,) * filled.ndim
    bounds = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    places = [
        slice(*each) if width == axis.size else slice(None)
        for each, width, axis in zip(bounds, filled.shape, eqn.ins[0], strict=True)
    ]
    return [filled[tuple(places)]]


# Without operands.


def _iota(eqn: Equation) -> list[Axes]:
    """Places are numbered along one axis; the others may have any size."""
    found = [eqn.new(size) for size in eqn.out_shapes[0]]
    at = eqn.params["dimension"]
    found[at] = eqn.fixed(found[at].size, "its places are numbered")
    eqn.expect("shape", found)
    return [tuple(found)]


def _empty(eqn: Equation) -> list[Axes]:
    """Axes of any size."""
    found = tuple(eqn.new(size) for size in eqn.out_shapes[0])
    eqn.expect("shape", found)
    return [found]


REARRANGING: dict[str, Primitive] = {
    "reshape": Primitive(_reshape, _reshape_zeros),
    "transpose": Primitive(_transpose, _transpose_zeros),
    "squeeze": Primitive(_squeeze, _squeeze_zeros),
    **dict.fromkeys(("broadcast_in_dim", "broadcast_to"), Primitive(_broadcast, _broadcast_zeros)),
    "concatenate": Primitive(_concatenate, _concatenate_zeros),
    "stack": Primitive(_stack, _stack_zeros),
    "tile": Primitive(_tile, _tile_zeros),
    "unstack": Primitive(_unstack, _unstack_zeros),
    "split": Primitive(_split, _split_zeros),
    # What a slice leaves out is used by others, if at all.
    "slice": Primitive(_slice, _slice_zeros, reads_nothing),
    "iota": Primitive(_iota, anything),
    **dict.fromkeys(("empty", "empty2"), Primitive(_empty, anything)),
}
