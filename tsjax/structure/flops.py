"""Floating-point operations of a followed program, as a function of its dims' sizes.

The count is that of ``tsjax.costs.count``, by the same rules (:mod:`tsjax.flop_rules`), without
tracing again for every size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsjax.flop_rules import RULES, turns
from tsjax.jaxprs import closed, needed
from tsjax.structure import axes
from tsjax.structure.axes import Dim
from tsjax.structure.equations import Axes, Equation, Followed
from tsjax.structure.following import follow


@dataclass(frozen=True)
class _Aval:
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class _Var:
    aval: _Aval


@dataclass(frozen=True)
class _Resized:
    """What the rules of :mod:`tsjax.flop_rules` read of an equation."""

    primitive: Any
    params: Mapping[str, Any]
    invars: Sequence[_Var]
    outvars: Sequence[_Var]


@dataclass
class FlopCount:
    """The operations of a program; call it with the dims that have another size than their own.

    Attributes:
      fixed: operations that depend on no dim that can be cut.
      equations: (how often, equation) of those that do.
      choices: (how often, branches) of conditionals, of which the dearest branch counts.
    """

    fixed: int = 0
    equations: list[tuple[int, Equation]] = field(default_factory=list)
    choices: list[tuple[int, list["FlopCount"]]] = field(default_factory=list)

    def __call__(self, sizes: Mapping[Dim, int]) -> int:
        """The operations with these sizes of dims, the others being as they are."""
        total = self.fixed + sum(times * _flops(each, sizes) for times, each in self.equations)
        for times, branches in self.choices:
            total += times * max(branch(sizes) for branch in branches)
        return total


def count_flops(followed: Followed) -> FlopCount:
    """The operations of a program on which its outputs depend."""
    count = FlopCount()
    _add(count, followed, [True] * len(followed.outs), 1)
    return count


def _add(count: FlopCount, followed: Followed, wanted: Sequence[bool], times: int) -> None:
    read = needed(followed.jaxpr, wanted)
    for equation in followed.equations:
        used = [var in read for var in equation.eqn.outvars]
        if not (any(used) or equation.eqn.effects):
            continue
        p, name = equation.params, equation.name
        if name == "cond":
            branches = [FlopCount() for _ in equation.bodies]
            for branch, body in zip(branches, equation.bodies, strict=True):
                _add(branch, body, used, 1)
            count.choices.append((times, branches))
        elif name == "scan":
            carry = p["num_carry"]
            turn_used = [True] * carry + used[carry:]
            _add(count, equation.bodies[0], turn_used, times * int(p["length"]))
        elif equation.bodies:
            for body in equation.bodies:
                # Of a `while` one turn counts, its condition and all that it carries.
                _add(count, body, [True] * len(body.outs) if name == "while" else used, times)
        elif all(
            axes.frozen(axis) or axis.size == 1
            for found in (*equation.ins, *equation.outs)
            for axis in found
        ):
            count.fixed += times * _flops(equation, {})
        else:
            count.equations.append((times, equation))


def _flops(equation: Equation, sizes: Mapping[Dim, int]) -> int:
    def resized(variables: Sequence[Any], found: Sequence[Axes]) -> list[_Var]:
        return [
            _Var(_Aval(tuple(axes.size_in(axis, sizes) for axis in each), var.aval.dtype))
            for var, each in zip(variables, found, strict=True)
        ]

    eqn = equation.eqn
    ins, outs = resized(eqn.invars, equation.ins), resized(eqn.outvars, equation.outs)
    sized: Any = _Resized(eqn.primitive, eqn.params, ins, outs)
    if equation.name in ("reduce", "reduce_window"):
        # The function that it reduces by is one of numbers.
        turn = follow(closed(eqn.params["jaxpr"]), [()] * (2 * len(equation.outs)))
        return turns(sized) * count_flops(turn)({})
    rule = RULES.get(equation.name)
    work = rule(sized) if rule else None
    return work.flops if work else 0
