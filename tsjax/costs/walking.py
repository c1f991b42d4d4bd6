"""Walks a jaxpr and adds up the work of its equations, through calls, loops and branches."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend import core

from tsjax.costs.origins import NOWHERE, Origin, follow
from tsjax.flop_rules import NO_WORK, RULES, turns
from tsjax.jaxprs import CALLS, bodies, bytes_of, closed, needed

Products = Counter[tuple[Origin, Origin]]
# The name stacks of an equation and of those that hold it, outermost first.
Stacks = tuple[str, ...]


@dataclass
class Tally:
    """Work added up so far.

    Attributes:
      macs: multiply-adds.
      comparisons: comparisons.
      by_primitive: {primitive name: flops}.
      by_scope: {scope: flops}.
      uncounted: {primitive name: times}.
      products: {origins of the two operands: flops of such dots and convolutions}.
      result_bytes: bytes of the results of all equations but views.
    """

    macs: int = 0
    comparisons: int = 0
    result_bytes: int = 0
    by_primitive: Counter[str] = field(default_factory=Counter)
    by_scope: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)
    products: Products = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        """Flops of all primitives."""
        return self.by_primitive.total()

    def add(self, other: "Tally", times: int = 1) -> None:
        """Adds another tally, so many times."""
        if not times:
            return
        for name in ("macs", "comparisons", "result_bytes"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("by_primitive", "by_scope", "uncounted", "products"):
            mine = getattr(self, name)
            for key, value in getattr(other, name).items():
                mine[key] += times * value


# What gives another view of its operand, which no compiler copies by itself.
VIEWS = frozenset({"reshape", "squeeze", "broadcast_in_dim", "stop_gradient"})


def walk(
    jaxpr: core.Jaxpr, origins: Sequence[Origin], stacks: Stacks, live: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """Tallies a jaxpr's equations.

    Args:
      jaxpr: what to walk.
      origins: of its inputs.
      stacks: of the equations that hold it.
      live: for each output, whether anything uses it.

    Returns:
      The tally and the origins of the outputs.
    """
    tally = Tally()
    read = needed(jaxpr, live)
    known: dict[Any, Origin] = dict(zip(jaxpr.invars, origins, strict=True))

    def origin_of(var: Any) -> Origin:
        return NOWHERE if isinstance(var, core.Literal) else known.get(var, NOWHERE)

    for eqn in jaxpr.eqns:
        used = [var in read for var in eqn.outvars]
        if not (any(used) or eqn.effects):
            continue
        ins = [origin_of(var) for var in eqn.invars]
        inner, outs = walk_equation(eqn, ins, stacks, used)
        tally.add(inner)
        known.update(zip(eqn.outvars, outs, strict=True))
    return tally, [origin_of(var) for var in jaxpr.outvars]


def walk_equation(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """Tallies one equation, with what is in it.

    Args:
      eqn: the equation.
      origins: of its operands.
      stacks: of the equations that hold it.
      used: for each of its results, whether anything uses it.

    Returns:
      The tally and the origins of the results.
    """
    name = eqn.primitive.name
    stacks = (*stacks, str(eqn.source_info.name_stack))
    if name in _NESTED:
        return _NESTED[name](eqn, origins, stacks, used)
    tally = Tally()
    rule = RULES.get(name)
    work = rule(eqn) if rule else None
    if work is None:
        tally.uncounted[name] += 1
        work = NO_WORK
    tally.macs, tally.comparisons = work.macs, work.comparisons
    if work.flops:
        tally.by_primitive[name] += work.flops
        tally.by_scope[_scope(stacks)] += work.flops
        if work.macs and any(origins):
            tally.products[origins[0], origins[1]] += work.flops
    if name not in VIEWS:
        results = zip(eqn.outvars, used, strict=True)
        tally.result_bytes = sum(bytes_of(var) for var, live in results if live)
    return tally, follow(eqn, origins)


# The name stack writes a scope inside a transformation as "transpose(jvp(encoder))/layer_0".
_TRANSFORMED = re.compile(r"^(?:(?:jvp|transpose|vmap)\()+")


def _scope(stacks: Stacks) -> str:
    """The scope that these name stacks make together, without transformations."""
    backward = any("transpose(" in stack for stack in stacks)
    scope: list[str] = []
    for stack in stacks:
        names = []
        for part in stack.split("/"):
            match = _TRANSFORMED.match(part)
            names.append(part[match.end() : -match.group().count("(")] if match else part)
        names = [name for name in names if name and name != "rematted_computation"]
        # The backward pass of a checkpointed block names its scope twice over, "a/b/a/b". A scope
        # of that name by right is merged with "a/b" there: the program doesn't tell them apart.
        half = len(names) // 2
        if backward and names[:half] == names[half:]:
            names = names[:half]
        scope += names
    return "/".join(scope)


_Nested = Callable[
    [core.JaxprEqn, Sequence[Origin], Stacks, Sequence[bool]], tuple[Tally, list[Origin]]
]


def _call(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """A program that runs once, on the equation's own operands."""
    (body,) = bodies(eqn)
    return walk(body.jaxpr, origins, stacks, used)


