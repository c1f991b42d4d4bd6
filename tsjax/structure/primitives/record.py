"""What the analysis knows of one primitive: the record, and what its rules work with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsjax.structure.axes import Axis
from tsjax.structure.equations import Axes, Equation
from tsjax.structure.units import Filled, Units


@dataclass(frozen=True)
class Fact:
    """What is known of an array.

    Attributes:
      filled: where it may be other than zero.
      value: the number that it is everywhere, None where there is none.
    """

    filled: Filled
    value: Any = None


AxesRule = Callable[[Equation], list[Axes]]
"""Says which axes of the operands are the same and which must stay; returns those of each result.
"""

ZerosRule = Callable[[Equation, Sequence[Fact]], list[Fact]]
"""From what is known of the operands, what is known of each result."""

Reads = Callable[[Units, Equation, Sequence[Filled]], bool]
"""Keeps the units that an equation uses along axes which its results have not, given where its
operands are filled; returns whether one of them did not stay before."""


def reads_nothing(units: Units, equation: Equation, filled: Sequence[Filled]) -> bool:
    """What is gone was not used."""
    del units, equation, filled
    return False


def no_products(equation: Equation) -> list[tuple[int, int]]:
    """For a primitive that multiplies and sums over nothing."""
    del equation
    return []


@dataclass(frozen=True)
class Primitive:
    """What the analysis knows of a primitive.

    A place of a result must be made of the same place of the operands, as far as axes can be cut
    that it has not frozen, and of any places of the axes which the results have not.

    Attributes:
      axes: how the axes of its operands and results relate.
      zeros: where its results are zero. None where nothing is known, as of a primitive of which a
        user has said no more than the axes: all units that it meets stay then.
      reads: which units it uses along axes that the results have not; None where it uses them all.
      contracts: (operand, axis) of what it multiplies and sums over.
    """

    axes: AxesRule
    zeros: ZerosRule | None = None
    reads: Reads | None = None
    contracts: Callable[[Equation], list[tuple[int, int]]] = no_products


def by_place(rule: Callable[[Equation, Sequence[Filled]], list[Filled]]) -> ZerosRule:
    """The rule of a primitive of which all that is known is where its results may be filled."""

    def zeros(equation: Equation, ins: Sequence[Fact]) -> list[Fact]:
        return [Fact(filled) for filled in rule(equation, [fact.filled for fact in ins])]

    return zeros


@by_place
def anything(equation: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """Zeros may give anything."""
    del ins
    return [np.ones((1,) * len(found), bool) for found in equation.outs]


@by_place
def unchanged(equation: Equation, ins: Sequence[Filled]) -> list[Filled]:
    """The first result is zero where the first operand is, and so on."""
    del equation
    return list(ins)


def shared(equation: Equation, shape: Sequence[int], operands: Sequence[Axes]) -> Axes:
    """The axes of arrays that are combined element by element; axes of one place are repeated."""
    found: list[Axis] = []
    for at, size in enumerate(shape):
        candidates = [axes[at] for axes in operands if axes and axes[at].size == size]
        for other in candidates[1:]:
            equation.same(candidates[0], other)
        found.append(candidates[0] if candidates else equation.new(size))
    return tuple(found)


def without(axes: Axes, gone: Sequence[int]) -> Axes:
    """All axes but these."""
    return tuple(axis for at, axis in enumerate(axes) if at not in gone)


def unknown(equation: Equation) -> list[Axes]:
    """What holds for a primitive that is not known: all that it touches is frozen."""
    why = "nothing is known of this primitive, see structure.rule"
    for operand, found in enumerate(equation.ins):
        for axis in range(len(found)):
            equation.freeze(operand, axis, why)
    return [tuple(equation.fixed(size, why) for size in shape) for shape in equation.out_shapes]
