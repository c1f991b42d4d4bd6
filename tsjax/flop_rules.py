"""What one primitive costs: a table from primitive names to small functions of an equation.

A rule gets a jaxpr equation and returns its `Work`, or None where it does not know this case (say,
a complex argument); the case is then reported as uncounted. To add a primitive, write the rule and
enter it in `RULES`; an elementwise one is a line in `_ELEMENTWISE`. Primitives that hold a jaxpr of
their own (scan, cond, ...) are counted by those who walk programs.

Floating-point work only: the same operation on integers or booleans is 0 flops.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from tsjax.jaxprs import CASTS, HANDED_ON, REARRANGED, shape_of, size_of


class Work(NamedTuple):
    """Work of one equation.

    Attributes:
      flops: floating-point operations.
      macs: multiply-adds of a dot or a convolution, whatever their dtype; a complex one is 4 real
        ones.
      comparisons: comparisons of a sort, top-k, argmax or max-pool gradient, which are not in
        `flops`.
    """

    flops: int = 0
    macs: int = 0
    comparisons: int = 0


Rule = Callable[[core.JaxprEqn], Work | None]

NO_WORK = Work()


def _is(var: Any, kind: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, kind))


def _unit(var: Any, real: int, complex_: int | None) -> int | None:
    """Cost of one operation on elements of the variable's dtype; None where it is not known."""
    if _is(var, jnp.complexfloating):
        return complex_
    return real if _is(var, jnp.floating) else 0


def _times(operations: int, unit: int | None) -> Work | None:
    return None if unit is None else Work(flops=operations * unit)


def nothing(eqn: core.JaxprEqn) -> Work:
    """Moves, selects, comparisons, conversions, integer and random bits: no flops."""
    del eqn
    return NO_WORK


def elementwise(real: int, complex_: int | None = None) -> Rule:
    """The rule of an operation that costs so much per output element.

    The first operand's dtype decides which price holds, because `abs` of a complex array is real.
    """

    def rule(eqn: core.JaxprEqn) -> Work | None:
        return _times(size_of(eqn.outvars[0]), _unit(eqn.invars[0], real, complex_))

    return rule


def integer_pow(eqn: core.JaxprEqn) -> Work | None:
    """Multiplications of repeated squaring, and a division where the exponent is negative."""
    exponent = abs(int(eqn.params["y"]))
    multiplications = max(0, exponent.bit_length() + exponent.bit_count() - 2)
    inverse = int(eqn.params["y"]) < 0
    unit = _unit(eqn.invars[0], multiplications + inverse, 6 * multiplications + 11 * inverse)
    return _times(size_of(eqn.outvars[0]), unit)


def reduction(real: int, complex_: int | None = None) -> Rule:
    """The rule of a reduction: `n_in - n_out` operations."""

    def rule(eqn: core.JaxprEqn) -> Work | None:
        operations = max(0, size_of(eqn.invars[0]) - size_of(eqn.outvars[0]))
        return _times(operations, _unit(eqn.invars[0], real, complex_))

    return rule


