"""How each primitive relates the axes of its operands and results: one small function each.

A rule gets an :class:`~tsjax.structure.equations.Equation` and returns the axes of each result. It
says which axes are the same, and freezes those that the primitive uses by position. A primitive
without a rule freezes everything that it touches. To add one::

    @structure.rule("my_cumulative_max")
    def my_cumulative_max(eqn):
        eqn.freeze(0, eqn.params["axis"], "it runs along the axis")
        return [eqn.ins[0]]
"""

from collections.abc import Callable, Sequence
from typing import Any

from tsjax.structure.axes import Axis
from tsjax.structure.equations import Axes, Equation

Rule = Callable[[Equation], list[Axes]]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for these primitives, in place of the one that they have, if any.

    Args:
      *names: names of primitives.

    Returns:
      A decorator of a function that takes an :class:`~tsjax.structure.equations.Equation` and
      returns the axes of each result, as a tuple per result.
    """

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register


def unknown(eqn: Equation) -> list[Axes]:
    """What holds for a primitive without a rule: all that it touches is frozen."""
    why = "nothing is known of this primitive, see structure.rule"
    for operand, found in enumerate(eqn.ins):
        for axis in range(len(found)):
            eqn.freeze(operand, axis, why)
    return [tuple(eqn.fixed(size, why) for size in shape) for shape in eqn.out_shapes]


def _merged(eqn: Equation, shape: Sequence[int], operands: Sequence[Axes]) -> Axes:
    """The axes of arrays that are combined element by element; axes of one place are repeated."""
    found: list[Axis] = []
    for at, size in enumerate(shape):
        candidates = [axes[at] for axes in operands if axes and axes[at].size == size]
        for other in candidates[1:]:
            eqn.same(candidates[0], other)
        found.append(candidates[0] if candidates else eqn.new(size))
    return tuple(found)


@rule(
    *("abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh"),
    *("bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "copy"),
    *("convert_element_type", "cos", "cosh", "digamma", "div", "eq", "eq_to", "erf", "erf_inv"),
    *("erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igamma_grad_a", "igammac"),
    *("imag", "integer_pow", "is_finite", "le", "le_to", "lgamma", "log", "log1p", "logistic"),
    *("lt", "lt_to", "max", "min", "mul", "mulhi", "ne", "neg", "nextafter", "not", "or"),
    *("polygamma", "population_count", "pow", "random_clone", "random_fold_in", "random_gamma"),
    *("real", "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt"),
    *("select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin"),
    *("sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "threefry2x32", "xor"),
    *("zeta", "name", "sharding_constraint", "layout_constraint", "reshard"),
)
def elementwise(eqn: Equation) -> list[Axes]:
    """Every place of the result depends on the same place of the operands."""
    return [_merged(eqn, shape, eqn.ins) for shape in eqn.out_shapes]


@rule("optimization_barrier", "device_put", "pvary")
def one_by_one(eqn: Equation) -> list[Axes]:
    """Every operand is handed on."""
    return list(eqn.ins)


@rule("debug_callback", "debug_print", "after_all", "create_token")
def nothing(eqn: Equation) -> list[Axes]:
    """Looks at its operands, and changes nothing."""
    return [tuple(eqn.new(size) for size in shape) for shape in eqn.out_shapes]


@rule("bitcast_convert_type")
def bitcast_convert_type(eqn: Equation) -> list[Axes]:
    """A change of width adds an axis at the end, or takes it away."""
    (found,), (shape,) = eqn.ins, eqn.out_shapes
    if len(shape) > len(found):
        return [(*found, eqn.fixed(shape[-1], "the pieces of one number"))]
    if len(shape) < len(found):
        eqn.freeze(0, len(found) - 1, "the pieces of one number")
    return [found[: len(shape)]]


@rule("dot_general")
def dot_general(eqn: Equation) -> list[Axes]:
    """Contracted axes agree, batch axes agree, the others pass."""
    (contracted, batch), (left, right) = eqn.params["dimension_numbers"], eqn.ins
    for axes in (contracted, batch):
        for i, j in zip(*axes, strict=True):
            eqn.same(left[i], right[j])
    free = [
        tuple(a for i, a in enumerate(ins) if i not in (*contracted[side], *batch[side]))
        for side, ins in enumerate((left, right))
    ]
    return [(*(left[i] for i in batch[0]), *free[0], *free[1])]


@rule("ragged_dot_general")
def ragged_dot_general(eqn: Equation) -> list[Axes]:
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
    free = [a for i, a in enumerate(left) if i not in ours]
    skip = (*theirs, *numbers.rhs_group_dimensions)
    free += [a for i, a in enumerate(right) if i not in skip]
    found = [*(left[i] for i in batch[0]), *free]
    if len(found) != len(eqn.out_shapes[0]):
        return unknown(eqn)
    return [tuple(found)]


@rule("conv_general_dilated")
def conv_general_dilated(eqn: Equation) -> list[Axes]:
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


@rule("reshape")
def reshape(eqn: Equation) -> list[Axes]:
    """The new axes are products of factors of the old ones."""
    found = eqn.reshaped(eqn.ins[0], eqn.out_shapes[0])
    eqn.expect("new_sizes", found)
    return [found]


@rule("transpose")
def transpose(eqn: Equation) -> list[Axes]:
    """Axes change places."""
    return [tuple(eqn.ins[0][i] for i in eqn.params["permutation"])]


@rule("squeeze")
def squeeze(eqn: Equation) -> list[Axes]:
    """Axes of one place go."""
    ndim = len(eqn.ins[0])
    gone = {axis % ndim for axis in eqn.params["dimensions"]}
    return [tuple(axis for i, axis in enumerate(eqn.ins[0]) if i not in gone)]


@rule("broadcast_in_dim", "broadcast_to")
def broadcast_in_dim(eqn: Equation) -> list[Axes]:
    """New axes may have any size."""
    (shape,), found = eqn.out_shapes, eqn.ins[0]
    where = eqn.params.get("broadcast_dimensions", ())
    if not where and found:
        where = range(len(shape) - len(found), len(shape))
    axes = [eqn.new(size) for size in shape]
    for axis, i in zip(found, where, strict=True):
        if axis.size == shape[i]:
            axes[i] = axis
    for name in ("shape", "sizes"):
        eqn.expect(name, axes)
    return [tuple(axes)]


@rule("concatenate")
def concatenate(eqn: Equation) -> list[Axes]:
    """The joined axis is the operands' end to end; the others agree."""
    at = eqn.params["dimension"]
    found = list(eqn.ins[0])
    for other in eqn.ins[1:]:
        for i, axis in enumerate(other):
            if i != at:
                eqn.same(found[i], axis)
    found[at] = eqn.joined([axes[at] for axes in eqn.ins])
    return [tuple(found)]


