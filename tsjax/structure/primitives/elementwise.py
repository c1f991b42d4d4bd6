"""Primitives that work element by element, and those that hand their operands on."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.jaxprs import CASTS, HANDED_ON, bind
from tsjax.structure.equations import Axes, Equation
from tsjax.structure.primitives.record import (
    Fact,
    Primitive,
    ZerosRule,
    anything,
    reads_nothing,
    shared,
    unchanged,
)
from tsjax.structure.units import Filled

# Axes.


def _each_place(eqn: Equation) -> list[Axes]:
    """Every place of the result depends on the same place of the operands."""
    return [shared(eqn, shape, eqn.ins) for shape in eqn.out_shapes]


def _handed_on(eqn: Equation) -> list[Axes]:
    """Every operand is handed on."""
    return list(eqn.ins)


def _looked_at(eqn: Equation) -> list[Axes]:
    """Looks at its operands, and changes nothing."""
    return [tuple(eqn.new(size) for size in shape) for shape in eqn.out_shapes]


def _bitcast(eqn: Equation) -> list[Axes]:
    """A change of width adds an axis at the end, or takes it away."""
    (found,), (shape,) = eqn.ins, eqn.out_shapes
    if len(shape) > len(found):
        return [(*found, eqn.fixed(shape[-1], "the pieces of one number"))]
    if len(shape) < len(found):
        eqn.freeze(0, len(found) - 1, "the pieces of one number")
    return [found[: len(shape)]]


# Zeros.


def _evaluated(zero_where: Callable[[Equation, Sequence[Filled]], Filled] | None) -> ZerosRule:
    """Where each operand is zero or a known number, the primitive itself says what comes of it.

    Args:
      zero_where: for primitives that make zeros of some zeros, whatever the other operands are:
        where the result may be other than zero.
    """

    def zeros(eqn: Equation, ins: Sequence[Fact]) -> list[Fact]:
        loose = [fact.filled for fact in ins if fact.value is None]
        somewhere = np.zeros((1,) * len(eqn.outs[0]), bool)
        for each in loose:
            somewhere = somewhere | each
        results = None if somewhere.all() else _results(eqn, [fact.value for fact in ins])
        found = []
        for i in range(len(eqn.outs)):
            filled, value = np.ones_like(somewhere), None
            if results is not None and results[i] == results[i]:  # A NaN is not.
                value = None if loose else results[i]
                filled = somewhere if results[i] == 0 else filled
            if zero_where:
                filled = filled & zero_where(eqn, [fact.filled for fact in ins])
            found.append(Fact(filled, value))
        return found

    return zeros


def _results(eqn: Equation, values: Sequence[Any]) -> list[Any] | None:
    """What the primitive makes of these numbers, None standing for zero."""
    avals: list[Any] = [var.aval for var in eqn.eqn.invars]
    if any(map(_is_key, avals)):
        return None
    numbers = [
        np.asarray(0 if value is None else value, aval.dtype)
        for aval, value in zip(avals, values, strict=True)
    ]
    # What a primitive does not do for single numbers, as constrain their sharding, is not known.
    try:
        outs = bind(eqn.eqn, *numbers)
    except Exception:
        return None
    return None if any(map(_is_key, outs)) else [np.asarray(each)[()] for each in outs]


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.extended)


def _product(_: Equation, ins: Sequence[Filled]) -> Filled:
    """Zero where one factor is."""
    return ins[0] & ins[1]


def _quotient(eqn: Equation, ins: Sequence[Filled]) -> Filled:
    """Zero where the numerator is; of integers, zero by zero is something."""
    return ins[0] if jnp.issubdtype(eqn.dtype, jnp.inexact) else np.ones_like(ins[0])


def _selected(_: Equation, ins: Sequence[Filled]) -> Filled:
    """The first case where the choice is zero."""
    which, first, *others = ins
    for other in others:
        first = first | (which & other)
    return first


_PLAIN = (
    *("abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atanh", "bessel_i0e"),
    *("bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "cos", "cosh", "digamma"),
    *("eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt"),
    *("igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le", "le_to"),
    *("lgamma", "log", "log1p", "logistic", "lt", "lt_to", "max", "min", "mulhi", "ne", "neg"),
    *("not", "or", "polygamma", "population_count", "pow", "random_clone", "random_fold_in"),
    *("random_gamma", "real", "regularized_incomplete_beta", "rem", "round", "rsqrt", "shift_left"),
    *("shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square"),
    *("sub", "tan", "tanh", "threefry2x32", "xor", "zeta"),
)

ELEMENTWISE: dict[str, Primitive] = {
    **dict.fromkeys((*_PLAIN, *CASTS), Primitive(_each_place, _evaluated(None))),
    **dict.fromkeys(("mul", "and"), Primitive(_each_place, _evaluated(_product))),
    "div": Primitive(_each_place, _evaluated(_quotient)),
    "select_n": Primitive(_each_place, _evaluated(_selected)),
    # What they make of a zero depends on its sign.
    **dict.fromkeys(("atan2", "nextafter"), Primitive(_each_place, anything)),
    **dict.fromkeys(HANDED_ON, Primitive(_handed_on, unchanged)),
    **dict.fromkeys(
        ("debug_callback", "debug_print", "after_all", "create_token"),
        Primitive(_looked_at, anything, reads_nothing),
    ),
    "bitcast_convert_type": Primitive(_bitcast, anything),
}
