"""One equation of a program, as the rules of the analysis see it."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.extend import core

from tsjax.jaxprs import shape_of
from tsjax.structure import axes
from tsjax.structure.axes import Axis, Dim

Axes = tuple[Axis, ...]
"""The axes of one array, an axis of one place being ``ONE``."""


@dataclass(frozen=True)
class Reason:
    """Why an axis cannot be cut.

    Attributes:
      primitive: name of the primitive that needs the axis as it is; or ``input``, ``output`` or
        ``constant`` for what the axis is tied to; ``unread`` where nothing reads it; or ``size``
        where cutting it does not lead to the same program.
      operand: which operand of the primitive, or which input, output or constant.
      axis: which of its axes.
      line: the user's source line, ``file:line (function)``, or "" where there is none.
      detail: what the primitive does with it.
    """

    primitive: str
    operand: int | None = None
    axis: int | None = None
    line: str = ""
    detail: str = ""

    @property
    def place(self) -> str:
        """What needs the axis, without what it does with it."""
        text = self.primitive
        if self.operand is not None:
            text += f" {self.operand}" if self.primitive in _TIES else f", operand {self.operand}"
        if self.axis is not None:
            text += f", axis {self.axis}"
        return text

    def __str__(self) -> str:
        text = self.place + (f": {self.detail}" if self.detail else "")
        return text + (f", at {self.line}" if self.line else "")


_TIES = ("input", "output", "constant")
_LIBRARIES = ("jax", "jaxlib", "flax", "haiku", "equinox", "optax")


def source_line(eqn: core.JaxprEqn) -> str:
    """The innermost line of code that made an equation and is not a library's own."""
    traceback = eqn.source_info.traceback
    frames: Any = traceback.frames if traceback else ()
    return line_of([(f.file_name, f.line_num, f.function_name) for f in frames])


def line_of(frames: Sequence[tuple[str, int, str]]) -> str:
    """The first of these frames, innermost first, that is not in a library."""
    modules = (sys.modules.get(name) for name in _LIBRARIES)
    homes = tuple(str(Path(m.__file__).parent) + os.sep for m in modules if m and m.__file__)
    for file, line, function in frames:
        if not file.startswith(homes):
            inside = os.path.relpath(file)
            return f"{file if inside.startswith('..') else inside}:{line} ({function})"
    return ""


class Equation:
    """An equation with the axes of its operands and results; rules say through it how they relate.

    Attributes:
      eqn: JAX's equation.
      params: the primitive's parameters.
      ins: the axes of each operand.
      out_shapes: the shape of each result.
      outs: the axes of each result, once its rule has said them.
      bodies: the programs in it, followed for this equation.
      sized: parameters that follow the sizes of axes, see :meth:`expect`.
      outer: the equation that holds the program that this one is in, if any.
    """

    def __init__(
        self, eqn: core.JaxprEqn, ins: Sequence[Axes], outer: "Equation | None" = None
    ) -> None:
        self.eqn = eqn
        self.outer = outer
        self.params = eqn.params
        self.ins = list(ins)
        self.out_shapes = [shape_of(var) for var in eqn.outvars]
        self.outs: list[Axes] = []
        self.bodies: list[Followed] = []
        self.sized: dict[str, Any] = {}
        self._line: str | None = None

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.eqn.primitive.name

    @property
    def dtype(self) -> Any:
        """The dtype of its first result."""
        aval: Any = self.eqn.outvars[0].aval
        return aval.dtype

    def reason(self, operand: int | None = None, axis: int | None = None, why: str = "") -> Reason:
        """A reason that names this equation."""
        return Reason(self.name, operand, axis, self.line, why)

    @property
    def line(self) -> str:
        """The source line.

        What JAX has traced before, as many of its own functions, knows none: then that of the
        equation which holds it.
        """
        if self._line is None:
            self._line = source_line(self.eqn) or (self.outer.line if self.outer else "")
        return self._line

    @property
    def gone(self) -> set[Dim]:
        """The dims of its operands that no result has: it sums over them, or the like."""
        before, after = (
            {dim for found in arrays for axis in found for dim in axes.dims(axis)}
            for arrays in (self.ins, self.outs)
        )
        return before - after

    def same(self, a: Axis, b: Axis) -> None:
        """States that two axes are one and the same: cutting one cuts the other."""
        if a is not b:
            axes.unify(a, b, _Late(self, "axes meet that are made up differently"))

    def new(self, size: int) -> Axis:
        """An axis of the result that no operand has, and that may have any size."""
        return axes.ONE if size == 1 else Dim(size)

    def fixed(self, size: int, why: str) -> Axis:
        """An axis of the result whose places each mean something: it is frozen."""
        return axes.ONE if size == 1 else Dim(size, _Late(self, why))

    def freeze(self, operand: int, axis: int, why: str) -> None:
        """States that this axis of an operand must stay as it is."""
        axes.freeze(self.ins[operand][axis], _Late(self, why, operand, axis))

    def joined(self, parts: Sequence[Axis]) -> Axis:
        """The axis that consists of these, end to end."""
        return axes.total(parts)

    def parts(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """The parts of these sizes that an axis consists of."""
        return axes.split(axis, sizes, _Late(self, "its parts are told apart"))

    def reshaped(self, operand: Sequence[Axis], shape: Sequence[int]) -> Axes:
        """The axes of a reshaped array: products of factors of the operand's axes."""
        why = _Late(self, "the new axes mix the places of the old ones")
        if 0 in shape:
            return tuple(map(self.new, shape))
        whole = axes.product(operand)
        rest = list(whole.factors if isinstance(whole, axes.Product) else [whole])
        found, waiting = list[Axis](), list(shape)
        while waiting:
            # As few old and new axes as have the same places: what cannot be followed stays there.
            new, size = [waiting.pop(0)], 1
            old = list[Axis]()
            while size != math.prod(new):
                if size < math.prod(new):
                    old.append(rest.pop(0))
                    size *= old[-1].size
                else:
                    new.append(waiting.pop(0))
            segment = axes.product(old)
            for n in new:
                head, segment = (axes.ONE, segment) if n == 1 else axes.factor(segment, n, why)
                found.append(head)
        return tuple(found)

    def expect(self, name: str, value: Any) -> None:
        """States what a parameter of the primitive must be when axes have other sizes.

        Args:
          name: of the parameter. Those without a statement must stay as they are.
          value: an axis, which stands for its size; a sequence of axes and numbers; or anything
            else, which stands for itself.
        """
        self.sized[name] = value


@dataclass
class Followed:
    """A program of which the axes have been followed.

    Attributes:
      jaxpr: the program.
      consts: values and axes of its constants.
      ins: axes of its inputs.
      outs: axes of its outputs.
      equations: its equations.
    """

    jaxpr: core.Jaxpr
    consts: list[tuple[Any, Axes]]
    ins: list[Axes]
    outs: list[Axes]
    equations: list[Equation]


class _Late:
    """A reason that is looked up only if it is asked for: reading source lines takes time."""

    __slots__ = ("axis", "equation", "operand", "why")

    def __init__(
        self, equation: Equation, why: str, operand: int | None = None, axis: int | None = None
    ) -> None:
        self.equation, self.why, self.operand, self.axis = equation, why, operand, axis

    def reason(self) -> Reason:
        return self.equation.reason(self.operand, self.axis, self.why)


def reason_of(frozen: Any) -> Reason | None:
    """The reason why a dim is frozen, if it is."""
    return frozen.reason() if isinstance(frozen, _Late) else frozen
