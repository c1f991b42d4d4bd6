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
from tsjax.structure.equations import Axes
from tsjax.structure.programs import Program, Step, follow


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
class Flops:
    """The operations of a program; call it with the dims that have another size than their own.

    Attributes:
      fixed: operations that depend on no dim that can be cut.
      steps: (how often, equation) of those that do.
      choices: (how often, branches) of conditionals, of which the dearest branch counts.
    """

    fixed: int = 0
    steps: list[tuple[int, Step]] = field(default_factory=list)
    choices: list[tuple[int, list["Flops"]]] = field(default_factory=list)

    def __call__(self, sizes: Mapping[Dim, int]) -> int:
        """The operations with these sizes of dims, the others being as they are."""
        total = self.fixed + sum(times * _flops(step, sizes) for times, step in self.steps)
        for times, branches in self.choices:
            total += times * max(branch(sizes) for branch in branches)
        return total


def flops_of(program: Program) -> Flops:
    """The operations of a program on which its outputs depend."""
    found = Flops()
    _add(found, program, [True] * len(program.outs), 1)
    return found


def _add(found: Flops, program: Program, live: Sequence[bool], times: int) -> None:
    read = needed(program.jaxpr, live)
    for step in program.steps:
        used = [var in read for var in step.eqn.outvars]
        if not (any(used) or step.eqn.effects):
            continue
        p, name = step.eqn.params, step.eqn.primitive.name
        if name == "cond":
            branches = [Flops() for _ in step.bodies]
            for branch, body in zip(branches, step.bodies, strict=True):
                _add(branch, body, used, 1)
            found.choices.append((times, branches))
        elif name == "scan":
            carry = p["num_carry"]
            _add(found, step.bodies[0], [True] * carry + used[carry:], times * int(p["length"]))
        elif step.bodies:
            for body in step.bodies:
                # Of a `while` one turn counts, its condition and all that it carries.
                _add(found, body, [True] * len(body.outs) if name == "while" else used, times)
        elif all(axes.frozen(axis) or axis.size == 1 for each in step.ins for axis in each) and all(
            axes.frozen(axis) or axis.size == 1 for each in step.outs for axis in each
        ):
            found.fixed += times * _flops(step, {})
        else:
            found.steps.append((times, step))


def _flops(step: Step, sizes: Mapping[Dim, int]) -> int:
    def resized(variables: Sequence[Any], found: Sequence[Axes]) -> list[_Var]:
        return [
            _Var(_Aval(tuple(axes.size_in(axis, sizes) for axis in each), var.aval.dtype))
            for var, each in zip(variables, found, strict=True)
        ]

    eqn = step.eqn
    ins, outs = resized(eqn.invars, step.ins), resized(eqn.outvars, step.outs)
    sized: Any = _Resized(eqn.primitive, eqn.params, ins, outs)
    if eqn.primitive.name in ("reduce", "reduce_window"):
        # The function that it reduces by is one of numbers.
        turn = follow(closed(eqn.params["jaxpr"]), [()] * (2 * len(step.outs)))
        return turns(sized) * flops_of(turn)({})
    rule = RULES.get(eqn.primitive.name)
    work = rule(sized) if rule else None
    return work.flops if work else 0
