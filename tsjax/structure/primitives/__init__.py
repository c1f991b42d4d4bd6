"""What is known of each primitive, a record each, by families; a user's rule makes one, too.

A new primitive is one entry in the file of its family.
"""

from collections.abc import Callable

from tsjax.structure.primitives.contracting import CONTRACTING
from tsjax.structure.primitives.drawing import DRAWING
from tsjax.structure.primitives.elementwise import ELEMENTWISE
from tsjax.structure.primitives.positional import POSITIONAL
from tsjax.structure.primitives.rearranging import REARRANGING
from tsjax.structure.primitives.record import AxesRule, Fact, Primitive, unknown

__all__ = ["PRIMITIVES", "UNKNOWN", "Fact", "Primitive", "rule"]

PRIMITIVES: dict[str, Primitive] = {
    **ELEMENTWISE,
    **REARRANGING,
    **CONTRACTING,
    **POSITIONAL,
    **DRAWING,
}
"""{name of a primitive: what is known of it}."""

UNKNOWN = Primitive(unknown)
"""What holds for any other primitive."""


def rule(*names: str) -> Callable[[AxesRule], AxesRule]:
    """Registers a rule for these primitives, in place of what was known of them, if anything.

    A rule gets an :class:`~tsjax.structure.Equation` and returns the axes of each result. It says
    which axes are the same, and freezes those that the primitive uses by position. A primitive
    without a rule freezes everything that it touches::

        @structure.rule("my_cumulative_max")
        def my_cumulative_max(eqn):
            eqn.freeze(0, eqn.params["axis"], "it runs along the axis")
            return [eqn.ins[0]]

    Args:
      *names: names of primitives.

    Returns:
      A decorator of a function that takes an :class:`~tsjax.structure.Equation` and returns the
      axes of each result, as a tuple per result.
    """

    def register(fn: AxesRule) -> AxesRule:
        PRIMITIVES.update(dict.fromkeys(names, Primitive(fn)))
        return fn

    return register