def cumulative(real: int, complex_: int | None = None) -> Rule:
    """The rule of a running reduction: `L - 1` operations per line of length L.

    That is the sequential algorithm; a parallel one that a device runs may do more.
    """

    def rule(eqn: core.JaxprEqn) -> Work | None:
        length = shape_of(eqn.invars[0])[eqn.params["axis"]]
        size = size_of(eqn.invars[0])
        return _times(size - size // max(1, length), _unit(eqn.invars[0], real, complex_))

    return rule


def window(real: int, complex_: int | None = None) -> Rule:
    """The rule of pooling: `window - 1` operations per output element, padded places included."""

    def rule(eqn: core.JaxprEqn) -> Work | None:
        operations = size_of(eqn.outvars[0]) * (window_size(eqn) - 1)
        return _times(operations, _unit(eqn.invars[0], real, complex_))

    return rule


def window_size(eqn: core.JaxprEqn) -> int:
    """Number of places in the window of a pooling primitive."""
    return math.prod(int(n) for n in eqn.params["window_dimensions"])


def turns(eqn: core.JaxprEqn) -> int:
    """How often a reduction by a function of its own runs it: `reduce` and `reduce_window`."""
    if eqn.primitive.name == "reduce_window":
        return size_of(eqn.outvars[0]) * (window_size(eqn) - 1)
    return max(0, size_of(eqn.invars[0]) - size_of(eqn.outvars[0]))


def scatter(real: int, complex_: int | None = None) -> Rule:
    """The rule of a scatter that combines: one operation per update element."""

    def rule(eqn: core.JaxprEqn) -> Work | None:
        return _times(size_of(eqn.invars[2]), _unit(eqn.invars[0], real, complex_))

    return rule


def _multiply_adds(eqn: core.JaxprEqn, macs: int) -> Work:
    out = eqn.outvars[0]
    if _is(out, jnp.complexfloating):
        macs *= 4
    inexact = _is(out, jnp.floating) or _is(out, jnp.complexfloating)
    return Work(flops=2 * macs if inexact else 0, macs=macs)


def dot_general(eqn: core.JaxprEqn) -> Work:
    """2 B M N K flops: batch, the two free sizes, the contracted size; complex 8 B M N K."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = shape_of(eqn.invars[0])
    depth = math.prod(lhs[axis] for axis in contracted)
    return _multiply_adds(eqn, size_of(eqn.outvars[0]) * depth)


def conv_general_dilated(eqn: core.JaxprEqn) -> Work:
    """2 x outputs x kernel places x (in features / groups) flops.

    Every tap of every output counts as executed, those that fall on padding or between dilated
    inputs too: that is what a dense convolution does. XLA's own estimate leaves those taps out.
    """
    kernel = shape_of(eqn.invars[1])
    out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(kernel) // max(1, out_features)
    return _multiply_adds(eqn, size_of(eqn.outvars[0]) * taps)


def fft(eqn: core.JaxprEqn) -> Work:
    """5 N log2 N flops per complex transform, half of it where one side is real.

    N is the number of points of one transform (the product of the lengths of a transform over
    several axes). This is the customary figure for a radix-2 algorithm, used for any N.
    """
    lengths = [int(n) for n in eqn.params["fft_lengths"]]
    points = math.prod(lengths)
    batch = math.prod(shape_of(eqn.invars[0])[: -len(lengths)])
    factor = 2.5 if eqn.params["fft_type"].name in ("RFFT", "IRFFT") else 5.0
    return Work(flops=batch * round(factor * points * math.log2(max(1, points))))


def sort(eqn: core.JaxprEqn) -> Work:
    """`L ceil(log2 L)` comparisons per line of length L, as in a merge sort."""
    length = shape_of(eqn.invars[0])[eqn.params["dimension"]]
    return Work(comparisons=size_of(eqn.invars[0]) * math.ceil(math.log2(max(1, length))))


def top_k(eqn: core.JaxprEqn) -> Work:
    """`L ceil(log2 (k + 1))` comparisons per line of length L, as with a heap of the k best."""
    return Work(comparisons=size_of(eqn.invars[0]) * math.ceil(math.log2(eqn.params["k"] + 1)))


def argmax(eqn: core.JaxprEqn) -> Work:
    """`n_in - n_out` comparisons."""
    return Work(comparisons=max(0, size_of(eqn.invars[0]) - size_of(eqn.outvars[0])))


def select_and_scatter_add(eqn: core.JaxprEqn) -> Work | None:
    """Gradient of max pooling: finds each window's maximum again, then adds one element to it."""
    windows = size_of(eqn.invars[0])
    unit = _unit(eqn.invars[0], 1, None)
    if unit is None:
        return None
    return Work(flops=windows * unit, comparisons=windows * (window_size(eqn) - 1))


# {name: (flops per real element, flops per complex element or None where there is no rule)}
_ELEMENTWISE: dict[str, tuple[int, int | None]] = {
    "add": (1, 2),
    "add_any": (1, 2),
    "sub": (1, 2),
    "mul": (1, 6),
    "div": (1, 11),
    "neg": (1, 2),
    "square": (1, 6),
    "abs": (1, 4),
    "conj": (0, 1),
    "exp": (1, 5),
    "log": (1, 6),
    # As (exp(2 z) - 1) / (exp(2 z) + 1).
    "tanh": (1, 20),
    "clamp": (2, None),
} | dict.fromkeys(
    (
        *("max", "min", "rem", "sign", "floor", "ceil", "round", "pow", "atan2"),
        *("sqrt", "rsqrt", "cbrt", "exp2", "expm1", "log1p", "logistic"),
        *("sin", "cos", "tan", "asin", "acos", "atan"),
        *("sinh", "cosh", "asinh", "acosh", "atanh"),
        *("erf", "erfc", "erf_inv", "lgamma", "digamma"),
    ),
    (1, None),
)

_NOTHING = (
    *("eq", "ne", "lt", "le", "gt", "ge", "eq_to", "le_to", "lt_to", "is_finite"),
    *("and", "or", "not", "xor", "reduce_and", "reduce_or", "reduce_xor"),
    *("shift_left", "shift_right_arithmetic", "shift_right_logical", "population_count", "clz"),
    *(*HANDED_ON, *REARRANGED, *CASTS, "bitcast_convert_type", "nextafter"),
    *("dynamic_update_slice", "gather", "scatter", "iota", "empty"),
    *("real", "imag", "complex", "create_token", "after_all"),
    *("random_bits", "random_seed", "random_split", "random_fold_in", "random_clone"),
    *("random_wrap", "random_unwrap", "threefry2x32", "rng_bit_generator", "rng_uniform"),
    *("debug_callback", "debug_print", "platform_index"),
)

RULES: dict[str, Rule] = {
    **{name: elementwise(*prices) for name, prices in _ELEMENTWISE.items()},
    **dict.fromkeys(_NOTHING, nothing),
    "integer_pow": integer_pow,
    "reduce_sum": reduction(1, 2),
    "reduce_prod": reduction(1, 6),
    "reduce_max": reduction(1),
    "reduce_min": reduction(1),
    "cumsum": cumulative(1, 2),
    "cumprod": cumulative(1, 6),
    "cummax": cumulative(1),
    "cummin": cumulative(1),
    "reduce_window_sum": window(1, 2),
    "reduce_window_max": window(1),
    "reduce_window_min": window(1),
    "scatter-add": scatter(1, 2),
    "scatter-sub": scatter(1, 2),
    "scatter-mul": scatter(1, 6),
    "scatter-max": scatter(1),
    "scatter-min": scatter(1),
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
    "fft": fft,
    "sort": sort,
    "top_k": top_k,
    "argmax": argmax,
    "argmin": argmax,
    "select_and_scatter_add": select_and_scatter_add,
}
