"""Follows leaves of params through operations that only rearrange them.

The origin of a value says which leaves it consists of, and how much of it each makes up: a
transposed kernel is all kernel, three kernels joined for one matrix product are a third each.
Arithmetic ends the trail: `x @ (w * s)` is no product with `w`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

from jax.extend import core

from tsjax.work import size_of

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
    return [origins[0]] * len(eqn.outvars)


def _each(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del eqn
    return list(origins)


def _join(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    total = max(1, size_of(eqn.outvars[0]))
    sizes = [Fraction(size_of(var), total) for var in eqn.invars]
    return [_mix(list(zip(origins, sizes, strict=True)))]


def _pad(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    share = Fraction(size_of(eqn.invars[0]), max(1, size_of(eqn.outvars[0])))
    return [_mix([(origins[0], min(Fraction(1), share))])]


def _complex(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del eqn
    return [_mix([(origin, Fraction(1, 2)) for origin in origins])]


def _select(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    """`jnp.where(mask, w, 0)` is still `w`; a choice between two leaves is neither."""
    del eqn
    cases = {origin for origin in origins[1:] if origin}
    return [cases.pop() if len(cases) == 1 else NOWHERE]


# `gather` isn't here: a row looked up in an embedding is an activation, and which rows is data.
_FOLLOW: dict[str, Callable[[core.JaxprEqn, Sequence[Origin]], list[Origin]]] = {
    **dict.fromkeys(
        (
            *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "rev", "tile"),
            *("slice", "dynamic_slice", "split", "unstack", "real", "imag", "conj", "name"),
            *("convert_element_type", "reduce_precision", "copy", "copy_p", "stop_gradient"),
            *("sharding_constraint", "layout_constraint", "reshard"),
        ),
        _first,
    ),
    **dict.fromkeys(("optimization_barrier", "device_put", "pvary"), _each),
    **dict.fromkeys(("concatenate", "stack"), _join),
    "pad": _pad,
    "complex": _complex,
    "select_n": _select,
}


def follow(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    """The origins of an equation's outputs, given those of its inputs."""
    rule = _FOLLOW.get(eqn.primitive.name)
    if rule is None or not any(origins):
        return [NOWHERE] * len(eqn.outvars)
    return rule(eqn, origins)
