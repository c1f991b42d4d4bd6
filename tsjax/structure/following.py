"""Follows axes through a program."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from tsjax.jaxprs import CALLS, bodies
from tsjax.structure import axes
from tsjax.structure.axes import Axis, Dim
from tsjax.structure.equations import Axes, Equation, Followed, Reason
from tsjax.structure.primitives import PRIMITIVES, UNKNOWN


def follow(
    program: core.ClosedJaxpr, ins: Sequence[Axes], outer: Equation | None = None
) -> Followed:
    """Follows axes through a program.

    Args:
      program: what to follow.
      ins: the axes of its inputs.
      outer: the equation that holds the program, if any.
    """
    jaxpr = program.jaxpr
    consts = [(value, _axes_of_constant(value)) for value in program.consts]
    known: dict[Any, Axes] = dict(zip(jaxpr.invars, ins, strict=True))
    known.update(zip(jaxpr.constvars, (found for _, found in consts), strict=True))

    def look_up(var: Any) -> Axes:
        return _axes_of_constant(var.val) if isinstance(var, core.Literal) else known[var]

    equations = []
    for eqn in jaxpr.eqns:
        equation = Equation(eqn, [look_up(var) for var in eqn.invars], outer)
        if inner := bodies_of(eqn):
            equation.outs, equation.bodies = _NESTED[equation.name](equation, inner)
        else:
            equation.outs = PRIMITIVES.get(equation.name, UNKNOWN).axes(equation)
        known.update(zip(eqn.outvars, equation.outs, strict=True))
        equations.append(equation)
    return Followed(jaxpr, consts, list(ins), [look_up(var) for var in jaxpr.outvars], equations)


def _axes_of_constant(value: Any) -> Axes:
    """Frozen axes, but for those along which the constant is the same everywhere."""
    shape = jnp.shape(value)
    if not shape:
        return ()
    found: list[Axis] = []
    for at, size in enumerate(shape):
        reason = Reason("constant", axis=at, detail=f"an array of shape {list(shape)}")
        found.append(axes.ONE if size == 1 else Dim(size, None if _uniform(value, at) else reason))
    return tuple(found)


def _uniform(value: Any, axis: int) -> bool:
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return False
    array = np.asarray(value)
    return bool(array.size) and bool((array == array.take([0], axis)).all())


# Programs within equations.


def _call(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Followed]]:
    """A program that runs once."""
    body = follow(inner[0], equation.ins, equation)
    return body.outs, [body]


def _scan(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Followed]]:
    """What is scanned or stacked has one place per turn; what is carried agrees in all turns."""
    first = equation.params["num_consts"] + equation.params["num_carry"]
    for operand in range(first, len(equation.ins)):
        equation.freeze(operand, 0, "it is scanned over")
    ins = equation.ins[:first] + [found[1:] for found in equation.ins[first:]]
    body = follow(inner[0], ins, equation)
    carry = ins[equation.params["num_consts"] : first]
    _agree(equation, carry, body.outs[: len(carry)])
    turns = equation.fixed(equation.params["length"], "it is scanned over")
    return [*carry, *((turns, *found) for found in body.outs[len(carry) :])], [body]


def _while(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Followed]]:
    """What is carried agrees in all turns."""
    n_cond = equation.params["cond_nconsts"]
    first = n_cond + equation.params["body_nconsts"]
    carry = equation.ins[first:]
    condition = follow(inner[0], [*equation.ins[:n_cond], *carry], equation)
    body = follow(inner[1], equation.ins[n_cond:], equation)
    _agree(equation, carry, body.outs)
    return carry, [condition, body]


def _cond(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Followed]]:
    """All branches give results with the same axes."""
    branches = [follow(branch, equation.ins[1:], equation) for branch in inner]
    for other in branches[1:]:
        _agree(equation, branches[0].outs, other.outs)
    return branches[0].outs, branches


def _agree(equation: Equation, some: Sequence[Axes], others: Sequence[Axes]) -> None:
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            equation.same(a, b)


_Nested = Callable[[Equation, list[core.ClosedJaxpr]], tuple[list[Axes], list[Followed]]]

_NESTED: dict[str, _Nested] = {
    **dict.fromkeys(CALLS, _call),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


def bodies_of(eqn: core.JaxprEqn) -> list[core.ClosedJaxpr]:
    """The programs in an equation that are followed: none where a rule says what becomes of it."""
    return [] if eqn.primitive.name in PRIMITIVES else bodies(eqn)


def all_equations(followed: Followed) -> Iterator[Equation]:
    """The equations of a program and of those within."""
    for equation in followed.equations:
        yield equation
        for body in equation.bodies:
            yield from all_equations(body)


def subscripts(eqn: core.JaxprEqn) -> str:
    """The subscripts of the ``jnp.einsum`` of three operands or more that made an equation.

    An einsum names a scope after them; what is no product or sum there is somebody else's.
    """
    made = eqn.primitive.name in _PRODUCTS
    return _subscripts_in(eqn.source_info.name_stack) if made else ""


@functools.lru_cache(4096)
def _subscripts_in(name_stack: Any) -> str:
    specs = map(_EINSUM.search, str(name_stack).split("/"))
    return next((spec.group() for spec in specs if spec), "")


_EINSUM = re.compile(r"[\w.]*,[\w.]*(,[\w.]*)+->[\w.]*")
_PRODUCTS = frozenset({
    "dot_general", "mul", "reduce_sum", "transpose", "broadcast_in_dim", "convert_element_type",
    "reshape", "squeeze",
})  # fmt: skip


def dims_read(followed: Followed) -> set[Dim]:
    """The dims over which a program sums, takes the maximum, or the like.

    What is only sliced off is not read, nor is what no equation touches.
    """
    found: set[Dim] = set()
    for equation in all_equations(followed):
        if not equation.bodies and equation.name != "slice":
            found |= equation.gone
    return found
