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
from tsjax.structure.equations import Axes, Reason
from tsjax.structure.programs import Program, Step, bodies_of, subscripts


class DiffersError(Exception):
    """Two programs part.

    Attributes:
      reason: where, and how.
    """

    def __init__(self, step: Step | None, detail: str) -> None:
        line, name = (step.equation.line, step.equation.name) if step else ("", "program")
        self.reason = Reason("size", line=line, detail=f"{name} {detail}")
        super().__init__(str(self.reason))


def check(program: Program, other: core.ClosedJaxpr, sizes: Mapping[Dim, int]) -> None:
    """Checks that a program is the one that was followed, with these sizes.

    Primitives, parameters, shapes, dtypes, constants and what flows where must be the same,
    equation for equation. Numbers with a fraction may differ, as the divisor of a mean does.

    Args:
      program: what was followed.
      other: the program traced with smaller shapes.
      sizes: the dims that have another size, and which.

    Raises:
      DiffersError: where they part.
    """

    def shape(found: Axes) -> tuple[int, ...]:
        return tuple(axes.size_in(axis, sizes) for axis in found)

    jaxpr = other.jaxpr
    if len(program.consts) != len(other.consts):
        raise DiffersError(None, f"has {len(other.consts)} constants, not {len(program.consts)}")
    for (value, found), new in zip(program.consts, other.consts, strict=True):
        _check_constant(value, new, shape(found), None)
    same: dict[Any, Any] = dict(zip(program.jaxpr.constvars, jaxpr.constvars, strict=True))
    same.update(zip(program.jaxpr.invars, jaxpr.invars, strict=True))
    steps = iter(program.steps)
    ours, theirs = _runs([step.eqn for step in program.steps]), _runs(jaxpr.eqns)
    for run, other_run in zip(ours, theirs, strict=False):
        taken = [next(steps) for _ in run]
        if subscripts(run[0]) and subscripts(run[0]) == subscripts(other_run[0]):
            _check_einsum(taken, other_run, same, shape)
            continue
        _check_step(taken[0], other_run[0], same, shape, sizes)
    if len(ours) != len(theirs):
        last = program.steps[-1] if program.steps else None
        count = f"{len(jaxpr.eqns)} equations, not {len(program.steps)}"
        raise DiffersError(last, f"ends a program that has {count}")
    for var, new in zip(program.jaxpr.outvars, jaxpr.outvars, strict=True):
        if isinstance(var, core.Literal) and isinstance(new, core.Literal):
            _check_constant(var.val, new.val, jnp.shape(var.val), None)
        elif isinstance(var, core.Literal) or same[var] is not new:
            raise DiffersError(None, "returns something else")


def _check_step(
    step: Step,
    eqn: core.JaxprEqn,
    same: dict[Any, Any],
    shape: Callable[[Axes], tuple[int, ...]],
    sizes: Mapping[Dim, int],
) -> None:
    if step.eqn.primitive.name != eqn.primitive.name:
        raise DiffersError(step, f"is followed by {eqn.primitive.name} in its place")
    if len(step.eqn.invars) != len(eqn.invars) or len(step.outs) != len(eqn.outvars):
        raise DiffersError(step, "has another number of operands or results")
    for var, new, found in zip(step.eqn.invars, eqn.invars, step.ins, strict=True):
        if isinstance(var, core.Literal) and isinstance(new, core.Literal):
            _check_constant(var.val, new.val, shape(found), step)
        elif isinstance(var, core.Literal) or same[var] is not new:
            raise DiffersError(step, "has other operands")
    for var, new, found in zip(step.eqn.outvars, eqn.outvars, step.outs, strict=True):
        now, before = (getattr(v.aval, "dtype", None) for v in (new, var))
        if now != before:
            raise DiffersError(step, f"gives {now}, not {before}")
        if shape_of(new) != shape(found):
            have, want = list(shape_of(new)), list(shape(found))
            raise DiffersError(step, f"gives shape {have} where {want} follows")
        same[var] = new
    _check_params(step, eqn, sizes)
    for body, inner in zip(step.bodies, bodies_of(eqn), strict=True):
        check(body, inner, sizes)


def _check_einsum(
    steps: Sequence[Step],
    run: Sequence[core.JaxprEqn],
    same: dict[Any, Any],
    shape: Callable[[Axes], tuple[int, ...]],
) -> None:
    """An einsum multiplies in the order that is cheapest for its sizes; its ends must agree."""
    shapes = {
        var: shape(found)
        for step in steps
        for var, found in zip(step.eqn.outvars, step.outs, strict=True)
    }
    (read, made), (now_read, now_made) = _ends_of([s.eqn for s in steps]), _ends_of(run)
    if {same[var] for var in read} != set(now_read) or len(made) != len(now_made):
        raise DiffersError(steps[0], "has other operands")
    for var, new in zip(made, now_made, strict=True):
        if shape_of(new) != shapes[var] or new.aval.dtype != var.aval.dtype:
            raise DiffersError(steps[-1], f"gives {new.aval} where {list(shapes[var])} follows")
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


def check_outputs(program: Program, other: core.ClosedJaxpr) -> None:
    """Checks that a program gives what the one that was followed gives, in shape and dtype.

    Raises:
      DiffersError: if it does not.
    """
    have, want = ([v.aval for v in jaxpr.outvars] for jaxpr in (other.jaxpr, program.jaxpr))
    if have != want:
        raise DiffersError(None, f"returns {have} where {want} follow")


def _check_constant(value: Any, new: Any, shape: tuple[int, ...], step: Step | None) -> None:
    if jnp.shape(new) != shape:
        raise DiffersError(
            step, f"has a constant of shape {list(jnp.shape(new))}, not {list(shape)}"
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
        raise DiffersError(step, f"has {what}")


def _check_params(step: Step, eqn: core.JaxprEqn, sizes: Mapping[Dim, int]) -> None:
    for name, old in step.eqn.params.items():
        new = eqn.params.get(name)
        if name in step.equation.sized:
            expected = _expected(step.equation.sized[name], sizes)
            if _plain(new) != expected:
                raise DiffersError(step, f"has {name}={_plain(new)} where {expected} follows")
        elif new is not old and not _alike(old, new):
            raise DiffersError(step, f"has {name}={new} in place of {old}")


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