def _loop(
    body: core.ClosedJaxpr,
    consts: Sequence[Origin],
    carry: Sequence[Origin],
    rest: Sequence[Origin],
    stacks: Stacks,
    used_rest: Sequence[bool],
) -> tuple[Tally, list[Origin]]:
    """One turn of a loop; a carry has an origin only if every turn hands it on unchanged."""
    carry = list(carry)
    live = [True] * len(carry) + list(used_rest)
    while True:
        tally, outs = walk(body.jaxpr, [*consts, *carry, *rest], stacks, live)
        settled = [
            old if old == new else NOWHERE
            for old, new in zip(carry, outs[: len(carry)], strict=True)
        ]
        if settled == carry:
            return tally, [*settled, *outs[len(carry) :]]
        carry = settled


def _scan(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """`length` times the body."""
    first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    (body,) = bodies(eqn)
    used_ys = used[eqn.params["num_carry"] :]
    turn, outs = _loop(body, origins[:first], origins[first:last], origins[last:], stacks, used_ys)
    tally = Tally()
    tally.add(turn, int(eqn.params["length"]))
    return tally, outs


def _while(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """One turn of body and condition, since the program does not say how many there are."""
    del used
    n_cond = eqn.params["cond_nconsts"]
    n_consts = n_cond + eqn.params["body_nconsts"]
    cond, body = bodies(eqn)
    tally, outs = _loop(body, origins[n_cond:n_consts], origins[n_consts:], [], stacks, [])
    tally.add(walk(cond.jaxpr, [*origins[:n_cond], *outs], stacks, [True])[0])
    tally.uncounted["while (trip count unknown)"] += 1
    return tally, outs


def _cond(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """The branch with the most flops; what any branch leaves uncounted is said."""
    walks = [walk(branch.jaxpr, origins[1:], stacks, used) for branch in bodies(eqn)]
    tally = max((tally for tally, _ in walks), key=lambda tally: tally.flops)
    for other, _ in walks:
        tally.uncounted |= other.uncounted
    outs = [
        choices[0] if len(set(choices)) == 1 else NOWHERE
        for choices in zip(*(outs for _, outs in walks), strict=True)
    ]
    return tally, outs


def _reduce(
    eqn: core.JaxprEqn, origins: Sequence[Origin], stacks: Stacks, used: Sequence[bool]
) -> tuple[Tally, list[Origin]]:
    """A reduction by a function of its own: the function, as often as it is needed."""
    del origins
    body = closed(eqn.params["jaxpr"]).jaxpr
    turn, _ = walk(body, [NOWHERE] * len(body.invars), stacks, used)
    tally = Tally()
    tally.add(turn, turns(eqn))
    return tally, [NOWHERE] * len(eqn.outvars)


_NESTED: dict[str, _Nested] = {
    **dict.fromkeys(CALLS, _call),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "reduce": _reduce,
    "reduce_window": _reduce,
}
