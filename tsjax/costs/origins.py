"""Follows leaves of params through operations that only rearrange them.

The origin of a value says which leaves it consists of, and how much of it each makes up: a
transposed kernel is all kernel, three kernels joined for one matrix product are a third each.
Arithmetic ends the trail: `x @ (w * s)` is no product with `w`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from jax.extend import core

from tsjax.jaxprs import CASTS, size_of, sources

Origin = frozenset[tuple[str, Fraction]]
"""{(leaf path, share of the value's elements that come from the leaf)}; empty: from no leaf."""

NOWHERE: Origin = frozenset()


def leaf(path: str) -> Origin:
    """The origin of the leaf itself."""
    return frozenset({(path, Fraction(1))})


def _mix(parts: Sequence[tuple[Origin, Fraction]]) -> Origin:
    """The origin of a value put together from parts that take these shares of its elements."""
    shares: dict[str, Fraction] = {}
    for origin, weight in parts:
        for path, share in origin:
            shares[path] = shares.get(path, Fraction(0)) + share * weight
    return frozenset(shares.items())


def _first(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del eqn
    return [origins[0]]


def _complex(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del eqn
    return [_mix([(origin, Fraction(1, 2)) for origin in origins])]


def _select(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    """`jnp.where(mask, w, 0)` is still `w`; a choice between two leaves is neither."""
    del eqn
    cases = {origin for origin in origins[1:] if origin}
    return [cases.pop() if len(cases) == 1 else NOWHERE]


# What follows leaves in another way than `sources` does. `gather` follows none: a row looked up in
# an embedding is an activation, and which rows is data.
_RULES: dict[str, Callable[[core.JaxprEqn, Sequence[Origin]], list[Origin]]] = {
    **dict.fromkeys((*CASTS, "real", "imag", "conj"), _first),
    "complex": _complex,
    "select_n": _select,
}


def follow(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    """The origins of an equation's outputs, given those of its inputs."""
    if not any(origins):
        return [NOWHERE] * len(eqn.outvars)
    if rule := _RULES.get(eqn.primitive.name):
        return rule(eqn, origins)
    return [
        _mix([(origins[i], _share(eqn.invars[i], out, taken)) for i in taken])
        for out, taken in zip(eqn.outvars, sources(eqn), strict=True)
    ]


def _share(operand: Any, result: Any, taken: Sequence[int]) -> Fraction:
    """How much of a result's elements comes from one of the operands that they are taken from."""
    if len(taken) == 1:
        return Fraction(1)
    return min(Fraction(1), Fraction(size_of(operand), max(1, size_of(result))))