@rule("stack")
def stack(eqn: Equation) -> list[Axes]:
    """All axes agree; the new one tells the operands apart."""
    found = list(_merged(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins))
    found.insert(eqn.params["axis"], eqn.fixed(len(eqn.ins), "arrays are stacked along it"))
    return [tuple(found)]


@rule("unstack")
def unstack(eqn: Equation) -> list[Axes]:
    """The axis goes, its places are told apart."""
    at = eqn.params["axis"]
    eqn.freeze(0, at, "arrays are taken off it one by one")
    rest = tuple(axis for i, axis in enumerate(eqn.ins[0]) if i != at)
    return [rest] * len(eqn.out_shapes)


@rule("split")
def split(eqn: Equation) -> list[Axes]:
    """The axis consists of parts."""
    at, found = eqn.params["axis"], eqn.ins[0]
    parts = eqn.parts(found[at], [int(size) for size in eqn.params["sizes"]])
    eqn.expect("sizes", parts)
    return [(*found[:at], part, *found[at + 1 :]) for part in parts]


@rule("tile")
def tile(eqn: Equation) -> list[Axes]:
    """An axis becomes so many copies of itself."""
    found = []
    for axis, times in zip(eqn.ins[0], eqn.params["reps"], strict=True):
        found.append(axis if times == 1 else eqn.joined([axis] * times))
    return [tuple(found)]


@rule("slice")
def slice_(eqn: Equation) -> list[Axes]:
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


@rule("rev")
def rev(eqn: Equation) -> list[Axes]:
    """Reversed axes are used by position."""
    for axis in eqn.params["dimensions"]:
        eqn.freeze(0, axis, "it is reversed")
    return [eqn.ins[0]]


@rule("pad")
def pad(eqn: Equation) -> list[Axes]:
    """Padded axes are used by position."""
    found = list(eqn.ins[0])
    for at, config in enumerate(eqn.params["padding_config"]):
        if any(config):
            eqn.freeze(0, at, "it is padded")
            found[at] = eqn.fixed(eqn.out_shapes[0][at], "it is padded")
    return [tuple(found)]


