"""Where the arrays of a followed program are zero, whatever its inputs are.

Leaves and constants say where they are zero, and every equation hands that on by the rule of its
primitive. An array of bools says for each place of an array whether it may be other than zero,
``filled``. An axis along which nothing can be cut may have one place there, filled if any of its
own is. A product is zero where one factor is, which takes the other to be finite. Of a primitive
without a rule nothing is known: its results are filled.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from tsjax.jaxprs import bind, needed
from tsjax.structure import rules
from tsjax.structure.axes import Axis, Dim, dims
from tsjax.structure.equations import Axes
from tsjax.structure.programs import Program, Step
from tsjax.structure.zero_rules import ALONG, RULES, Filled, dtype_of, expanded, merged


@dataclass(frozen=True)
class Fact:
    """What is known of an array.

    Attributes:
      filled: where it may be other than zero.
      value: the number that it is everywhere, None where there is none.
    """

    filled: Filled
    value: Any = None


# Of axes that stay as they are, those with few places may be parts that are told apart, as queries,
# keys and values in one leaf.
_FEW = 64


class Zeros:
    """What is known of all arrays of a program.

    Attributes:
      sites: the equations that are followed and needed, and where their operands are filled.
      opaque: those of which nothing is known.
    """

    sites: list[tuple[Step, list[Filled]]]
    opaque: list[Step]

    def __init__(self, program: Program, leaves: Iterable[Any], cut: Iterable[Dim]) -> None:
        """Follows zeros through a program.

        Args:
          program: a function's, followed.
          leaves: its first inputs, as values; the others may be anything.
          cut: the dims whose units can go.
        """
        self._cut = frozenset(cut)
        self._sites: dict[int, tuple[Step, list[Filled]]] = {}
        self._opaque: dict[int, Step] = {}
        given = [*leaves]
        ins = [self._constant(x, at) for x, at in zip(given, program.ins, strict=False)]
        ins = [Fact(fact.filled) for fact in ins] + [
            self._anything(at) for at in program.ins[len(given) :]
        ]
        self._follow(program, ins, [True] * len(program.outs))
        self.sites, self.opaque = [*self._sites.values()], [*self._opaque.values()]

    def open(self, axis: Axis) -> bool:
        """Whether units can go along an axis."""
        return any(dim in self._cut for dim in dims(axis))

    def _settled(self, filled: Filled, found: Axes, most: int = _FEW) -> Filled:
        """The array with all places of open axes, and of others that have few."""
        for at, axis in enumerate(found):
            if self.open(axis):
                filled = expanded(filled, at, axis.size)
            elif filled.shape[at] != 1 and (axis.size > most or filled.shape[at] != axis.size):
                filled = merged(filled, [at], keep=True)
        return filled

    def _anything(self, found: Axes) -> Fact:
        return Fact(self._settled(np.ones((1,) * len(found), bool), found))

    def _constant(self, value: Any, found: Axes) -> Fact:
        if _extended(value):
            return self._anything(found)
        array = np.asarray(value)
        same = array.size and bool((array == array.flat[0]).all())
        return Fact(self._settled(array != 0, found), array.flat[0] if same else None)

    def _follow(self, program: Program, ins: Sequence[Fact], wanted: Sequence[bool]) -> list[Fact]:
        """Facts about the outputs of a program, of which some are wanted."""
        jaxpr = program.jaxpr
        known: dict[Any, Fact] = dict(zip(jaxpr.invars, ins, strict=True))
        for var, (value, found) in zip(jaxpr.constvars, program.consts, strict=True):
            known[var] = self._constant(value, found)

        def look_up(var: Any, found: Axes) -> Fact:
            if isinstance(var, core.Literal):
                return self._constant(var.val, found)
            return known[var] if var in known else self._anything(found)

        read = needed(jaxpr, wanted)
        for step in program.steps:
            used = [var in read for var in step.eqn.outvars]
            if any(used) or step.eqn.effects:
                pairs = zip(step.eqn.invars, step.ins, strict=True)
                outs = self._step(step, [look_up(*pair) for pair in pairs], used)
                for var, fact, found in zip(step.eqn.outvars, outs, step.outs, strict=True):
                    known[var] = Fact(self._settled(fact.filled, found), fact.value)
        return [look_up(*pair) for pair in zip(jaxpr.outvars, program.outs, strict=True)]

    def _step(self, step: Step, ins: list[Fact], used: list[bool]) -> list[Fact]:
        if step.bodies:
            return _NESTED.get(step.eqn.primitive.name, _call)(self, step, ins, used)
        filled = [fact.filled for fact in ins]
        name = step.eqn.primitive.name
        # A rule that a user has put in place of ours may leave other axes free.
        ours = rules.RULES.get(name) is _BUILT_IN.get(name)
        if not ours or not (name in RULES or _BUILT_IN.get(name) is rules.elementwise):
            self._opaque[id(step)] = step
            return [self._anything(found) for found in step.outs]
        self._sites[id(step)] = step, filled
        if name not in RULES:
            return _elementwise(step, ins)
        if name in ALONG:
            filled = [self._settled(*pair, most=1) for pair in zip(filled, step.ins, strict=True)]
        value = ins[0].value if name in _MOVES else None
        return [Fact(out, value) for out in RULES[name](step, filled)]


_BUILT_IN = dict(rules.RULES)

_MOVES = frozenset({
    "broadcast_in_dim", "broadcast_to", "reshape", "squeeze", "transpose", "slice", "rev", "copy",
    "name", "sharding_constraint", "layout_constraint", "reshard",
})  # fmt: skip
"""Primitives that hand on the numbers of their operand, and no others."""


def _extended(value: Any) -> bool:
    """Whether a value, or a type, is a random key's."""
    return jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)


