"""Where the arrays of a followed program are zero, whatever its inputs are.

Leaves and constants say where they are zero, and every equation hands that on by the rule of its
primitive. An array of bools says for each place of an array whether it may be other than zero,
``filled``. An axis along which nothing can be cut may have one place there, filled if any of its
own is. A product is zero where one factor is, which takes the other to be finite. Of a primitive
without a rule nothing is known: its results are filled.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from tsjax.jaxprs import CALLS, needed, sources
from tsjax.structure.axes import Axis, Dim, dims
from tsjax.structure.equations import Axes, Equation, Followed
from tsjax.structure.primitives import PRIMITIVES, UNKNOWN, Fact
from tsjax.structure.units import Filled, any_along, expanded

# Of axes that stay as they are, those with few places may be parts that are told apart, as queries,
# keys and values in one leaf.
_FEW = 64


class Zeros:
    """What is known of all arrays of a program.

    Attributes:
      sites: the equations that are followed and needed, and where their operands are filled.
      opaque: those of which nothing is known.
    """

    sites: list[tuple[Equation, list[Filled]]]
    opaque: list[Equation]

    def __init__(self, followed: Followed, leaves: Iterable[Any], cut: Iterable[Dim]) -> None:
        """Follows zeros through a program.

        Args:
          followed: the program of a function.
          leaves: its first inputs, as values; the others may be anything.
          cut: the dims whose units can go.
        """
        self._cut = frozenset(cut)
        self._sites: dict[int, tuple[Equation, list[Filled]]] = {}
        self._opaque: dict[int, Equation] = {}
        given = [*leaves]
        ins = [self._constant(x, at) for x, at in zip(given, followed.ins, strict=False)]
        ins = [Fact(fact.filled) for fact in ins] + [
            self._anything(at) for at in followed.ins[len(given) :]
        ]
        self.follow(followed, ins, [True] * len(followed.outs))
        self.sites, self.opaque = [*self._sites.values()], [*self._opaque.values()]

    def open(self, axis: Axis) -> bool:
        """Whether units can go along an axis."""
        return any(dim in self._cut for dim in dims(axis))

    def _settled(self, filled: Filled, found: Axes) -> Filled:
        """The array with all places of open axes, and of others that have few."""
        for at, axis in enumerate(found):
            if self.open(axis):
                filled = expanded(filled, at, axis.size)
            elif filled.shape[at] != 1 and (axis.size > _FEW or filled.shape[at] != axis.size):
                filled = any_along(filled, [at], keep=True)
        return filled

    def _anything(self, found: Axes) -> Fact:
        return Fact(self._settled(np.ones((1,) * len(found), bool), found))

    def _constant(self, value: Any, found: Axes) -> Fact:
        if _extended(value):
            return self._anything(found)
        array = np.asarray(value)
        same = array.size and bool((array == array.flat[0]).all())
        return Fact(self._settled(array != 0, found), array.flat[0] if same else None)

    def follow(self, followed: Followed, ins: Sequence[Fact], wanted: Sequence[bool]) -> list[Fact]:
        """Facts about the outputs of a program, of which some are wanted."""
        jaxpr = followed.jaxpr
        known: dict[Any, Fact] = dict(zip(jaxpr.invars, ins, strict=True))
        for var, (value, found) in zip(jaxpr.constvars, followed.consts, strict=True):
            known[var] = self._constant(value, found)

        def look_up(var: Any, found: Axes) -> Fact:
            if isinstance(var, core.Literal):
                return self._constant(var.val, found)
            return known[var] if var in known else self._anything(found)

        read = needed(jaxpr, wanted)
        for equation in followed.equations:
            eqn = equation.eqn
            used = [var in read for var in eqn.outvars]
            if any(used) or eqn.effects:
                pairs = zip(eqn.invars, equation.ins, strict=True)
                outs = self._results(equation, [look_up(*pair) for pair in pairs], used)
                for var, fact, found in zip(eqn.outvars, outs, equation.outs, strict=True):
                    known[var] = Fact(self._settled(fact.filled, found), fact.value)
        return [look_up(*pair) for pair in zip(jaxpr.outvars, followed.outs, strict=True)]

    def _results(self, equation: Equation, ins: list[Fact], used: list[bool]) -> list[Fact]:
        """Facts about the results of an equation."""
        if equation.bodies:
            return _NESTED[equation.name](self, equation, ins, used)
        zeros = PRIMITIVES.get(equation.name, UNKNOWN).zeros
        if zeros is None:
            self._opaque[id(equation)] = equation
            return [self._anything(found) for found in equation.outs]
        self._sites[id(equation)] = equation, [fact.filled for fact in ins]
        pairs = zip(zeros(equation, ins), sources(equation.eqn), strict=True)
        # What holds one number only holds it wherever its elements go.
        return [
            Fact(fact.filled, ins[taken[0]].value if len(taken) == 1 else fact.value)
            for fact, taken in pairs
        ]


def _extended(value: Any) -> bool:
    """Whether a value, or a type, is a random key's."""
    return jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)


# Programs within equations.


def _call(zeros: Zeros, equation: Equation, ins: list[Fact], used: list[bool]) -> list[Fact]:
    return zeros.follow(equation.bodies[0], ins, used)


def _scan(zeros: Zeros, equation: Equation, ins: list[Fact], used: list[bool]) -> list[Fact]:
    start, carried = equation.params["num_consts"], equation.params["num_carry"]
    first, body = start + carried, equation.bodies[0]
    scanned = [Fact(any_along(fact.filled, [0]), fact.value) for fact in ins[first:]]
    state = [Fact(fact.filled) for fact in ins[start:first]]
    while True:
        wanted = [True] * carried + used[carried:]
        outs = zeros.follow(body, [*ins[:start], *state, *scanned], wanted)
        after = _either(state, outs[:carried])
        if _alike(after, state):
            return [*state, *(Fact(fact.filled[None], fact.value) for fact in outs[carried:])]
        state = after


def _while(zeros: Zeros, equation: Equation, ins: list[Fact], _: list[bool]) -> list[Fact]:
    of_cond = equation.params["cond_nconsts"]
    first = of_cond + equation.params["body_nconsts"]
    condition, body = equation.bodies
    state = [Fact(fact.filled) for fact in ins[first:]]
    while True:
        outs = zeros.follow(body, [*ins[of_cond:first], *state], [True] * len(state))
        after = _either(state, outs)
        if _alike(after, state):
            zeros.follow(condition, [*ins[:of_cond], *state], [True])
            return state
        state = after


def _cond(zeros: Zeros, equation: Equation, ins: list[Fact], used: list[bool]) -> list[Fact]:
    first, *others = [zeros.follow(branch, ins[1:], used) for branch in equation.bodies]
    for other in others:
        first = _either(first, other)
    return first


def _either(some: Sequence[Fact], others: Sequence[Fact]) -> list[Fact]:
    return [Fact(a.filled | b.filled) for a, b in zip(some, others, strict=True)]


def _alike(some: Sequence[Fact], others: Sequence[Fact]) -> bool:
    return all(np.array_equal(a.filled, b.filled) for a, b in zip(some, others, strict=True))


_Nested = Callable[[Zeros, Equation, list[Fact], list[bool]], list[Fact]]

_NESTED: dict[str, _Nested] = {
    **dict.fromkeys(CALLS, _call),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