@rule("iota")
def iota(eqn: Equation) -> list[Axes]:
    """Places are numbered along one axis; the others may have any size."""
    found = [eqn.new(size) for size in eqn.out_shapes[0]]
    at = eqn.params["dimension"]
    found[at] = eqn.fixed(found[at].size, "its places are numbered")
    eqn.expect("shape", found)
    return [tuple(found)]


@rule("empty", "empty2")
def empty(eqn: Equation) -> list[Axes]:
    """Axes of any size."""
    found = tuple(eqn.new(size) for size in eqn.out_shapes[0])
    eqn.expect("shape", found)
    return [found]


def _without(axes: Axes, gone: Sequence[int]) -> Axes:
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


@rule(
    *("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"),
    *("reduce_and", "reduce_or", "reduce_xor"),
)
def reduction(eqn: Equation) -> list[Axes]:
    """Reduced axes go; in which order their places come does not matter."""
    return [_without(eqn.ins[0], eqn.params["axes"])]


@rule("reduce")
def reduce(eqn: Equation) -> list[Axes]:
    """As the other reductions, by a function that must not depend on the order either."""
    count = len(eqn.ins) // 2
    merged = _merged(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins[:count])
    return [_without(merged, eqn.params["dimensions"])] * count


@rule("psum", "psum_invariant", "pmax", "pmin")
def collective(eqn: Equation) -> list[Axes]:
    """Axes that a ``vmap`` has named are reduced; those of devices are none of the array's."""
    gone = [axis for axis in eqn.params["axes"] if isinstance(axis, int)]
    return [_without(found, gone) for found in eqn.ins]


@rule("argmax", "argmin")
def argmax(eqn: Equation) -> list[Axes]:
    """The number of a place is the result."""
    for axis in eqn.params["axes"]:
        eqn.freeze(0, axis, "the result is a position along it")
    return [_without(eqn.ins[0], eqn.params["axes"])]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(eqn: Equation) -> list[Axes]:
    """It runs along one axis."""
    eqn.freeze(0, eqn.params["axis"], "it runs along the axis")
    return [eqn.ins[0]]


@rule("sort")
def sort(eqn: Equation) -> list[Axes]:
    """All operands are put in one order along an axis."""
    for operand in range(len(eqn.ins)):
        eqn.freeze(operand, eqn.params["dimension"], "it is sorted along the axis")
    merged = _merged(eqn, [axis.size for axis in eqn.ins[0]], eqn.ins)
    return [merged] * len(eqn.ins)


@rule("top_k", "approx_top_k")
def top_k(eqn: Equation) -> list[Axes]:
    """So many places are chosen along an axis."""
    found = list(eqn.ins[0])
    at = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1)) % len(found)
    eqn.freeze(0, at, "places are chosen along it")
    found[at] = eqn.fixed(eqn.out_shapes[0][at], "places are chosen along it")
    return [tuple(found)] * len(eqn.out_shapes)


@rule("fft")
def fft(eqn: Equation) -> list[Axes]:
    """Places of the transformed axes and of their frequencies have a meaning."""
    count = len(eqn.params["fft_lengths"])
    found = list(eqn.ins[0])
    for at in range(len(found) - count, len(found)):
        eqn.freeze(0, at, "it is transformed")
        found[at] = eqn.fixed(eqn.out_shapes[0][at], "it is transformed")
    return [tuple(found)]


