"""Walking programs: what an equation holds, what needs it, and which operands its results are.

Pruning, structure and costs all walk the programs that JAX traces (jaxprs). What such a walk must
know of JAX itself stands here, once.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

# Arrays.


def shape_of(var: Any) -> tuple[int, ...]:
    """Shape of a jaxpr variable or literal; () where it is not an array (a token)."""
    return tuple(int(n) for n in getattr(var.aval, "shape", ()))


def size_of(var: Any) -> int:
    """Number of elements of a jaxpr variable or literal."""
    return math.prod(shape_of(var))


def bytes_of(var: Any) -> int:
    """Bytes of a jaxpr variable or literal; 0 where it is not an array of numbers."""
    dtype = getattr(var.aval, "dtype", None)
    return size_of(var) * int(getattr(dtype, "itemsize", 0))


# Programs within equations.

CALLS: dict[str, str] = {
    "jit": "jaxpr",
    "remat2": "jaxpr",
    "composite": "jaxpr",
    "call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}
"""Primitives that run one program once, on their own operands: {name: the parameter with it}."""

BODIES: dict[str, tuple[str, ...]] = {
    **{name: (parameter,) for name, parameter in CALLS.items()},
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
}
"""Primitives that run programs, loops and branches too: {name: the parameters with them}."""


def closed(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The program as one that brings its constants along."""
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def bodies(eqn: core.JaxprEqn) -> list[core.ClosedJaxpr]:
    """The programs that an equation runs, in the order of ``BODIES``; none for other primitives."""
    found: list[core.ClosedJaxpr] = []
    for parameter in BODIES.get(eqn.primitive.name, ()):
        value = eqn.params[parameter]
        found += map(closed, value if isinstance(value, tuple) else (value,))
    return found


# What a result depends on.


def needed(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[Any]:
    """The variables on which a wanted output or an effect depends.

    Args:
      jaxpr: a program.
      wanted: for each output, whether anything uses it.
    """
    found = {
        var
        for var, used in zip(jaxpr.outvars, wanted, strict=True)
        if used and not isinstance(var, core.Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in found for var in eqn.outvars):
            found.update(var for var in eqn.invars if not isinstance(var, core.Literal))
    return found


CASTS = ("convert_element_type", "reduce_precision")
"""Primitives that change the precision of their operand and nothing else."""

HANDED_ON = (
    *("copy", "name", "stop_gradient", "sharding_constraint", "layout_constraint", "reshard"),
    *("optimization_barrier", "device_put", "pvary"),
)
"""Primitives whose results are their operands, the first the first one and so on."""

REARRANGED: dict[str, slice] = {
    **dict.fromkeys(
        (
            *("reshape", "transpose", "broadcast_in_dim", "broadcast_to", "squeeze", "rev"),
            *("tile", "slice", "dynamic_slice", "split", "unstack"),
        ),
        slice(1),
    ),
    **dict.fromkeys(("concatenate", "stack"), slice(None)),
    "pad": slice(2),
    "select_n": slice(1, None),
}
"""Primitives that move, repeat, join or choose elements and change none.

{name: the operands that the elements of each result are taken from}.
"""


def sources(eqn: core.JaxprEqn) -> list[tuple[int, ...]]:
    """For each result the operands that its elements are taken from; none where it is computed."""
    name = eqn.primitive.name
    if name in HANDED_ON:
        return [(i,) for i in range(len(eqn.outvars))]
    taken = range(len(eqn.invars))[REARRANGED.get(name, slice(0))]
    return [tuple(taken)] * len(eqn.outvars)


# Evaluation.


def bind(eqn: core.JaxprEqn, *operands: Any, **changed: Any) -> list[Any]:
    """The results of an equation for these operands, some of its parameters changed."""
    with eqn.ctx.manager:
        params = eqn.primitive.get_bind_params({**eqn.params, **changed})
        out = eqn.primitive.bind(*operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
