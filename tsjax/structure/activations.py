"""Importance by activations: how large a unit's values are where the next product reads them."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core

from tsjax.jaxprs import CALLS, bind
from tsjax.structure import axes
from tsjax.structure.axes import Dim, places
from tsjax.structure.equations import Axes, Followed
from tsjax.structure.groups import Group, Groups
from tsjax.structure.importance import Importance, check_scale, scaled
from tsjax.structure.primitives import PRIMITIVES, UNKNOWN
from tsjax.trees import PyTree

_Sites = dict[Dim, list[Array]]
"""{dim: arrays, one for each place in the program: mean |x| of each unit, over their mean}."""

# What a group is judged by, if it has any: (depends on the inputs, is contracted).
_TIERS = ((True, True), (True, False), (False, True), (False, False))


def activation(groups: Groups, *inputs: Any, scale: str = "mean") -> Importance:
    """The mean absolute value of what is contracted along a group's axes, on a batch.

    Wherever the function multiplies and sums over a group's axis, in a matrix product or
    a convolution, the absolute values are averaged over all other axes and divided by the mean of
    all units. The score is the mean of these over all such places. A group that is contracted
    nowhere, or only inside of loops, is judged by all values that have its axis. Where none of them
    depends on the inputs, as of Crossformer's routers, values that are made of weights alone count.

    Args:
      groups: all groups, from :func:`find_groups`.
      *inputs: a batch, arrays of the shapes that the groups were found with.
      scale: see :func:`norm`.

    Returns:
      The importance, for groups of ``groups``. It raises ValueError for groups of which no value
      has an axis.
    """
    check_scale(scale)

    def importance(some: Iterable[Group], params: PyTree) -> dict[str, np.ndarray]:
        found = _run(groups, params, inputs)

        def score(group: Group) -> np.ndarray:
            if not (sites := found.get(group.name)):
                raise ValueError(
                    f"no value has an axis of {group.name}: choose another importance, or ignore it"
                )
            return np.mean(sites, axis=0)

        return scaled(some, score, scale)

    return importance


def _run(groups: Groups, params: PyTree, inputs: Sequence[Any]) -> dict[str, list[np.ndarray]]:
    """What each group is judged by, for a batch."""
    given = [jnp.shape(x) for x in jax.tree.leaves(inputs)]
    expected = [tuple(axis.size for axis in found) for found in groups.followed.ins]
    if expected[len(jax.tree.leaves(params)) :] != given:
        raise ValueError(
            f"activations need a batch like that which the groups were found with, got {given}"
        )

    def run(leaves: list[Any], others: list[Any]) -> dict[str, list[Array]]:
        values = [(x, False) for x in leaves] + [(x, True) for x in others]
        sites: dict[tuple[bool, bool], _Sites] = {tier: {} for tier in _TIERS}
        _evaluate(groups.followed, values, sites)
        dims = {group.name: groups.dim(group.name) for group in groups.free}
        return {
            name: next((tier[dim] for tier in sites.values() if dim in tier), [])
            for name, dim in dims.items()
        }

    # It runs once: optimising it would take longer than it saves.
    options = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(run, compiler_options=options)
    found: dict[str, list[np.ndarray]] = jax.device_get(
        compiled(jax.tree.leaves(params), jax.tree.leaves(inputs))
    )
    return found


_Value = tuple[Any, bool]
"""An array, and whether it depends on the inputs."""


def _evaluate(
    followed: Followed, values: Sequence[_Value], sites: dict[tuple[bool, bool], _Sites]
) -> list[_Value]:
    """Runs a program, and notes the sizes of activations on the way."""
    jaxpr = followed.jaxpr
    known: dict[Any, _Value] = dict(zip(jaxpr.invars, values, strict=True))
    known.update(
        {v: (x, False) for v, (x, _) in zip(jaxpr.constvars, followed.consts, strict=True)}
    )

    def look_up(var: Any) -> _Value:
        return (var.val, False) if isinstance(var, core.Literal) else known[var]

    for equation in followed.equations:
        ins = [look_up(var) for var in equation.eqn.invars]
        active = any(flag for _, flag in ins)
        for operand, at in PRIMITIVES.get(equation.name, UNKNOWN).contracts(equation):
            array, flag = ins[operand]
            _note(sites[flag, True], array, equation.ins[operand], [at])
        if equation.bodies and equation.name in CALLS:
            outs = _evaluate(equation.bodies[0], ins, sites)
        else:
            outs = [(x, active) for x in bind(equation.eqn, *(x for x, _ in ins))]
        known.update(zip(equation.eqn.outvars, outs, strict=True))
        for (array, flag), found in zip(outs, equation.outs, strict=True):
            if jnp.issubdtype(array.dtype, jnp.inexact):
                _note(sites[flag, False], array, found, range(len(found)))
    return [look_up(var) for var in jaxpr.outvars]


def _note(sites: _Sites, array: Any, found: Axes, which: Iterable[int]) -> None:
    for at in which:
        if all(dim.frozen for dim in axes.dims(found[at])):
            continue
        others = tuple(axis for axis in range(array.ndim) if axis != at)
        each = jnp.mean(jnp.abs(array), axis=others)
        each = each / jnp.maximum(jnp.mean(each), jnp.finfo(each.dtype).tiny)
        for dim, units in places(found[at]):
            if dim.frozen is None and dim.size > 1:
                count = np.bincount(units[units >= 0], minlength=dim.size)
                total = jnp.zeros(dim.size, each.dtype).at[units[units >= 0]].add(each[units >= 0])
                sites.setdefault(dim, []).append(total / count)
