"""Compares a program that was traced with other sizes with the one that was followed."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.linear_util import WrappedFun

from tsjax.jaxprs import shape_of
from tsjax.structure import axes
from tsjax.structure.axes import Dim
from tsjax.structure.equations import Axes, Equation, Followed, Reason
from tsjax.structure.following import bodies_of, subscripts


class DiffersError(Exception):
    """Two programs part.

    Attributes:
      reason: where, and how.
    """

    def __init__(self, equation: Equation | None, detail: str) -> None:
        line, name = (equation.line, equation.name) if equation else ("", "program")
        self.reason = Reason("size", line=line, detail=f"{name} {detail}")
        super().__init__(str(self.reason))


def check(followed: Followed, other: core.ClosedJaxpr, sizes: Mapping[Dim, int]) -> None:
    """Checks that a program is the one that was followed, with these sizes.

    Primitives, parameters, shapes, dtypes, constants and what flows where must be the same,
    equation for equation. Numbers with a fraction may differ, as the divisor of a mean does.

    Args:
      followed: the program of the function.
      other: the program traced with smaller shapes.
      sizes: the dims that have another size, and which.

    Raises:
      DiffersError: where they part.
    """

    def shape(found: Axes) -> tuple[int, ...]:
        return tuple(axes.size_in(axis, sizes) for axis in found)

    jaxpr = other.jaxpr
    if len(followed.consts) != len(other.consts):
        raise DiffersError(None, f"has {len(other.consts)} constants, not {len(followed.consts)}")
    for (value, found), new in zip(followed.consts, other.consts, strict=True):
        _check_constant(value, new, shape(found), None)
    same: dict[Any, Any] = dict(zip(followed.jaxpr.constvars, jaxpr.constvars, strict=True))
    same.update(zip(followed.jaxpr.invars, jaxpr.invars, strict=True))
    equations = iter(followed.equations)
    ours, theirs = _runs([equation.eqn for equation in followed.equations]), _runs(jaxpr.eqns)
    for run, other_run in zip(ours, theirs, strict=False):
        taken = [next(equations) for _ in run]
        if subscripts(run[0]) and subscripts(run[0]) == subscripts(other_run[0]):
            _check_einsum(taken, other_run, same, shape)
            continue
        _check_equation(taken[0], other_run[0], same, shape, sizes)
    if len(ours) != len(theirs):
        last = followed.equations[-1] if followed.equations else None
        count = f"{len(jaxpr.eqns)} equations, not {len(followed.equations)}"
        raise DiffersError(last, f"ends a program that has {count}")
    for var, new in zip(followed.jaxpr.outvars, jaxpr.outvars, strict=True):
        if isinstance(var, core.Literal) and isinstance(new, core.Literal):
            _check_constant(var.val, new.val, jnp.shape(var.val), None)
        elif isinstance(var, core.Literal) or same[var] is not new:
            raise DiffersError(None, "returns something else")


def _check_equation(
    equation: Equation,
    eqn: core.JaxprEqn,
    same: dict[Any, Any],
    shape: Callable[[Axes], tuple[int, ...]],
    sizes: Mapping[Dim, int],
) -> None:
    if equation.name != eqn.primitive.name:
        raise DiffersError(equation, f"is followed by {eqn.primitive.name} in its place")
    if len(equation.eqn.invars) != len(eqn.invars) or len(equation.outs) != len(eqn.outvars):
        raise DiffersError(equation, "has another number of operands or results")
    for var, new, found in zip(equation.eqn.invars, eqn.invars, equation.ins, strict=True):
        if isinstance(var, core.Literal) and isinstance(new, core.Literal):
            _check_constant(var.val, new.val, shape(found), equation)
        elif isinstance(var, core.Literal) or same[var] is not new:
            raise DiffersError(equation, "has other operands")
    for var, new, found in zip(equation.eqn.outvars, eqn.outvars, equation.outs, strict=True):
        now, before = (getattr(v.aval, "dtype", None) for v in (new, var))
        if now != before:
            raise DiffersError(equation, f"gives {now}, not {before}")
        if shape_of(new) != shape(found):
            have, want = list(shape_of(new)), list(shape(found))
            raise DiffersError(equation, f"gives shape {have} where {want} follows")
        same[var] = new
    _check_params(equation, eqn, sizes)
    for body, inner in zip(equation.bodies, bodies_of(eqn), strict=True):
        check(body, inner, sizes)


def _check_einsum(
    equations: Sequence[Equation],
    run: Sequence[core.JaxprEqn],
    same: dict[Any, Any],
    shape: Callable[[Axes], tuple[int, ...]],
) -> None:
    """An einsum multiplies in the order that is cheapest for its sizes; its ends must agree."""
    shapes = {
        var: shape(found)
        for equation in equations
        for var, found in zip(equation.eqn.outvars, equation.outs, strict=True)
    }
    (read, made), (now_read, now_made) = _ends_of([s.eqn for s in equations]), _ends_of(run)
    if {same[var] for var in read} != set(now_read) or len(made) != len(now_made):
        raise DiffersError(equations[0], "has other operands")
    for var, new in zip(made, now_made, strict=True):
        if shape_of(new) != shapes[var] or new.aval.dtype != var.aval.dtype:
            raise DiffersError(equations[-1], f"gives {new.aval} where {list(shapes[var])} follows")
        same[var] = new


def _runs(eqns: Sequence[core.JaxprEqn]) -> list[list[core.JaxprEqn]]:
    """The equations one by one, but those of one einsum together."""
    keys = [subscripts(eqn) or str(i) for i, eqn in enumerate(eqns)]
    runs = groupby(zip(keys, eqns, strict=True), itemgetter(0))
    return [[eqn for _, eqn in run] for _, run in runs]


def _ends_of(run: Sequence[core.JaxprEqn]) -> tuple[list[Any], list[Any]]:
    """The variables that equations read from elsewhere, and those that they do not use up."""
    read = [v for eqn in run for v in eqn.invars if not isinstance(v, core.Literal)]
    made = [v for eqn in run for v in eqn.outvars]
    used, own = set(read), set(made)
    return [v for v in read if v not in own], [v for v in made if v not in used]


def check_outputs(followed: Followed, other: core.ClosedJaxpr) -> None:
    """Checks that a program gives what the one that was followed gives, in shape and dtype.

    Raises:
      DiffersError: if it does not.
    """
    have, want = ([v.aval for v in jaxpr.outvars] for jaxpr in (other.jaxpr, followed.jaxpr))
    if have != want:
        raise DiffersError(None, f"returns {have} where {want} follow")


def _check_constant(
    value: Any, new: Any, shape: tuple[int, ...], equation: Equation | None
) -> None:
    if jnp.shape(new) != shape:
        raise DiffersError(
            equation, f"has a constant of shape {list(jnp.shape(new))}, not {list(shape)}"
        )
    if new is value or (not shape and isinstance(new, float | np.floating)):
        return
    dtype = getattr(new, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return
    if not shape and jnp.issubdtype(jnp.result_type(new), jnp.inexact):
        return
    old, now = np.asarray(value), np.asarray(new)
    both = [x for x in (old, now) if x.size and x.dtype.kind in "fc" and (x == x.flat[0]).all()]
    if len(both) == 2:
        return
    for at, size in enumerate(shape):
        if old.shape[at] != size:
            # It is the same all along this axis.
            old = old.take(np.zeros(size, int), at)
    if not np.array_equal(old, now, equal_nan=old.dtype.kind in "fc"):
        what = f"the constant {now} in place of {old}" if now.ndim == 0 else "other constants"
        raise DiffersError(equation, f"has {what}")


def _check_params(equation: Equation, eqn: core.JaxprEqn, sizes: Mapping[Dim, int]) -> None:
    for name, old in equation.eqn.params.items():
        new = eqn.params.get(name)
        if name in equation.sized:
            expected = _expected(equation.sized[name], sizes)
            if _plain(new) != expected:
                raise DiffersError(equation, f"has {name}={_plain(new)} where {expected} follows")
        elif new is not old and not _alike(old, new):
            raise DiffersError(equation, f"has {name}={new} in place of {old}")


def _expected(value: Any, sizes: Mapping[Dim, int]) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_expected(item, sizes) for item in value)
    if isinstance(value, axes.Dim | axes.Product | axes.Sum):
        return axes.size_in(value, sizes)
    return value


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _alike(old: Any, new: Any) -> bool:
    """Whether two parameters agree; programs are compared apart, functions cannot be."""
    if isinstance(old, core.Jaxpr | core.ClosedJaxpr | WrappedFun) or callable(old):
        return True
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        return len(old) == len(new) and all(map(_alike, old, new))
    same = old == new
    return same if isinstance(same, bool) else bool(np.all(same))
