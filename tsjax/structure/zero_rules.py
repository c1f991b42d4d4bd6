"""Where the results of a primitive are zero if its operands are: one small function each.

A rule gets an equation that was followed and, for each operand, where it may be other than zero
(:mod:`tsjax.structure.zeros`): bools, with one place or all places of an axis that cannot be cut.
It returns the same of each result.

Every primitive here makes a place of its result of the same place of its operands, as far as axes
can be cut, but for those axes that it sums over or otherwise takes together: those are in the table
of :mod:`tsjax.structure.compaction`. A primitive of which that is not so must not be entered here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.structure.equations import Axes
from tsjax.structure.programs import Step

Filled = np.ndarray
"""Where an array may be other than zero."""
Rule = Callable[[Step, Sequence[Filled]], list[Filled]]

RULES: dict[str, Rule] = {}

ALONG = frozenset({
    "rev", "cumsum", "cumprod", "cummax", "cummin", "fft", "dynamic_slice", "reduce_window_sum",
    "sort", "top_k", "approx_top_k", "pad", "dynamic_update_slice", "gather", "scatter",
    "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max",
})  # fmt: skip
"""Primitives that move numbers along axes: of those that cannot be cut, rules get one place."""


def expanded(filled: Filled, axis: int, size: int) -> Filled:
    """With all places of an axis."""
    return np.broadcast_to(filled, (*filled.shape[:axis], size, *filled.shape[axis + 1 :]))


def merged(filled: Filled, along: Sequence[int], *, keep: bool = False) -> Filled:
    """Filled where any place along these axes is."""
    return np.asarray(filled.any(axis=tuple(along), keepdims=keep))


def dtype_of(var: Any) -> Any:
    """The dtype of a jaxpr variable or literal."""
    return var.aval.dtype


def _full(filled: Filled, found: Axes) -> Filled:
    """With all places of all axes."""
    return np.broadcast_to(filled, [axis.size for axis in found])


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register


@_rule(
    *("copy", "name", "sharding_constraint", "layout_constraint", "reshard"),
    *("optimization_barrier", "device_put", "pvary", "stop_gradient", "sort"),
)
def _each(_: Step, ins: Sequence[Filled]) -> list[Filled]:
    """Every operand is handed on, if in another order along an axis that stays as it is."""
    return list(ins)


@_rule(
    *("rev", "cumsum", "cumprod", "cummax", "cummin", "fft", "dynamic_slice", "reduce_window_sum"),
)
def _first(_: Step, ins: Sequence[Filled]) -> list[Filled]:
    """Along axes that stay as they are, zeros give zeros."""
    return [ins[0]]


@_rule(
    *("cumlogsumexp", "argmax", "argmin", "iota", "empty", "empty2", "bitcast_convert_type"),
    *("reduce_window", "reduce_window_max", "reduce_window_min"),
    *("select_and_scatter_add", "select_and_gather_add", "cholesky", "triangular_solve", "lu"),
    *("qr", "eigh", "svd", "householder_product", "random_bits", "random_split", "random_seed"),
    *("random_wrap", "random_unwrap", "rng_uniform", "rng_bit_generator"),
    *("debug_callback", "debug_print", "after_all", "create_token"),
)
def _filled(step: Step, _: Sequence[Filled]) -> list[Filled]:
    """Zeros may give anything."""
    return [np.ones((1,) * len(found), bool) for found in step.outs]


@_rule("top_k", "approx_top_k")
def _top_k(_: Step, ins: Sequence[Filled]) -> list[Filled]:
    """The largest of zeros is zero; their places are numbers."""
    return [ins[0], np.ones_like(ins[0])]


@_rule("dot_general")
def _dot_general(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    """A sum of products."""
    (left, right), ((lk, rk), (lb, rb)) = ins, step.eqn.params["dimension_numbers"]
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


def _matmul(left: Filled, right: Filled) -> Filled:
    # Numpy multiplies bools one by one.
    return (left.astype(np.float32) @ right.astype(np.float32)) > 0


@_rule("conv_general_dilated")
def _conv(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    """A sum of products, within each group of features."""
    left, right = convolved(step, ins)
    joined = _matmul(left[:, :, None], right.transpose(0, 2, 1)[None])  # [N, G, 1, O]
    out = step.eqn.params["dimension_numbers"].out_spec
    shape = [1] * len(out)
    shape[out[0]], shape[out[1]] = len(left), joined[0].size
    if out[0] < out[1]:
        return [joined.reshape(shape)]
    return [joined.reshape(len(left), -1).T.reshape(shape)]


def convolved(step: Step, ins: Sequence[Filled]) -> tuple[Filled, Filled]:
    """The operands of a convolution, [N, G, I] and [G, O, I], of G groups; any place, any tap."""
    lhs, rhs, _ = step.eqn.params["dimension_numbers"]
    groups = step.eqn.params["feature_group_count"]
    left, right = merged(ins[0], lhs[2:]), merged(ins[1], rhs[2:])
    left = left if lhs[0] < lhs[1] else left.T
    right = right if rhs[0] < rhs[1] else right.T
    features, inner, outer = (
        step.ins[i][at].size for i, at in ((0, lhs[1]), (1, rhs[1]), (1, rhs[0]))
    )
    left = np.broadcast_to(left, (len(left), features)).reshape(len(left), groups, -1)
    return left, np.broadcast_to(right, (outer, inner)).reshape(groups, -1, inner)


@_rule(
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"),
    *("reduce_or", "reduce_and", "reduce_xor"),
)
def _reduced(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    """Zeros give zero; the largest of none is less than that."""
    if any(axis.size == 0 for axis in step.ins[0]):
        return _filled(step, ins)
    return [merged(ins[0], step.eqn.params["axes"])]


@_rule("reshape")
def _reshape(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [_full(ins[0], step.ins[0]).reshape(step.equation.out_shapes[0])]


@_rule("transpose")
def _transpose(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0].transpose(step.eqn.params["permutation"])]


@_rule("squeeze")
def _squeeze(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0].squeeze(tuple(step.eqn.params["dimensions"]))]


@_rule("broadcast_in_dim", "broadcast_to")
def _broadcast(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    ndim, filled = len(step.outs[0]), ins[0]
    where = step.eqn.params.get("broadcast_dimensions", ()) or range(ndim - filled.ndim, ndim)
    return [np.expand_dims(filled, [at for at in range(ndim) if at not in where])]


@_rule("concatenate")
def _concatenate(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    at = step.eqn.params["dimension"]
    others = np.broadcast_shapes(*((*part.shape[:at], 1, *part.shape[at + 1 :]) for part in ins))
    parts = [
        np.broadcast_to(part, (*others[:at], found[at].size, *others[at + 1 :]))
        for part, found in zip(ins, step.ins, strict=True)
    ]
    return [np.concatenate(parts, at)]


@_rule("stack")
def _stack(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [np.stack(np.broadcast_arrays(*ins), step.eqn.params["axis"])]


@_rule("unstack")
def _unstack(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    at = step.eqn.params["axis"]
    return [*np.moveaxis(expanded(ins[0], at, len(step.outs)), at, 0)]


@_rule("split")
def _split(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    at, sizes = step.eqn.params["axis"], step.eqn.params["sizes"]
    whole = expanded(ins[0], at, step.ins[0][at].size)
    return np.split(whole, np.cumsum(sizes)[:-1], at)


@_rule("tile")
def _tile(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [np.tile(ins[0], step.eqn.params["reps"])]


@_rule("slice")
def _slice(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    p, filled = step.eqn.params, ins[0]
    strides = p["strides"] or (1,) * filled.ndim
    bounds = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    places = [
        slice(*each) if width == axis.size else slice(None)
        for each, width, axis in zip(bounds, filled.shape, step.ins[0], strict=True)
    ]
    return [filled[tuple(places)]]


@_rule("pad")
def _pad(_: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0] | ins[1]]


@_rule("dynamic_update_slice")
def _dynamic_update_slice(_: Step, ins: Sequence[Filled]) -> list[Filled]:
    return [ins[0] | ins[1]]


@_rule("gather")
def _gather(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    """Whole axes pass; what is out of bounds may be filled in, if by NaN it is not finite."""
    p, dtype = step.eqn.params, dtype_of(step.eqn.outvars[0])
    if p["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        fill = p["fill_value"]
        if fill if fill is not None else not jnp.issubdtype(dtype, jnp.inexact):
            return _filled(step, ins)
    numbers, ndim = p["dimension_numbers"], len(step.outs[0])
    window = merged(ins[0], (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims))
    return [np.expand_dims(window, [at for at in range(ndim) if at not in numbers.offset_dims])]


@_rule("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
def _scatter(step: Step, ins: Sequence[Filled]) -> list[Filled]:
    """Zeros among zeros; a product with what was zero is zero."""
    numbers, (into, _, updates) = step.eqn.params["dimension_numbers"], ins
    if step.eqn.primitive.name == "scatter-mul":
        return [into]
    outer = [at for at in range(updates.ndim) if at not in numbers.update_window_dims]
    inserted = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    return [into | np.expand_dims(merged(updates, outer), inserted)]