# Programs within equations.


def _call(zeros: Zeros, step: Step, ins: list[Fact], used: list[bool]) -> list[Fact]:
    return zeros._follow(step.bodies[0], ins, used)


def _scan(zeros: Zeros, step: Step, ins: list[Fact], used: list[bool]) -> list[Fact]:
    start, carried = step.eqn.params["num_consts"], step.eqn.params["num_carry"]
    first, body = start + carried, step.bodies[0]
    scanned = [Fact(merged(fact.filled, [0]), fact.value) for fact in ins[first:]]
    state = [Fact(fact.filled) for fact in ins[start:first]]
    while True:
        wanted = [True] * carried + used[carried:]
        outs = zeros._follow(body, [*ins[:start], *state, *scanned], wanted)
        after = _either(state, outs[:carried])
        if _alike(after, state):
            return [*state, *(Fact(fact.filled[None], fact.value) for fact in outs[carried:])]
        state = after


def _while(zeros: Zeros, step: Step, ins: list[Fact], _: list[bool]) -> list[Fact]:
    of_cond = step.eqn.params["cond_nconsts"]
    first = of_cond + step.eqn.params["body_nconsts"]
    condition, body = step.bodies
    state = [Fact(fact.filled) for fact in ins[first:]]
    while True:
        outs = zeros._follow(body, [*ins[of_cond:first], *state], [True] * len(state))
        after = _either(state, outs)
        if _alike(after, state):
            zeros._follow(condition, [*ins[:of_cond], *state], [True])
            return state
        state = after


def _cond(zeros: Zeros, step: Step, ins: list[Fact], used: list[bool]) -> list[Fact]:
    first, *others = [zeros._follow(branch, ins[1:], used) for branch in step.bodies]
    for other in others:
        first = _either(first, other)
    return first


def _either(some: Sequence[Fact], others: Sequence[Fact]) -> list[Fact]:
    return [Fact(a.filled | b.filled) for a, b in zip(some, others, strict=True)]


def _alike(some: Sequence[Fact], others: Sequence[Fact]) -> bool:
    return all(np.array_equal(a.filled, b.filled) for a, b in zip(some, others, strict=True))


_NESTED = {"scan": _scan, "while": _while, "cond": _cond}


# Element by element.


def _elementwise(step: Step, ins: Sequence[Fact]) -> list[Fact]:
    """Where all operands are known, zero or constant, so is the result: the primitive says it."""
    loose = [fact.filled for fact in ins if fact.value is None]
    somewhere = np.zeros((1,) * len(step.outs[0]), bool)
    for each in loose:
        somewhere = somewhere | each
    partly = _PARTLY.get(step.eqn.primitive.name)
    results = None if somewhere.all() else _evaluated(step.eqn, [fact.value for fact in ins])
    found = []
    for i in range(len(step.outs)):
        filled, value = np.ones_like(somewhere), None
        if results is not None and results[i] == results[i]:  # A NaN is not.
            value = None if loose else results[i]
            filled = somewhere if results[i] == 0 else filled
        if partly:
            filled = filled & partly(step, [fact.filled for fact in ins])
        found.append(Fact(filled, value))
    return found


def _evaluated(eqn: core.JaxprEqn, values: Sequence[Any]) -> list[Any] | None:
    """What the primitive makes of these numbers, None standing for zero."""
    if eqn.primitive.name in _ZERO_HAS_A_SIGN or any(_extended(var.aval) for var in eqn.invars):
        return None
    numbers = [
        np.asarray(0 if value is None else value, dtype_of(var))
        for var, value in zip(eqn.invars, values, strict=True)
    ]
    # What a primitive does not do for single numbers, as constrain their sharding, is not known.
    try:
        outs = bind(eqn, *numbers)
    except Exception:
        return None
    return None if any(map(_extended, outs)) else [np.asarray(each)[()] for each in outs]


_ZERO_HAS_A_SIGN = ("atan2", "nextafter")


def _product(_: Step, ins: Sequence[Filled]) -> Filled:
    """Zero where one factor is."""
    return ins[0] & ins[1]


def _numerator(step: Step, ins: Sequence[Filled]) -> Filled:
    """Zero where the numerator is; of integers, zero by zero is something."""
    inexact = jnp.issubdtype(dtype_of(step.eqn.outvars[0]), jnp.inexact)
    return ins[0] if inexact else np.ones_like(ins[0])


def _selected(_: Step, ins: Sequence[Filled]) -> Filled:
    """The first case where the choice is zero."""
    which, first, *others = ins
    for other in others:
        first = first | (which & other)
    return first


_PARTLY: dict[str, Callable[[Step, Sequence[Filled]], Filled]] = {
    "mul": _product,
    "and": _product,
    "div": _numerator,
    "select_n": _selected,
}