@rule(
    *("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
    *("select_and_scatter_add", "select_and_gather_add"),
)
def windows(eqn: Equation) -> list[Axes]:
    """Axes that a window of more than one place moves along are used by position."""
    p, shape = eqn.params, eqn.out_shapes[0]
    ones = (1,) * len(shape)
    dilated = zip(p.get("base_dilation", ones), p.get("window_dilation", ones), strict=True)
    moves = zip(p["window_dimensions"], p["window_strides"], p["padding"], dilated, strict=True)
    operands = [axes for axes in eqn.ins if len(axes) == len(shape)]
    found: list[Axis] = []
    for at, (size, stride, padding, dilation) in enumerate(moves):
        if size == stride == 1 and not any(padding) and set(dilation) == {1}:
            for other in operands[1:]:
                eqn.same(operands[0][at], other[at])
            found.append(operands[0][at])
            continue
        for operand, axes in enumerate(eqn.ins):
            if len(axes) == len(shape):
                eqn.freeze(operand, at, "a window moves along it")
        found.append(eqn.fixed(shape[at], "a window moves along it"))
    return [tuple(found)] * len(eqn.out_shapes)


@rule("dynamic_slice")
def dynamic_slice(eqn: Equation) -> list[Axes]:
    """Axes of which only a part is read are used by position."""
    found: list[Axis] = []
    for at, (axis, size) in enumerate(zip(eqn.ins[0], eqn.out_shapes[0], strict=True)):
        if axis.size != size:
            eqn.freeze(0, at, "it is read at a position")
            axis = eqn.fixed(size, "it is read at a position")
        found.append(axis)
    eqn.expect("slice_sizes", found)
    return [tuple(found)]


@rule("dynamic_update_slice")
def dynamic_update_slice(eqn: Equation) -> list[Axes]:
    """Axes of which only a part is written are used by position."""
    into, update = eqn.ins[:2]
    for at, (axis, part) in enumerate(zip(into, update, strict=True)):
        if axis.size == part.size:
            eqn.same(axis, part)
        else:
            eqn.freeze(0, at, "it is written at a position")
            eqn.freeze(1, at, "it is written at a position")
    return [into]


@rule("gather")
def gather(eqn: Equation) -> list[Axes]:
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


@rule("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
def scatter(eqn: Equation) -> list[Axes]:
    """Axes that are written at indices are used by position; indices agree with their updates."""
    numbers, (into, indices, updates) = eqn.params["dimension_numbers"], eqn.ins
    batch, inner = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    for at, i in zip(batch, inner, strict=True):
        eqn.same(into[at], indices[i])
    outer = iter(indices[:-1])
    for at, axis in enumerate(updates):
        if at not in numbers.update_window_dims:
            eqn.same(next(outer), axis)
    inserted = (*numbers.inserted_window_dims, *batch)
    window = [at for at in range(len(into)) if at not in inserted]
    for at, i in zip(window, numbers.update_window_dims, strict=True):
        if into[at].size == updates[i].size:
            eqn.same(into[at], updates[i])
        else:
            eqn.freeze(0, at, "it is written at a position")
            eqn.freeze(2, i, "it is written at a position")
    for at in numbers.inserted_window_dims:
        eqn.freeze(0, at, "it is written at a position")
    eqn.freeze(1, len(indices) - 1, "coordinates of one position")
    return [into]


@rule("random_bits", "random_split", "random_seed", "random_wrap", "random_unwrap", "rng_uniform")
def random(eqn: Equation) -> list[Axes]:
    """Keys keep their axes; those of what is drawn may have any size."""
    (shape,), keys = eqn.out_shapes, () if eqn.name == "rng_uniform" else eqn.ins[0]
    if eqn.name == "random_wrap":
        for at in range(len(shape), len(keys)):
            eqn.freeze(0, at, "the words of one key")
        return [keys[: len(shape)]]
    drawn = [eqn.new(size) for size in shape[len(keys) :]]
    if eqn.name == "random_unwrap":
        drawn = [eqn.fixed(axis.size, "the words of one key") for axis in drawn]
    eqn.expect("shape", drawn)
    return [(*keys, *drawn)]


@rule("rng_bit_generator")
def rng_bit_generator(eqn: Equation) -> list[Axes]:
    """The axes of what is drawn may have any size."""
    drawn = tuple(eqn.new(size) for size in eqn.out_shapes[1])
    eqn.expect("shape", drawn)
    return [eqn.ins[0], drawn]


@rule("cholesky", "triangular_solve", "lu", "qr", "eigh", "svd", "householder_product")
def linear_algebra(eqn: Equation) -> list[Axes]:
    """Rows and columns of a matrix have their order; stacks of matrices agree."""
    batch = min(len(axes) for axes in eqn.ins) - 2
    why = "rows and columns of one matrix"
    for operand, axes in enumerate(eqn.ins):
        for at in range(batch, len(axes)):
            eqn.freeze(operand, at, why)
    shared = _merged(eqn, [a.size for a in eqn.ins[0][:batch]], [a[:batch] for a in eqn.ins])
    rest = [[eqn.fixed(size, why) for size in shape[batch:]] for shape in eqn.out_shapes]
    return [(*shared, *axes) for axes in rest]
