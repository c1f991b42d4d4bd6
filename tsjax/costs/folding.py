"""What of a program needs none of its arguments: a compiler does that beforehand."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from tsjax.costs.origins import NOWHERE
from tsjax.costs.walking import walk_equation
from tsjax.jaxprs import CALLS, bodies, needed


def constant_flops(closed: core.ClosedJaxpr) -> int:
    """FLOPs of a program that depend on arrays it closes over, and on literals, alone.

    Loops and branches count as a whole: they depend on an argument if any operand does.
    """
    jaxpr = closed.jaxpr
    found, _ = _constant(jaxpr, [True] * len(jaxpr.invars), [True] * len(jaxpr.outvars))
    return found


def _constant(
    jaxpr: core.Jaxpr, given: Sequence[bool], live: Sequence[bool]
) -> tuple[int, list[bool]]:
    """The FLOPs, and for each output whether it depends on an argument.

    Args:
      jaxpr: a program.
      given: for each of its inputs, whether it depends on an argument.
      live: for each output, whether anything uses it.
    """
    known = dict(zip(jaxpr.invars, given, strict=True))
    read = needed(jaxpr, live)

    def depends(var: Any) -> bool:
        return not isinstance(var, core.Literal) and known.get(var, False)

    flops = 0
    for eqn in jaxpr.eqns:
        ins, used = [depends(v) for v in eqn.invars], [v in read for v in eqn.outvars]
        outs = [any(ins) or bool(eqn.effects)] * len(eqn.outvars)
        if not any(used):
            pass
        elif not outs[0]:
            flops += walk_equation(eqn, [NOWHERE] * len(ins), (), used)[0].flops
        elif eqn.primitive.name in CALLS and not eqn.effects:
            (body,) = bodies(eqn)
            more, outs = _constant(body.jaxpr, ins, used)
            flops += more
        known.update(zip(eqn.outvars, outs, strict=True))
    return flops, [depends(var) for var in jaxpr.outvars]
