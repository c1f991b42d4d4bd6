"""Follows axes through a program, and compares a program with what was followed."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.linear_util import WrappedFun

from tsjax.structure import axes
from tsjax.structure.axes import Axis, Dim
from tsjax.structure.equations import Axes, Equation, Reason
from tsjax.structure.rules import RULES, unknown
from tsjax.work import shape_of


@dataclass
class Step:
    """An equation that was followed.

    Attributes:
      equation: the equation, with the axes of its operands.
      outs: axes of its results.
      bodies: the programs in it, followed for this equation.
    """

    equation: Equation
    outs: list[Axes]
    bodies: list["Program"]

    @property
    def eqn(self) -> core.JaxprEqn:
        """What was followed."""
        return self.equation.eqn

    @property
    def ins(self) -> list[Axes]:
        """Axes of the operands."""
        return self.equation.ins


@dataclass
class Program:
    """A program that was followed.

    Attributes:
      jaxpr: the program.
      consts: values and axes of its constants.
      ins: axes of its inputs.
      outs: axes of its outputs.
      steps: its equations.
    """

    jaxpr: core.Jaxpr
    consts: list[tuple[Any, Axes]]
    ins: list[Axes]
    outs: list[Axes]
    steps: list[Step]


def closed(jaxpr: Any) -> core.ClosedJaxpr:
    """The program as one that brings its constants along."""
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def follow(
    program: core.ClosedJaxpr, ins: Sequence[Axes], outer: Equation | None = None
) -> Program:
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

    steps = []
    for eqn in jaxpr.eqns:
        equation = Equation(eqn, [look_up(var) for var in eqn.invars], outer)
        inner = bodies_of(eqn)
        if inner is None:
            outs, bodies = RULES.get(equation.name, unknown)(equation), list[Program]()
        else:
            outs, bodies = _NESTED[equation.name](equation, inner)
        known.update(zip(eqn.outvars, outs, strict=True))
        steps.append(Step(equation, outs, bodies))
    return Program(jaxpr, consts, list(ins), [look_up(var) for var in jaxpr.outvars], steps)


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


def _call(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Program]]:
    """A program that runs once."""
    body = follow(inner[0], equation.ins, equation)
    return body.outs, [body]


def _scan(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Program]]:
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


def _while(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Program]]:
    """What is carried agrees in all turns."""
    n_cond = equation.params["cond_nconsts"]
    first = n_cond + equation.params["body_nconsts"]
    carry = equation.ins[first:]
    condition = follow(inner[0], [*equation.ins[:n_cond], *carry], equation)
    body = follow(inner[1], equation.ins[n_cond:], equation)
    _agree(equation, carry, body.outs)
    return carry, [condition, body]


def _cond(equation: Equation, inner: list[core.ClosedJaxpr]) -> tuple[list[Axes], list[Program]]:
    """All branches give results with the same axes."""
    branches = [follow(branch, equation.ins[1:], equation) for branch in inner]
    for other in branches[1:]:
        _agree(equation, branches[0].outs, other.outs)
    return branches[0].outs, branches


def _agree(equation: Equation, some: Sequence[Axes], others: Sequence[Axes]) -> None:
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            equation.same(a, b)


_Nested = Callable[[Equation, list[core.ClosedJaxpr]], tuple[list[Axes], list[Program]]]

_NESTED: dict[str, _Nested] = {
    **dict.fromkeys(
        (
            *("jit", "pjit", "remat", "remat2", "checkpoint", "composite", "closed_call"),
            *("core_call", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"),
        ),
        _call,
    ),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}

_WHERE = {"while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


def bodies_of(eqn: core.JaxprEqn) -> list[core.ClosedJaxpr] | None:
    """The programs in an equation, None for a primitive that has none that can be followed."""
    name = eqn.primitive.name
    if name not in _NESTED or name in RULES:
        return None
    found = list[Any]()
    for key in _WHERE.get(name, ("jaxpr", "call_jaxpr", "call")):
        value = eqn.params.get(key)
        found += [] if value is None else value if isinstance(value, tuple) else [value]
    return [closed(jaxpr) for jaxpr in found] or None


def all_steps(program: Program) -> Iterator[Step]:
    """The equations of a program and of those within."""
    for step in program.steps:
        yield step
        for body in step.bodies:
            yield from all_steps(body)


def dims_read(program: Program) -> set[Dim]:
    """The dims over which a program sums, takes the maximum, or the like.

    What is only sliced off is not read, nor is what no equation touches.
    """
    found: set[Dim] = set()
    for step in program.steps:
        for body in step.bodies:
            found |= dims_read(body)
        if not step.bodies and step.eqn.primitive.name != "slice":
            left, gone = (
                {dim for each in arrays for axis in each for dim in axes.dims(axis)}
                for arrays in (step.outs, step.ins)
            )
            found |= gone - left
    return found


# A program traced with other sizes.


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
    for body, inner in zip(step.bodies, bodies_of(eqn) or (), strict=True):
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
        if shape_of(new) != shapes[var]:
            raise DiffersError(steps[-1], f"gives shape {list(shape_of(new))}")
        same[var] = new


def subscripts(eqn: core.JaxprEqn) -> str:
    """The subscripts of the ``jnp.einsum`` of three operands or more that made an equation."""
    return _subscripts_in(eqn.source_info.name_stack)


@functools.lru_cache(4096)
def _subscripts_in(name_stack: Any) -> str:
    specs = map(_EINSUM.search, str(name_stack).split("/"))
    return next((spec.group() for spec in specs if spec), "")


_EINSUM = re.compile(r"[\w.]*,[\w.]*(,[\w.]*)+->[\w.]*")


def _runs(eqns: Sequence[core.JaxprEqn]) -> list[list[core.JaxprEqn]]:
    """The equations one by one, but those of one einsum together."""
    keys = [subscripts(eqn) or str(i) for i, eqn in enumerate(eqns)]
    return [[eqn for _, eqn in run] for _, run in groupby(zip(keys, eqns, strict=True), _first)]


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


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
